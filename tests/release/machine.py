"""What is there of one kernel on this machine, whatever its server says, and what ends it."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servers import Server, run_server, stop_server, until

if TYPE_CHECKING:
    from .schedules import Schedule

__all__ = ["GPU_BYTES", "LocalMachine", "faults_in_log", "kernels_of"]

#: Memory of each simulated GPU.
GPU_BYTES = 80 * 2**30
_MOVING = ("queued", "waking", "starting", "releasing")
#: What the log of a server has where its code met what must not be.
_FAULTS = (
    "met what cannot be",
    "met an error",
    "could not be ended properly",
    "never retrieved",
    "never awaited",
    "failed to take note",
    "could not be taken over",
)
#: Seconds for which a next server takes what was saved over, where it need not be there.
_TAKES_OVER = 4.0


@dataclass
class LocalMachine:
    """One kernel's part of this machine.

    Attributes
    ----------
    folder: in which the kernel runs, and no other; None where the server has no other kernel.
    arguments: of the server, where it is stopped and another one follows.
    """

    server: Server
    kernel_id: str
    folder: Path | None = None
    arguments: tuple[str, ...] = ()
    simulate: str = "2xA100-80GB"
    _path: Path | None = field(default=None, init=False)

    @property
    def processes(self) -> set[int]:
        """The kernel's."""
        return kernels_of(self.server, self.folder)

    @property
    def claim(self) -> tuple[bool, int] | None:
        """Whether a claim in the ledger is held, and its bytes; None where there is no claim."""
        if self._path is None:
            data = self.server.folder.parent / "data"
            self._path = next(data.glob(f"gpu-share/*/simulated-{self.simulate}.db"))
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=30)) as ledger:
            row = ledger.execute(
                "SELECT held, coalesce(sum(memory_bytes), 0) FROM claims "
                "LEFT JOIN pieces USING (token) WHERE kernel_id = ? GROUP BY claims.token",
                (self.kernel_id,),
            ).fetchone()
        return None if row is None else (bool(row[0]), row[1])

    def differs(self, row: dict[str, Any], *, settled: bool) -> str:
        """What an allocation says that is not so; empty where it is true.

        Parameters
        ----------
        settled: nothing may be on its way any more, but for a kernel that waits for others.
        """
        state, processes, claim = row["state"], len(self.processes), self.claim
        there = f"{state}, but {processes} processes and the claim {claim}: {row}"
        if state in ("active", "idle"):
            held = row["share"]["memory_bytes"] if row["share"] else 0
            wanted = Fraction(row["size"]) * GPU_BYTES
            return "" if processes == 1 and claim == (True, held) and held == wanted else there
        if state == "released":
            lives = {"in-place": 1, "snapshot": 0, "none": 0}[row["kept"]["how"]]
            return "" if claim is None and processes == lives and not row["share"] else there
        if state in ("failed", "ended"):
            return there if processes or settled else ""
        assert state in _MOVING, state
        if not settled or (state in ("queued", "waking") and self._waits(row, claim)):
            return ""
        return there

    def _waits(self, row: dict[str, Any], claim: tuple[bool, int] | None) -> bool:
        """Whether it waits for others, in the ledger as well."""
        if row["queue"] is None or claim is None or claim[0]:
            return False
        if row["queue"]["position"] > 1:
            return True
        free = [gpu["free_bytes"] for gpu in self.server.ok("gpu-share/status")["gpus"]]
        return max(free) < Fraction(row["size"]) * GPU_BYTES

    def check_gone(self) -> None:
        """Nothing of the kernel is left, once its end has settled."""
        until(lambda: not self.processes, f"no process of {self.kernel_id} is left")
        until(lambda: self.claim is None, f"no claim of {self.kernel_id} is left")

    # -- what ends it ------------------------------------------------------------------------

    def kill_kernel(self, schedule: Schedule) -> bool:
        """The kernel's process is killed; jupyter_server starts it again."""
        killed = self.processes
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        if not killed:
            return True

        def settled() -> str:
            row = schedule.row()
            if row["state"] == "released" and row["kept"]["how"] != "in-place":
                # A release that was about to end the process, or a start that has failed.
                return "saved" if row["kept"]["how"] == "snapshot" else "nothing"
            if row["state"] in ("queued", "waking"):
                return "waits"  # its share went while it was away
            again = row["state"] in ("active", "idle") and self.processes - killed
            return "again" if again else ""

        return bool(until(settled, "it runs again") == "saved")

    def stop_server(self, schedule: Schedule) -> bool:
        """The server is stopped in good order; the next one takes over what was saved."""
        schedule.finish_requests()
        row = schedule.row()
        must = row["state"] == "released" and not schedule.unanswered
        before, server = kernels_of(self.server), self.server
        stop_server(server)
        assert not faults_in_log(server), faults_in_log(server)
        left = {pid for pid in before if Path(f"/proc/{pid}/exe").exists()}
        assert not left, f"kernels outlive their server: {left}"
        self.server = schedule.server = run_server(
            server.folder.parent, *self.arguments, simulate=self.simulate
        )
        taken = _taken_over(self.server, self.kernel_id, patience=None if must else _TAKES_OVER)
        if not taken:
            assert not must, f"what was kept is lost with its server: {row}"
            schedule.server.start_kernel(row["size"], self.kernel_id)
        return taken


def _taken_over(server: Server, kernel_id: str, patience: float | None) -> bool:
    try:
        until(
            lambda: kernel_id in server.kernels(),
            "the next server takes the kernel over",
            patience,
        )
    except AssertionError:
        return False
    return True


def kernels_of(server: Server, folder: Path | None = None) -> set[int]:
    """Processes of kernels of a server; of those only that run in ``folder``, if one is named."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        if _is_kernel_of(process, server.process.pid, folder):
            found.add(int(process.name))
    return found


def _is_kernel_of(process: Path, server: int, folder: Path | None) -> bool:
    try:
        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        if parent != server:
            return False
        words = (process / "cmdline").read_bytes().split(b"\0")
        if folder is not None and (process / "cwd").readlink() != folder:
            return False
    except (OSError, ValueError):
        return False
    return any(b"ipykernel" in word for word in words)


def _of_jupyter(lines: list[str]) -> bool:
    """Whether it is jupyter_server's: it waits for a restart, and nobody for the outcome."""
    return "Timeout waiting for restart" in " ".join(lines)


def faults_in_log(server: Server) -> str:
    """Lines of a server's log in which this package's code tells that it met what must not be."""
    lines = server.log.read_text(errors="replace").splitlines()
    found = []
    for number, line in enumerate(lines):
        if any(words in line for words in _FAULTS) and not _of_jupyter(lines[number : number + 2]):
            found += ["", *lines[number : number + 40]]
    return "\n".join(found[:200])
