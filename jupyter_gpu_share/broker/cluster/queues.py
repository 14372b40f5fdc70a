"""Which queue of KAI or of Kueue a user's kernels wait in. Pure.

::

    c.Broker.queues = [
        {"group": "course-*", "queue": "courses"},
        {"user": "ann", "sizes": ["1", "2x1"], "queue": "large"},
        {"user": "*", "queue": "user-{user}"},
    ]
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ..._text import one_line
from ...errors import GpuShareError, SizeError
from ...size import Size

__all__ = ["QueueRule", "QueuesError", "escaped", "queue_for", "read_queues"]

_FIELDS = ("user", "group", "sizes", "queue")
_MOST = 1000
#: The most characters of the value of a label.
_LONGEST = 63
_PLAIN = re.compile(r"[a-z0-9]")
_FIELD = re.compile(r"\{(\w*)\}")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", re.ASCII)


class QueuesError(GpuShareError, ValueError):
    """An entry cannot be understood; the message names it and says what can be written."""


@dataclass(frozen=True)
class QueueRule:
    """One entry.

    Attributes
    ----------
    scope: ``user`` or ``group``.
    pattern: of names, with ``*`` and ``?``.
    queue: its name, in which ``{user}`` and ``{group}`` stand for names.
    sizes: for which it holds; None: all.
    """

    scope: str
    pattern: str
    queue: str
    sizes: frozenset[Size] | None = None


def read_queues(entries: Any) -> tuple[QueueRule, ...]:
    """Check and read the entries.

    Raises
    ------
    QueuesError
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str) or len(entries) > _MOST:
        raise QueuesError(f"Queues are a list of at most {_MOST} entries.")
    return tuple(_read(number, entry) for number, entry in enumerate(entries, 1))


def _read(number: int, entry: Any) -> QueueRule:
    def wrong(why: str) -> QueuesError:
        return QueuesError(one_line(f"Entry {number} of c.Broker.queues: {why}."))

    if not isinstance(entry, Mapping):
        raise wrong('it is not written like {"group": "course", "queue": "courses"}')
    if unknown := [name for name in entry if name not in _FIELDS]:
        raise wrong(f"there is no field {unknown[0]!r}; the fields are {', '.join(_FIELDS)}")
    scopes = [name for name in ("user", "group") if name in entry]
    if len(scopes) != 1:
        raise wrong("it names either a user or a group")
    pattern, queue = entry[scopes[0]], entry.get("queue")
    if not isinstance(pattern, str) or not pattern or not isinstance(queue, str) or not queue:
        raise wrong("the user or group and the queue are texts that are not empty")
    fields = _FIELD.findall(queue)
    if not set(fields) <= {"user", "group"} or len(fields) != len(set(fields)):
        raise wrong("a queue's name has {user} and {group} in it at most once, and nothing else")
    if "group" in fields and scopes == ["user"]:
        raise wrong("{group} stands for a group, and the entry names a user")
    if len(fields) == 2 and "--" not in re.split(r"\{\w*\}", queue)[1]:
        raise wrong("write -- between {group} and {user}, or two users might get one queue")
    trial = _FIELD.sub("a", queue)
    if not _NAME.fullmatch(trial) or len(_FIELD.sub("x" * 20, queue)) > _LONGEST:
        raise wrong(f"{queue!r} is no name of a queue: a-z, 0-9, - and ., and not too long")
    return QueueRule(scopes[0], pattern, queue, _sizes(entry.get("sizes"), wrong))


def _sizes(told: Any, wrong: Any) -> frozenset[Size] | None:
    if told is None:
        return None
    if not isinstance(told, Sequence) or isinstance(told, str):
        raise wrong("its sizes are a list")
    try:
        return frozenset(Size.parse(str(text)) for text in told)
    except SizeError as error:
        raise wrong(str(error).rstrip(".")) from error


def queue_for(rules: Sequence[QueueRule], user: str, groups: frozenset[str], size: Size) -> str:
    """The queue of a user's kernel of a size: that of the first entry that fits; empty: none.

    Of several groups that fit an entry the first by name counts.
    """
    for rule in rules:
        if rule.sizes is not None and size not in rule.sizes:
            continue
        names = [user] if rule.scope == "user" else sorted(groups)
        for name in names:
            if fnmatchcase(name, rule.pattern):
                group = name if rule.scope == "group" else ""
                return _named(rule.queue, {"user": user, "group": group})
    return ""


def _named(queue: str, names: Mapping[str, str]) -> str:
    full = _FIELD.sub(lambda found: escaped(names[found[1]]), queue)
    if len(full) > _LONGEST:
        full = _FIELD.sub(lambda found: _hashed(names[found[1]]), queue)
    return full


def escaped(name: str) -> str:
    """A name as part of a DNS label, such that no two names become the same.

    Letters a to z and digits stay; each other byte becomes ``-`` and two hexadecimal digits, so
    that ``--`` never comes of a name. A label cannot begin with ``-``: such a name becomes a hash.
    """
    text = "".join(
        chr(byte) if _PLAIN.match(chr(byte)) else f"-{byte:02x}" for byte in _bytes(name)
    )
    return text if text and not text.startswith("-") else _hashed(name)


def _hashed(name: str) -> str:
    # After a - no name has an x, as that is no hexadecimal digit.
    return f"h-x{hashlib.sha256(_bytes(name)).hexdigest()[:16]}"


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
