"""Amounts and times in English words."""

from __future__ import annotations

__all__ = ["format_bytes", "spell"]


def spell(seconds: float) -> str:
    """A span of time as it is told to people: two units at most, such as ``1 h 30 min``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, rest = divmod(round(minutes / 60), 24)
    return f"{days} d {rest} h" if rest else f"{days} d"


def format_bytes(amount: int, *, exact: bool = False) -> str:
    """Write bytes with a binary unit, for people.

    With ``exact`` the text reads back as the same number of bytes; otherwise at most one digit
    after the point is shown.
    """
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if amount >= unit:
            if amount % unit == 0:
                return f"{amount // unit}{name}" if exact else f"{amount // unit} {name}"
            if not exact:
                return f"{amount / unit:.1f} {name}"
    return f"{amount}B" if exact else f"{amount} B"
