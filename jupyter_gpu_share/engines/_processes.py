"""Who is alive on this machine, with no mistake about reused process numbers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ._places import boot_id, here

__all__ = [
    "CLAIM_VARIABLE",
    "Holder",
    "boot_id",
    "carriers",
    "carriers_of",
    "carries_any",
    "sweep_folders",
    "this_boot",
    "this_process",
]

#: Names the claim in the environment of everything that a kernel starts.
CLAIM_VARIABLE = "JUPYTER_GPU_SHARE_CLAIM"

_PROC = Path("/proc")


@dataclass(frozen=True)
class Holder:
    """A process: its number and when it started, in the system's own words."""

    pid: int
    start_time: str

    @classmethod
    def of(cls, pid: int) -> Holder:
        """The process that has this number now; one that is gone gets an empty start time."""
        return cls(pid, _start_time(pid) or "")

    @property
    def alive(self) -> bool:
        """True while this very process runs. One that ended and was not reaped is dead.

        Where the system hides the processes of other users, one that has the number is taken for
        this one: better a share that is kept too long than one that is given twice.
        """
        if not self.start_time:
            return False
        started = _start_time(self.pid)
        return started == self.start_time or (started is None and _is_hidden(self.pid))

    @property
    def folder(self) -> str:
        """Name for what belongs to this process of this place, for :func:`sweep_folders`.

        It begins with no digit: versions before this one take it for nobody's otherwise, and run
        beside it where a server goes on over an upgrade.
        """
        return f"in{here().name}-{self.pid}-{self.start_time}"


def sweep_folders(base: Path) -> None:
    """Remove the folders of processes of this place that are gone.

    Those of other places are left: containers may have one folder for temporary files.
    """
    for folder in base.iterdir():
        place, _, process = folder.name.partition("-")
        pid, _, start = process.partition("-")
        if place == f"in{here().name}" and pid.isdigit() and not Holder(int(pid), start).alive:
            shutil.rmtree(folder, ignore_errors=True)


def this_process() -> Holder:
    """The process that asks."""
    return Holder.of(os.getpid())


def this_boot() -> str:
    """Name for what belongs to this machine since it was booted.

    Home folders are often shared between machines, whose processes have nothing to do with each
    other.
    """
    return f"{socket.gethostname()}-{boot_id()[:8]}"


def carriers(token: str) -> list[int]:
    """Processes that were started under the claim ``token``.

    Found are a kernel whose start was not recorded in time, and what a kernel left behind: by the
    control group that is named after the claim, where there is one, which they cannot leave; else
    by their environment. Reading other users' environments is not allowed; they are passed over.
    """
    return carriers_of({token})[token]


def carriers_of(tokens: Collection[str]) -> dict[str, list[int]]:
    """The same for several claims, by token, in one look at all processes."""
    found: dict[str, list[int]] = {token: [] for token in tokens}
    if not found:
        return found
    marks = _marks(tokens)
    for entry in _PROC.glob("[0-9]*"):
        carried = _carried(entry, marks)
        if carried and _start_time(int(entry.name)):
            for token in carried:
                found[token].append(int(entry.name))
    return found


def carries_any(pids: Collection[int], tokens: Collection[str]) -> set[int]:
    """Those of some processes that were started under one of the claims; see :func:`carriers`."""
    marks = _marks(tokens)
    return {pid for pid in pids if _carried(_PROC / str(pid), marks)}


def _marks(tokens: Collection[str]) -> dict[bytes, str]:
    return {f"{CLAIM_VARIABLE}={token}".encode(): token for token in tokens}


def _carried(process: Path, marks: Mapping[bytes, str]) -> set[str]:
    """The claims that a process carries, of those whose marks are given."""
    carried = {marks[mark] for mark in marks.keys() & _environment(process)}
    return carried | (set(marks.values()) & _groups(process))


def _environment(process: Path) -> set[bytes]:
    try:
        return set((process / "environ").read_bytes().split(b"\0"))
    except OSError:
        return set()


def _groups(process: Path) -> set[str]:
    """Names of the control groups that a process is in, and of those around them."""
    try:
        return set((process / "cgroup").read_text(errors="replace").replace("\n", "/").split("/"))
    except OSError:
        return set()


def _start_time(pid: int) -> str | None:
    """When a process started, in a form that is only good for comparing; None if it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None if _PROC.joinpath("self").exists() else _start_time_by_ps(pid)
    # The name, in brackets, may hold anything.
    fields = text.rpartition(")")[2].split()
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started


def _is_hidden(pid: int) -> bool:
    """Whether there is such a process, of another user, that /proc does not show (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not os.access(_PROC / str(pid) / "stat", os.R_OK)
    except OSError:
        pass
    return False


def _start_time_by_ps(pid: int) -> str | None:
    """For systems without /proc."""
    done = subprocess.run(
        ["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, started = done.stdout.strip().partition(" ")
    return started.strip() if started and not state.startswith("Z") else None
