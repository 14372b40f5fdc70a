"""What holds for a share, and the administrator's entries that change it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import SizeError
from ..size import Size
from ._windows import FIELDS, Window

__all__ = ["LONGEST", "RULES", "Entry", "Terms", "read_entries"]

#: A year: later than that is never, and no arithmetic on dates runs over.
LONGEST = 366 * 24 * 3600.0
RULES = ("adaptive", "fixed", "demand", "never")


@dataclass(frozen=True)
class Terms:
    """What holds for one share at one moment; the meanings are the settings' of the same names."""

    rule: str
    timeout: float
    aim: float
    demand_after: float | None
    warn_before: float
    cull_after: float | None
    lose_variables: bool


@dataclass(frozen=True)
class Entry:
    """One entry of ``IdlePolicy.rules`` or ``IdlePolicy.windows``.

    Attributes
    ----------
    sizes, groups: for which it holds; for all where empty.
    changes: of the terms.
    window: when it holds; None for always.
    """

    sizes: tuple[Size, ...]
    groups: tuple[str, ...]
    changes: Mapping[str, Any]
    window: Window | None

    def covers(self, size: Size, group: str) -> bool:
        """Whether it is about such a share."""
        return (not self.sizes or size in self.sizes) and (not self.groups or group in self.groups)

    def apply(self, terms: Terms) -> Terms:
        """The terms, changed."""
        return replace(terms, **self.changes)


def read_entries(value: Sequence[Mapping[Any, Any]], *, timed: bool) -> tuple[Entry, ...]:
    """Check and read the entries of a setting.

    Parameters
    ----------
    timed: they hold at times, as those of ``IdlePolicy.windows`` do.

    Raises
    ------
    ValueError: in words that go on after the setting's name.
    """
    return tuple(_entry(entry, timed) for entry in value)


def _entry(entry: Mapping[Any, Any], timed: bool) -> Entry:
    known = ("size", "group", *_CHECKS, *(FIELDS if timed else ()))
    for name in entry:
        if name not in known:
            raise ValueError(f"{dict(entry)} knows no {name!r}; it knows {', '.join(known)}")
    changes = {}
    for name, check in _CHECKS.items():
        if name in entry:
            if not check(entry[name]):
                raise ValueError(f"{name} is {_MEANT[name]}, not {entry[name]!r}")
            changes[name] = entry[name]
    if not changes:
        raise ValueError(f"{dict(entry)} changes nothing; give it a rule or a timeout")
    if "timeout" in changes:
        changes.setdefault("rule", "fixed")
    return Entry(
        sizes=tuple(_size(text) for text in _texts(entry, "size")),
        groups=_texts(entry, "group"),
        changes=changes,
        window=Window.read(entry) if timed else None,
    )


def _texts(entry: Mapping[Any, Any], name: str) -> tuple[str, ...]:
    value = entry.get(name, [])
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(each, str) and each for each in found):
        raise ValueError(f"{name} is text or a list of text, not {value!r}")
    return tuple(found)


def _size(text: str) -> Size:
    try:
        return Size.parse(text)
    except SizeError as error:
        raise ValueError(str(error)) from error


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _seconds(value: Any) -> bool:
    return _number(value) and 0 <= value <= LONGEST


def _seconds_or_none(value: Any) -> bool:
    return value is None or _seconds(value)


def _aim(value: Any) -> bool:
    return _number(value) and 0 < value < 1


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "rule": lambda value: value in RULES,
    "timeout": _seconds,
    "aim": _aim,
    "demand_after": _seconds_or_none,
    "warn_before": _seconds,
    "cull_after": _seconds_or_none,
    "lose_variables": lambda value: isinstance(value, bool),
}
_MEANT = {
    "rule": f"one of {', '.join(RULES)}",
    "timeout": "a number of seconds up to a year",
    "aim": "a number between 0 and 1",
    "demand_after": "a number of seconds up to a year, or None for never",
    "warn_before": "a number of seconds up to a year",
    "cull_after": "a number of seconds up to a year, or None for never",
    "lose_variables": "True or False",
}
