"""How the command shows things: plain text that fits the terminal."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..size import Size, format_bytes

if TYPE_CHECKING:
    from ..engines.base import Capacity, Finding

_GAP = "  "
#: Columns that are left out where no row fills them.
_OPTIONAL = frozenset({"USER", "GPU"})


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


def allocations_table(
    rows: Sequence[Mapping[str, Any]], gpus: Sequence[Capacity] = (), width: int | None = None
) -> str:
    """Kernels with their shares.

    Columns in which no row has anything to say, such as the user on a machine of one user, are
    left out.

    Parameters
    ----------
    rows: allocations as the contract has them.
    gpus: what there is, in the order of :func:`gpus_table`; numbers GPUs as that does.
    """
    header = [
        "KERNEL", "NOTEBOOK", "USER", "SIZE", "SHARE", "GPU", "STATE", "IN USE", "ISOLATION",
    ]  # fmt: skip
    names = _numbers(gpus)
    lines = [_cells(row, names) for row in rows]
    said = [n for n, name in enumerate(header) if name not in _OPTIONAL or any(r[n] for r in lines)]
    cells = [[row[n] or "-" for n in said] for row in lines]
    return table([header[n] for n in said], cells, width)


def gpus_table(gpus: Sequence[Capacity], width: int | None = None) -> str:
    """GPUs and instances of MIG, each with its number, its memory and what is free of it."""
    several = len({gpu.node for gpu in gpus}) > 1
    names = _numbers(gpus)
    header = ["GPU", "MODEL", "MEMORY", "FREE", "KERNELS", *(["NODE"] if several else [])]
    lines = [
        [
            names[gpu.uuid],
            f"{gpu.model} MIG {gpu.profile}" if gpu.profile else gpu.model,
            format_bytes(gpu.memory_bytes),
            format_bytes(gpu.free_bytes),
            str(gpu.kernels),
            *([gpu.node] if several else []),
        ]
        for gpu in gpus
    ]
    return table(header, lines, width)


def processes_table(
    rows: Sequence[Mapping[str, Any]], gpus: Sequence[Capacity] = (), width: int | None = None
) -> str:
    """Processes that use a GPU without a share, a line for each of their GPUs.

    Parameters
    ----------
    rows: as the broker's API has them.
    gpus: as for :func:`allocations_table`.
    """
    names = _numbers(gpus)
    lines = [
        [
            str(row["pid"]),
            row["user"],
            names.get(uuid, uuid),
            format_bytes(used) if used is not None else "-",
            row["since"][:16].replace("T", " "),
            row["command"],
        ]
        for row in rows
        for uuid, used in row["used_bytes"].items()
    ]
    return table(["PROCESS", "USER", "GPU", "IN USE", "SEEN SINCE (UTC)", "COMMAND"], lines, width)


def sizes_table(
    rows: Sequence[Mapping[str, Any]], gpus: Sequence[Capacity] = (), width: int | None = None
) -> str:
    """The offered sizes, and below them why some cannot be had now: each reason once.

    Parameters
    ----------
    rows: offers with ``available`` and ``why``.
    gpus: tell how much memory a fraction is.
    """
    lines = [
        [
            row["size"] + (" (default)" if row["default"] else ""),
            _memory(Size.parse(row["size"]), gpus),
            row["name"],
            row["description"],
            "yes" if row["available"] else "no",
        ]
        for row in rows
    ]
    text = [table(["SIZE", "MEMORY", "NAME", "PURPOSE", "FREE NOW"], lines, width)]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if not row["available"]:
            reasons.setdefault(row["why"], []).append(row["size"])
    text += [_printable(f"Not free now: {', '.join(s)}. {why}") for why, s in reasons.items()]
    return "\n".join(text)


def findings_text(findings: Sequence[Finding]) -> str:
    """What ``doctor`` has found, with what to do below each line that is not ok."""
    marks = {
        "ok": "✓ ok     ",
        "note": "· note   ",
        "warning": "! warning",
        "error": "✗ error  ",
    }
    lines = []
    for finding in findings:
        lines.append(_printable(f"{marks[finding.level]}  {finding.what}"))
        if finding.fix:
            lines.append(_printable(f"             → {finding.fix}"))
    return "\n".join(lines)


def _numbers(gpus: Sequence[Capacity]) -> dict[str, str]:
    """By uuid: the driver's number, or the place on its node; ``1:3`` is an instance of GPU 1."""
    names: dict[str, str] = {}
    places: Counter[str] = Counter()
    instances: Counter[tuple[str, int]] = Counter()
    for gpu in gpus:
        number = places[gpu.node] if gpu.index is None else gpu.index
        names[gpu.uuid] = str(number)
        if gpu.profile and gpu.index is not None:
            names[gpu.uuid] += f":{instances[gpu.node, number]}"
            instances[gpu.node, number] += 1
        places[gpu.node] += 1
    return names


def _memory(size: Size, gpus: Sequence[Capacity]) -> str:
    """How much memory a size is on the GPUs here, which may differ."""
    if size.is_none:
        return "-"
    fitting = [gpu for gpu in gpus if gpu.profile == size.profile]
    amounts = sorted({size.bytes_of(gpu.memory_bytes) for gpu in fitting})
    if size.memory is not None:
        amounts = [size.memory]
    if not amounts:
        return "-"
    times = f"{size.count} x " if size.count > 1 else ""
    return times + " to ".join(map(format_bytes, sorted({amounts[0], amounts[-1]})))


def _cells(row: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Of one kernel, in the order of the header; empty where there is nothing to say."""
    share = row["share"]
    held = apart = numbers = ""
    if share and share["devices"]:
        models = ", ".join(sorted({device["model"] for device in share["devices"]}))
        if share["simulated"] and "simulated" not in models:
            models += " (simulated)"
        times = f"{len(share['devices'])} x " if len(share["devices"]) > 1 else ""
        held = f"{times}{format_bytes(share['memory_bytes'])} of {models}"
        apart = share["isolation"]
        numbers = ", ".join(filter(None, (names.get(d["uuid"], "") for d in share["devices"])))
    state = row["state"]
    if row["queue"]:
        state += f" ({row['queue']['position']} of {row['queue']['of']})"
    used = "" if row["used_bytes"] is None else format_bytes(row["used_bytes"])
    notebook = row["path"] or row["kernel_name"]
    user = row.get("user") or ""
    return [row["kernel_id"][:8], notebook, user, row["size"], held, numbers, state, used, apart]


def sentence(row: Mapping[str, Any]) -> str:
    """One kernel after a change."""
    _, notebook, _, size, held, _, state, _, _ = _cells(row, {})
    reason = f" {row['reason']}" if row["reason"] else ""
    share = f", {held}" if held else ""
    return _printable(f"{notebook}: {state}, size {size}{share}.{reason}")


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
