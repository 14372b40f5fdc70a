"""What a server learns of one of its kernels, whole every time, and what it may ask. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..._text import one_line
from ...allocations import Allocation, QueuePosition, Share, State
from ...engines.base import Exit, Removal
from ...engines.kubernetes._objects import KernelPlan, Keys
from ...errors import KernelStartError, NoGpuError, SizeError
from ...sentences import told, words_of
from ...size import Size
from .refusals import Malformed

__all__ = [
    "Failure",
    "Phase",
    "View",
    "allocation_of",
    "attempt_of",
    "failure_of",
    "for_caller",
    "kernel_id_of",
    "number_in",
    "path_of",
    "plan_of",
    "row_of",
    "same",
    "size_of",
]

_HEX = re.compile(r"[0-9a-f]{32}")
_KERNEL_ID = re.compile(r"[\w.:-]{1,200}", re.ASCII)
_NAME = re.compile(r"[A-Za-z][\w.+#-]{0,49}", re.ASCII)
_SCHEME = re.compile(r"hmac-[a-z0-9_]{2,20}", re.ASCII)
#: Without a key whoever reaches the pod could have it run anything.
_KEY = re.compile(r"[\x21-\x7e]{16,200}", re.ASCII)
_CURVE = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}", re.ASCII)
_SEED = re.compile(r"(random|\d{1,10})?", re.ASCII)
_LONGEST_SIZE, _LONGEST_NAME = 100, 200
#: Bytes: each row has one, and each stream of events may hold all rows of a server.
_LONGEST_PATH = 1024
_MOST_FLAGS, _LONGEST_FLAG = 20, 200
#: What is written on a pod is to be read again, whole.
_MOST_STARTS = 10**15


class Phase(str, Enum):
    """Where a kernel stands, as its server is told."""

    WAITING = "waiting"  #: it has no share yet
    STARTING = "starting"  #: its share is known; its container, or its agent, is awaited
    READY = "ready"  #: its container runs, and it has its share
    RELEASED = "released"  #: it has given its share back, and lives
    TAKING = "taking"  #: it waits for its share again
    ENDED = "ended"  #: its pod, or its share, is gone
    FAILED = "failed"  #: it could not start

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it."""
        return self in (Phase.ENDED, Phase.FAILED)


_STATES = {
    Phase.WAITING: State.QUEUED,
    Phase.STARTING: State.STARTING,
    Phase.READY: State.ACTIVE,
    Phase.RELEASED: State.RELEASED,
    Phase.TAKING: State.WAKING,
    Phase.ENDED: State.ENDED,
    Phase.FAILED: State.FAILED,
}


@dataclass(frozen=True)
class Failure:
    """Why a start, or taking the share again, came to nothing.

    Attributes
    ----------
    kind: ``no-gpu``, ``start``, ``engine`` or ``size``; ``keys`` where a restart of the broker
        came in between, and the same start has to be asked for anew, with new keys.
    detail: a sentence for the user.
    """

    kind: str
    detail: str


@dataclass(frozen=True)
class View:
    """All that is told of one kernel.

    Attributes
    ----------
    attempt: which start of it this is.
    name: of its pod.
    note: what its size was rounded to; empty where it is exact.
    address: of its pod; None before its container runs.
    instance: the process of its server that has it.
    alive: whether that process is there.
    lost_work: what was lost by its end, a sentence; empty for nothing.
    """

    kernel_id: str
    attempt: str
    name: str
    size: Size
    kernel_name: str
    path: str | None
    phase: Phase
    instance: str
    alive: bool
    reason: str = ""
    queue: QueuePosition | None = None
    share: Share | None = None
    note: str = ""
    address: str | None = None
    detachable: bool = False
    unanswered: bool = False
    lost: bool = False
    removal: Removal | None = None
    ended: Exit | None = None
    failed: Failure | None = None
    lost_work: str = ""


def row_of(view: View) -> dict[str, Any]:
    """The row, with ``alive`` in it: :func:`for_caller` makes of it what that caller is told."""
    queue, removal, ended, failed = view.queue, view.removal, view.ended, view.failed
    return {
        "kernel_id": view.kernel_id,
        "attempt": view.attempt,
        "name": view.name,
        "size": str(view.size),
        "kernel_name": view.kernel_name,
        "path": view.path,
        "state": view.phase.value,
        **told("reason", view.reason),
        "queue": None if queue is None else {"position": queue.position, "of": queue.of},
        "share": None if view.share is None else view.share.to_json(),
        **told("note", view.note),
        "address": view.address,
        "detachable": view.detachable,
        "unanswered": view.unanswered,
        "lost": view.lost,
        # Whole seconds: each look would be another row.
        "removal": None
        if removal is None
        else {**told("reason", removal.reason), "seconds": round(removal.seconds)},
        "ended": None if ended is None else {"code": ended.code, **told("reason", ended.reason)},
        "failed": None
        if failed is None
        else {"kind": failed.kind, **told("detail", failed.detail)},
        "instance": view.instance,
        "alive": view.alive,
        **told("lost_work", view.lost_work),
    }


def for_caller(row: Mapping[str, Any], instance: str) -> dict[str, Any]:
    """A row as the process ``instance`` of the server is told it; empty: of no known process."""
    found = dict(row)
    found["held_by_other"] = found.pop("alive") and found["instance"] != instance
    return found


