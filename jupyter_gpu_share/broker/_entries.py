"""The administrator's limits, read and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import Any

from .._text import one_line
from ..engines.user_limits import RESOURCES
from ..errors import GpuShareError, SizeError
from ..size import Size

__all__ = ["SEVERAL", "LimitsError", "Rule", "read_rules"]

SCOPES = ("user", "members_of", "group")
#: How limits are joined that are about the same.
SEVERAL: Mapping[str, Callable[[list[Fraction]], Fraction]] = {
    "max": max,
    "min": min,
    "sum": lambda limits: sum(limits, Fraction(0)),
}
_FIELDS = ("resource", "limit", "window", "scope")
_LONGEST = 366
_EVERYBODY = "*"
#: More than that are checked at each claim for nobody's good.
_MOST = 1000
_NUMBER = re.compile(r"\d{1,15}(\.\d{1,15}|/\d{1,15})?", re.ASCII)


class LimitsError(GpuShareError, ValueError):
    """A limit cannot be understood; the message names it and says what can be written."""


@dataclass(frozen=True)
class Rule:
    """One limit of one resource.

    Attributes
    ----------
    limit: in GPUs, bytes, kernels or GPU-hours.
    window: of GPU-hours, up to now; None for what is held now.
    scope: ``user``, ``members_of``, ``group`` or ``total``.
    names: users or groups; empty for the total.
    """

    resource: str
    limit: Fraction
    window: timedelta | None
    scope: str
    names: frozenset[str] = frozenset()

    def subjects(self, user: str, groups: frozenset[str]) -> Iterator[tuple[str, str]]:
        """Who is limited where such a user asks: ``user``, ``group`` or ``total``, and the name."""
        if self.scope == "total":
            yield "total", ""
        elif self.scope == "group":
            yield from (("group", name) for name in sorted(groups & self.names))
        elif self.scope == "user":
            if self.names & {user, _EVERYBODY}:
                yield "user", user
        elif groups & self.names:
            yield "user", user


def read_rules(rules: Any, *, own: bool = False) -> tuple[Rule, ...]:
    """Check and read limits.

    Parameters
    ----------
    own: they are a user's, and have no scope.

    Raises
    ------
    LimitsError
    """
    if not isinstance(rules, list | tuple):
        raise LimitsError(f"Limits are a list of entries, not {_shown(rules)}.")
    if len(rules) > _MOST:
        raise LimitsError(f"There are {len(rules)} limits; {_MOST} are allowed.")
    return tuple(_rule(entry, own) for entry in rules)


def _rule(entry: Any, own: bool) -> Rule:
    if not isinstance(entry, Mapping):
        raise LimitsError(f"A limit is an entry with a resource and more, not {_shown(entry)}.")
    known = _FIELDS[:-1] if own else _FIELDS
    for name in entry:
        if name not in known:
            raise _wrong(entry, f"has an unknown key {name!r}; it may have {', '.join(known)}")
    resource = entry.get("resource")
    if resource not in RESOURCES:
        raise _wrong(entry, f"needs a resource, one of {', '.join(RESOURCES)}")
    window = None
    if resource == "gpu_hours":
        days = _number(entry.get("window"))
        if days is None or not 0 < days <= _LONGEST:
            raise _wrong(entry, f"needs a window, a number of days up to {_LONGEST}")
        window = timedelta(days=float(days))
    elif "window" in entry:
        raise _wrong(entry, "has a window, which only gpu_hours have")
    limit = _limit(entry, resource)
    if own:
        return Rule(resource, limit, window, "user", frozenset({_EVERYBODY}))
    scope, names = _scope(entry)
    return Rule(resource, limit, window, scope, names)


def _limit(entry: Mapping[Any, Any], resource: str) -> Fraction:
    value = entry.get("limit")
    if resource == "memory_bytes" and isinstance(value, str):
        try:
            size = Size.parse(value)
        except SizeError as error:
            raise _wrong(entry, f"has a limit that is no memory: {error}") from error
        if size.memory is not None:
            return Fraction(size.memory * size.count)
    whole = resource in ("memory_bytes", "kernels")
    number = None if whole and isinstance(value, str) else _number(value)
    if number is None or number < 0 or (whole and number.denominator != 1):
        meant = {
            "memory_bytes": "bytes, or text such as '40GiB'",
            "kernels": "a whole number",
            "gpus": "a number, or text such as '1/2'",
            "gpu_hours": "a number",
        }[resource]
        raise _wrong(entry, f"needs a limit of 0 or more: {meant}")
    return number


def _number(value: Any) -> Fraction | None:
    """A number as it was written: 0.1 is a tenth."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None  # Fraction reads '1e999999999', too, and takes for ever
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        return None


def _scope(entry: Mapping[Any, Any]) -> tuple[str, frozenset[str]]:
    scope = entry.get("scope")
    if scope == "total":
        return "total", frozenset()
    if not isinstance(scope, Mapping) or len(scope) != 1 or next(iter(scope)) not in SCOPES:
        raise _wrong(entry, f"needs a scope: 'total', or names under one of {', '.join(SCOPES)}")
    kind, names = next(iter(scope.items()))
    if not isinstance(names, list | tuple) or not names or not all(map(_is_name, names)):
        raise _wrong(entry, f"needs a list of names under {kind!r}")
    if _EVERYBODY in names and kind != "user":
        raise _wrong(entry, f"has '*' under {kind!r}; only users can be meant all at once")
    return str(kind), frozenset(names)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _wrong(entry: Mapping[Any, Any], what: str) -> LimitsError:
    return LimitsError(one_line(f"The limit {dict(entry)} {what}."))


def _shown(value: Any) -> str:
    return one_line(f"{value!r:.60}") if isinstance(value, str) else type(value).__name__
