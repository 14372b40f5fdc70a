"""An account as a table of values with commas between them, and as metrics. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from datetime import date

from .account import Account, Figures

__all__ = ["COLUMNS", "csv_text", "prometheus_text"]

COLUMNS = ("day", "of", "name", "held", "used", "idle", "given_back")
_NAME = "jupyter_gpu_share_gpu_seconds_total"
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
        safe = f"'{name}" if name.startswith(_FORMULA) else name
        numbers = (f"{float(getattr(figures, name)):.3f}" for name in COLUMNS[3:])
        writer.writerow([day.isoformat(), kind, safe, *numbers])
    return out.getvalue()


def prometheus_text(account: Account, *, by_user: bool = False) -> str:
    """Counters of GPU-seconds in Prometheus' text format, up to the last settling.

    Parameters
    ----------
    by_user: with a series for each user and group; otherwise their sum alone, as names of people
        do not belong into everybody's metrics.
    """
    totals = account.totals()
    all_users = Figures()
    for (kind, _), figures in totals.items():
        if kind == "user":
            all_users += figures
    lines = [f"# HELP {_NAME} GPU-seconds of shares.", f"# TYPE {_NAME} counter"]
    lines += _series({}, all_users)
    if by_user:
        name = "jupyter_gpu_share_gpu_seconds_by_name_total"
        lines += [f"# HELP {name} GPU-seconds of shares by user or group."]
        lines += [f"# TYPE {name} counter"]
        for (kind, who), figures in sorted(totals.items()):
            lines += _series({kind: who}, figures, name)
    return "\n".join(lines) + "\n"


def _series(labels: dict[str, str], figures: Figures, name: str = _NAME) -> list[str]:
    found = []
    for state in ("used", "idle", "given_back"):
        pairs = {**labels, "state": state}
        text = ",".join(f'{key}="{_escaped(value)}"' for key, value in pairs.items())
        found.append(f"{name}{{{text}}} {float(getattr(figures, state))!r}")
    return found


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
