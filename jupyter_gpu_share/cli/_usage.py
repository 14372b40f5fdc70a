"""What was held of GPUs, as the machine's broker counts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date
from fractions import Fraction
from typing import Any

from ..errors import EngineError
from ._servers import aside
from ._tables import table

__all__ = ["collect", "in_csv", "in_table"]

Rows = Sequence[Mapping[str, Any]]


async def collect(*, everybody: bool) -> Rows:
    """Ask the broker: GPU-seconds by day, of the caller or of all.

    Raises
    ------
    EngineError: there is none, it is away, or the caller is no administrator.
    """
    return await aside(_ask, everybody)


def _ask(everybody: bool) -> Rows:
    from ..broker.client import BrokerClient, find_broker

    path = find_broker()
    if path is None:
        raise EngineError(
            "There is no broker on this machine, and without one nothing is counted. An "
            "administrator starts one: jupyter gpu-share broker"
        )
    with closing(BrokerClient(path)) as client:
        rows: Rows = client.ask("GET", "/v1/admin/usage" if everybody else "/v1/usage")
    return rows


def in_table(rows: Rows) -> str:
    """In GPU-hours."""
    if not rows:
        return "Nothing was held yet.\n"
    lines = [
        [row["day"], f"{row['of']} {row['name']}", *(_hours(row[key]) for key in _AMOUNTS)]
        for row in rows
    ]
    header = ["DAY (UTC)", "OF", *(f"{key.upper()} (GPU-HOURS)" for key in _AMOUNTS)]
    return table(header, lines) + "\n"


_AMOUNTS = ("held", "used", "idle")


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
            Figures(Fraction(row["used"]), Fraction(row["idle"])),
        )
        for row in rows
    ]
    return csv_text(counted, _AMOUNTS)
