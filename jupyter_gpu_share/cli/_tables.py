"""How the command shows things: plain text that fits the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..size import format_bytes

_GAP = "  "


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Columns under a header. The last one is cut where the terminal ends.

    Parameters
    ----------
    width: of the terminal in characters; found out where not given, unlimited where there is none.
    """
    if width is None:
        width = shutil.get_terminal_size((100_000, 24)).columns if sys.stdout.isatty() else 100_000
    clean = [[_printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[n]) for row in clean) for n in range(len(header))]
    lines = []
    for row in clean:
        cells = [cell.ljust(size) for cell, size in zip(row, widths, strict=True)]
        line = _GAP.join(cells).rstrip()
        lines.append(line if len(line) <= width else line[: max(1, width - 1)] + "…")
    return "\n".join(lines)


def allocations_table(rows: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """Kernels with their shares."""
    header = ["KERNEL", "NOTEBOOK", "SIZE", "SHARE", "STATE", "IN USE", "HELD APART BY"]
    return table(header, [_cells(row) for row in rows], width)


def _cells(row: Mapping[str, Any]) -> list[str]:
    share = row["share"]
    held = apart = "-"
    if share and share["devices"]:
        models = ", ".join(sorted({device["model"] for device in share["devices"]}))
        if share["simulated"] and "simulated" not in models:
            models += " (simulated)"
        times = f"{len(share['devices'])} x " if len(share["devices"]) > 1 else ""
        held = f"{times}{format_bytes(share['memory_bytes'])} of {models}"
        apart = share["isolation"]
    state = row["state"]
    if row["queue"]:
        state += f" ({row['queue']['position']} of {row['queue']['of']})"
    used = "-" if row["used_bytes"] is None else format_bytes(row["used_bytes"])
    notebook = row["path"] or row["kernel_name"]
    return [row["kernel_id"][:8], notebook, row["size"], held, state, used, apart]


def sentence(row: Mapping[str, Any]) -> str:
    """One kernel after a change."""
    _, notebook, size, held, state, _, _ = _cells(row)
    reason = f" {row['reason']}" if row["reason"] else ""
    return _printable(f"{notebook}: {state}, size {size}, {held}.{reason}")


def kept(found: Mapping[str, Any]) -> str:
    """What becomes of a kernel and its variables."""
    lost = ", ".join(found["lost"])
    if found["how"] == "in-place":
        return "The kernel keeps running, and its variables stay where they are."
    if found["how"] == "snapshot":
        but = f", but not: {lost}" if lost else ""
        return _printable(f"Variables are saved and brought back into a new process{but}.")
    if lost:
        return "A new process starts, and all variables would be lost."
    return "Nothing is lost: there are no variables to keep."


def kept_report(found: Mapping[str, Any]) -> str:
    """All that a kernel has lost, a line for each, and the files that stay."""
    lines = [_loss(row) for row in found["lost"]]
    lines = ["Lost by the last release, or by one now:", *lines] if lines else ["Nothing is lost."]
    for file in found["aside"]:
        size = format_bytes(file["bytes"])
        lines.append(f"Not restored from {file['file']} ({size}, saved {file['saved']}):")
        lines += [_loss(row) for row in file["missing"]]
    if found["aside"]:
        lines.append("The files stay until --forget removes them. What of one would come back now:")
        lines.append("  jupyter gpu-share snapshot check FILE")
        lines.append("To bring that back, in a cell of the notebook:")
        lines.append("  from gpu_share_kernel import snapshot; snapshot.restore(FILE)")
    return "\n".join(map(_printable, lines))


def _loss(row: Mapping[str, Any]) -> str:
    named = f"{row['what']} `{row['name']}`".strip() if row["name"] else row["what"]
    return f"  {named}: {row['why']}" if row["why"] else f"  {named}"


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Say what is waited for, on a terminal only, and take the line away at the end."""
    shown = sys.stderr.isatty()
    if shown:
        print(f"{_printable(text)} …", end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\x1b[2K", end="\r", file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    """What others named may not steer the terminal."""
    return "".join(ch if ch.isprintable() else "?" for ch in text)