def same(row: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    """Whether a row tells nothing new. That a removal comes nearer is nothing new.

    Nor are the values of a sentence, where its words stay the same.
    """
    if other is None or bool(row["removal"]) != bool(other["removal"]):
        return False
    return _in_words({**row, "removal": None}) == _in_words({**other, "removal": None})


def _in_words(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _in_words(value) if isinstance(value, Mapping) else value
        for name, value in data.items()
        if not name.endswith("_sentences")
    }


def allocation_of(view: View, user: str, backend: str | None, style: str | None) -> Allocation:
    """The kernel as it is shown beside kernels of everywhere else."""
    return Allocation(
        kernel_id=view.kernel_id,
        kernel_name=view.kernel_name,
        path=view.path,
        user=user,
        size=str(view.size),
        state=_STATES[view.phase],
        reason=view.reason,
        share=view.share,
        queue=view.queue,
        engine="kubernetes",
        backend=backend,
        style=style,
    )


def failure_of(error: BaseException) -> Failure:
    """What is told of an error that ended a start."""
    kind = "engine"
    if isinstance(error, SizeError):
        kind = "size"
    elif isinstance(error, NoGpuError):
        kind = "no-gpu"
    elif isinstance(error, KernelStartError):
        kind = "start"
    return Failure(kind, words_of(error))


# -- what a server may ask -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Fields:
    """An object of a request's body, with the names that it may have."""

    what: str
    data: Mapping[str, Any]
    known: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if not isinstance(self.data, Mapping):
            raise Malformed(f"The field {self.what} is no object.")
        for name in self.data:
            if name not in self.known:
                raise Malformed(f"The field {self.what} has what is not known: {str(name)[:40]!r}.")

    def text(self, name: str, shape: re.Pattern[str], default: str | None = None) -> str:
        """A text of a certain shape."""
        value = self.data.get(name, default)
        if not isinstance(value, str) or not shape.fullmatch(value):
            raise Malformed(
                f"The field {self.what}.{name} is missing, or is not what it should be."
            )
        return value


def plan_of(kernel_id: str, size: Any, info: Any, pod: Any, *, encrypt: bool) -> KernelPlan:
    """What a kernel is made from, as its server says it, every value checked.

    Parameters
    ----------
    encrypt: the administrator has the wire encrypted: without the keys for that it is refused.

    Raises
    ------
    Malformed, SizeError
    """
    pod = _Fields("pod", pod, frozenset({"language", "flags", "hash_seed", "keys"}))
    info = _Fields("info", info, frozenset({"kernel_name", "path"}))
    keys = _Fields(
        "pod.keys",
        pod.data.get("keys"),
        frozenset({"key", "signature_scheme", "curve_publickey", "curve_secretkey"}),
    )
    flags = pod.data.get("flags", [])
    if (
        not isinstance(flags, list)
        or len(flags) > _MOST_FLAGS
        or not all(isinstance(flag, str) and len(flag) <= _LONGEST_FLAG for flag in flags)
    ):
        raise Malformed("The field pod.flags has what is no flag.")
    curve: list[str | None] = [None, None]
    if encrypt or keys.data.get("curve_publickey") or keys.data.get("curve_secretkey"):
        names = ("curve_publickey", "curve_secretkey")
        curve = [keys.text(name, _CURVE) for name in names]
    kernel_name = info.data.get("kernel_name")
    if not isinstance(kernel_name, str):
        raise Malformed("The field info.kernel_name is missing.")
    return KernelPlan(
        kernel_id=kernel_id,
        kernel_name=one_line(kernel_name)[:_LONGEST_NAME],
        size=size_of(size),
        path=path_of(info.data.get("path")),
        language=pod.text("language", _NAME, "python"),
        flags=tuple(flags),
        hash_seed=pod.text("hash_seed", _SEED, ""),
        keys=Keys(
            keys.text("key", _KEY).encode(),
            keys.text("signature_scheme", _SCHEME, "hmac-sha256"),
            *curve,
        ),
    )


def size_of(text: Any) -> Size:
    """A size that a body names.

    Raises
    ------
    Malformed, SizeError
    """
    if not isinstance(text, str) or len(text) > _LONGEST_SIZE:
        raise Malformed("The request names no size.")
    return Size.parse(text)


def path_of(path: Any) -> str | None:
    """Where a notebook is, for people.

    Raises
    ------
    Malformed
    """
    if path is None:
        return None
    if not isinstance(path, str):
        raise Malformed("The path of the notebook is no text.")
    return one_line(path).encode()[:_LONGEST_PATH].decode(errors="ignore") or None


def kernel_id_of(text: Any) -> str:
    """A kernel's id.

    Raises
    ------
    Malformed
    """
    if not isinstance(text, str) or not _KERNEL_ID.fullmatch(text):
        raise Malformed("That is no id of a kernel.")
    return text


def attempt_of(text: Any) -> str:
    """Which start of a kernel is meant.

    Raises
    ------
    Malformed
    """
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise Malformed("The request names no attempt: 32 hexadecimal digits.")
    return text


def number_in(body: Mapping[str, Any]) -> int | None:
    """Which of its process's starts it is; None where a client of an earlier version does not say.

    Raises
    ------
    Malformed
    """
    number: int | None = body.get("number")
    if number is not None and not 0 <= number < _MOST_STARTS:
        raise Malformed("The field number is no number of starts.")
    return number
