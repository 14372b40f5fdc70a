"""What was held of GPUs, as the machine's broker counts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from fractions import Fraction
from typing import Any

from ._brokers import ask_broker
from ._tables import table

__all__ = ["collect", "in_csv", "in_table"]

Rows = Sequence[Mapping[str, Any]]


async def collect(*, everybody: bool) -> Rows:
    """Ask the broker: GPU-seconds by day, of the caller or of all.

    Raises
    ------
    EngineError: there is none, it is away, or the caller is no administrator.
    """
    path = "/v1/admin/usage" if everybody else "/v1/usage"
    (rows,) = await ask_broker("nothing is counted", path)
    found: Rows = rows
    return found


def in_table(rows: Rows) -> str:
    """In GPU-hours."""
    if not rows:
        return "Nothing was held yet.\n"
    lines = [
        [row["day"], f"{row['of']} {row['name']}", *(_hours(row[key]) for key in _AMOUNTS)]
        for row in rows
    ]
    header = ["DAY (UTC)", "OF", *(f"{_words(key).upper()} (GPU-HOURS)" for key in _AMOUNTS)]
    return table(header, lines) + "\n"


_AMOUNTS = ("held", "used", "idle", "given_back")


def _words(key: str) -> str:
    return key.replace("_", " ")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"


def in_csv(rows: Rows) -> str:
    """In GPU-seconds, as a spreadsheet reads it."""
    from ..broker.account import Figures
    from ..broker.account_text import csv_text

    counted = [
        (
            date.fromisoformat(row["day"]),
            row["of"],
            row["name"],
            Figures(*(Fraction(row[key]) for key in ("used", "idle", "given_back"))),
        )
        for row in rows
    ]
    return csv_text(counted)
