"""Words that come from elsewhere, and values in JSON that have no type of its own there."""

from __future__ import annotations

from datetime import datetime, timezone
from math import isfinite
from typing import Any

__all__ = ["moment_in", "number_in", "one_line", "written"]


def one_line(text: str) -> str:
    """One line that a log, a page, a terminal and JSON can show."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def written(moment: datetime, timespec: str = "milliseconds") -> str:
    """RFC 3339 in UTC, such as ``2026-03-01T12:00:00.000Z``.

    Parameters
    ----------
    moment: aware.
    timespec: as ``datetime.isoformat`` takes it.
    """
    return moment.astimezone(timezone.utc).isoformat(timespec=timespec).replace("+00:00", "Z")


def moment_in(value: Any) -> datetime:
    """An aware moment that was written like that.

    Raises
    ------
    TypeError, ValueError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError("no text")
    found = datetime.fromisoformat(value.replace("Z", "+00:00"))  # Python 3.10 reads no Z
    if found.tzinfo is None:
        raise ValueError("a moment without a zone")
    return found


def number_in(value: Any) -> float:
    """A finite number.

    Raises
    ------
    TypeError, ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("no number")
    if not isfinite(value):
        raise ValueError("no amount")
    return value
