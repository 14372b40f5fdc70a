"""Words that come from elsewhere."""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(text: str) -> str:
    """One line that a log, a page, a terminal and JSON can show."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
