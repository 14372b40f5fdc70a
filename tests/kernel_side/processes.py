"""Processes of this machine, as the system tells of them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """What the system says of a process. ``start`` grows with the time at which it was made."""

    pid: int
    state: str
    parent: int
    session: int
    start: int

    @property
    def alive(self) -> bool:
        """True while it runs: neither gone nor a zombie."""
        return self.state not in "ZX"


def rows() -> list[Row]:
    """All processes, the oldest first, zombies included."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            numbers = (int(fields[n]) for n in (1, 3, 19))
            found.append(Row(int(folder.name), fields[0], *numbers))
    return sorted(found, key=lambda row: (row.start, row.pid))


def alive(pid: int) -> bool:
    """True while a process runs."""
    return any(row.pid == pid and row.alive for row in rows())


def children(pid: int) -> list[int]:
    """Numbers of a process's children, the oldest first, zombies included."""
    return [row.pid for row in rows() if row.parent == pid]


def descendants(pid: int) -> list[Row]:
    """A process's children, their children and so on, zombies included."""
    found, parents = [], {pid}
    everyone = rows()
    while more := [row for row in everyone if row.parent in parents]:
        found += more
        parents = {row.pid for row in more}
    return found


def command(pid: int) -> str:
    """A process's command line; empty where it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""
