"""Traces: when notebooks used their GPUs."""

from __future__ import annotations

import csv
import gzip
import io
import math
import random
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from ...errors import GpuShareError
from ...size import Size

__all__ = ["Burst", "Session", "TraceError", "draw", "gpus_of", "read_parts", "read_trace"]

#: A longer pause ends a session.
_LONGEST_PAUSE = 24 * 3600.0
_GZIP = b"\x1f\x8b"


class TraceError(GpuShareError, ValueError):
    """A trace cannot be read; the message says which and why."""


class Burst(NamedTuple):
    """A span in which a notebook used its GPUs, in seconds from the trace's beginning."""

    begin: float
    end: float
    size: Size


#: The bursts of one notebook, in their order.
Session = list[Burst]


def gpus_of(size: Size) -> float:
    """A size of a trace in GPUs."""
    return float(size.fraction or 0) * size.count


def read_trace(path: Path) -> list[Session]:
    """Sessions from a file with the columns ``submit_time``, ``duration`` and ``num_gpu``.

    Both times are minutes. Rows are in the order of sessions: a new one starts where
    ``submit_time`` goes backwards, and after a pause of more than a day.

    Raises
    ------
    TraceError
    """
    sessions: list[Session] = []
    sizes: dict[int, Size] = {}
    previous = math.inf
    for row in _rows(path, ("submit_time", "duration", "num_gpu")):
        begin = row.number("submit_time") * 60
        end = begin + row.number("duration") * 60
        count = row.whole("num_gpu", 1, 64)
        size = sizes.setdefault(count, Size(fraction=Fraction(1), count=count))
        if begin < previous or begin - sessions[-1][-1].end > _LONGEST_PAUSE:
            sessions.append([])
        sessions[-1].append(Burst(begin, end, size))
        previous = begin
    if not sessions:
        raise TraceError(f"{path} has no interval of GPU use in it")
    return sessions


def read_parts(path: Path) -> list[Fraction]:
    """What part of a GPU pods had, from a file with the columns ``num_gpu`` and ``gpu_milli``.

    Those without a GPU are left out.

    Raises
    ------
    TraceError
    """
    found = [
        Fraction(row.whole("gpu_milli", 1, 1000), 1000)
        for row in _rows(path, ("num_gpu", "gpu_milli"))
        if row.whole("num_gpu", 0, 10_000)
    ]
    if not found:
        raise TraceError(f"{path} has no pod with a GPU in it")
    return found


def draw(sessions: Sequence[Session], parts: Sequence[Fraction], seed: int) -> list[Session]:
    """The same sessions, each with a part of its GPUs that is drawn by chance."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    found = []
    for session in sessions:
        part = chance.choice(parts)
        found.append([Burst(b.begin, b.end, Size(part, count=b.size.count)) for b in session])
    return found


class _Row:
    """One line of a file."""

    def __init__(self, path: Path, line: int, cells: dict[str, str]) -> None:
        self._place = f"{path}, line {line}"
        self._cells = cells

    def number(self, name: str) -> float:
        """A number of at least 0, and below what no calendar has."""
        try:
            value = float(self._cells[name])
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value < 1e8:
            raise TraceError(f"{self._place}: {name} is no number of minutes")
        return value

    def whole(self, name: str, least: int, most: int) -> int:
        """A whole number within bounds."""
        try:
            value = int(self._cells[name])
        except (TypeError, ValueError):
            value = -1
        if not least <= value <= most:
            raise TraceError(f"{self._place}: {name} is no whole number from {least} to {most}")
        return value


def _rows(path: Path, columns: Sequence[str]) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    try:
        names = reader.fieldnames
        if not names:
            raise TraceError(f"{path} is empty")
        missing = [name for name in columns if name not in names]
        if missing:
            raise TraceError(f"{path} has no column {', '.join(missing)}")
        for cells in reader:
            yield _Row(path, reader.line_num, cells)
    except csv.Error as error:
        raise TraceError(f"{path} is no table of values with commas between them") from error


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix == ".gz" and not data.startswith(_GZIP):
        raise TraceError(f"{path} is called .gz, but is not compressed with gzip")
    try:
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except (EOFError, OSError, zlib.error) as error:
        raise TraceError(f"{path} is damaged: gzip cannot unpack it") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path} is no text") from error
