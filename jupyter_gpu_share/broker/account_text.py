"""An account as a table of values with commas between them. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from datetime import date

from .account import Figures

__all__ = ["COLUMNS", "csv_text", "safe"]

COLUMNS = ("day", "of", "name", "held", "used", "idle", "given_back")
#: A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(rows: Iterable[tuple[date, str, str, Figures]]) -> str:
    """The rows of :meth:`Account.rows`, with a header, in GPU-seconds to the millisecond.

    A name that a spreadsheet would take for a formula has an apostrophe before it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for day, kind, name, figures in rows:
        numbers = (f"{float(getattr(figures, each)):.3f}" for each in COLUMNS[3:])
        writer.writerow([day.isoformat(), kind, safe(name), *numbers])
    return out.getvalue()


def safe(name: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{name}" if name.startswith(_FORMULA) else name
