"""What a server says of its idle kernels, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from .idle import Word

__all__ = ["Said", "said_of"]

#: Seconds: more is as good as for ever, and no date goes over.
_LONGEST = 1e9
_FLAGS = ("kept", "leaving")
_FIELDS = frozenset({"idle_seconds", "keep_seconds", *_FLAGS})


@dataclass(frozen=True)
class Said:
    """One idle kernel. Clocks are not compared: times are seconds from now.

    Attributes
    ----------
    idle_seconds: without use.
    keep_seconds: for which its user was promised to keep the share; None where they were not.
    kept: whether giving it back would keep the variables.
    leaving: whether it goes back already.
    """

    idle_seconds: float
    keep_seconds: float | None = None
    kept: bool = True
    leaving: bool = False

    def at(self, now: datetime) -> Word:
        """The same with moments."""
        return Word(
            since=now - timedelta(seconds=self.idle_seconds),
            keep_until=now + timedelta(seconds=self.keep_seconds) if self.keep_seconds else None,
            kept=self.kept,
            leaving=self.leaving,
        )


def said_of(value: Any) -> Said:
    """Read one. A number is what servers of the version before tell: seconds without use.

    Raises
    ------
    ValueError: it is something else.
    """
    data = value if isinstance(value, Mapping) else {"idle_seconds": value}
    if not data.keys() <= _FIELDS:
        raise ValueError("The field kernels has a field that is not known.")
    if not all(isinstance(data.get(name, True), bool) for name in _FLAGS):
        raise ValueError("The field kernels has what is neither true nor false.")
    keep = data.get("keep_seconds")
    return Said(
        idle_seconds=_seconds(data.get("idle_seconds")),
        keep_seconds=None if keep is None else _seconds(keep),
        **{name: data[name] for name in _FLAGS if name in data},
    )


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError("The field kernels has what is no number of seconds.")
    return min(max(float(value), 0.0), _LONGEST)
