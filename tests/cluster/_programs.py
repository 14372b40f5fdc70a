"""Programs that outlive the process that started them, told apart by pid and start time."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ._errors import ClusterError, last_lines

#: Longest wait for a program to end by itself, in seconds.
PATIENCE = 20.0
#: Seconds between two looks, at first and where it takes long.
_POLL, _LONGEST_POLL = 0.02, 0.2


def wait_for(
    holds: Callable[[], Any],
    what: str,
    patience: float,
    explain: Callable[[], str] | None = None,
) -> Any:
    """Wait until ``holds()`` is true, and return its value; `ClusterError` after ``patience`` s.

    ``explain`` is asked only then.
    """
    end, pause = time.monotonic() + patience, _POLL
    while True:
        result = holds()
        if result:
            return result
        if time.monotonic() > end:
            told = f"\n{explain()}" if explain else ""
            raise ClusterError(f"{what}: not within {patience:.0f} s.{told}")
        time.sleep(pause)
        pause = min(1.2 * pause, _LONGEST_POLL)


def _stat(pid: int) -> tuple[str, str] | None:
    """State, one letter, and start time in clock ticks since boot; None if there is no process."""
    try:
        # The name, in brackets, may contain anything; fields are counted from 3 behind it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], fields[19]


def _gone(pid: int, state: str) -> bool:
    """Whether a process in this state has let go of everything, its ports included.

    That of a process is its first thread's, which may have ended before the others.
    """
    if state not in "ZX":
        return False
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir()) <= 1
    except (FileNotFoundError, ProcessLookupError):
        return True


def process_start(pid: int) -> str | None:
    """When a process started, which tells it from a later one with its pid; None if it ended."""
    found = _stat(pid)
    return None if found is None or _gone(pid, found[0]) else found[1]


class Program:
    """One program of the cluster: where its pid is kept, and its log."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.log = folder / "logs" / f"{name}.log"
        self._record = folder / "programs" / f"{name}.json"

    @property
    def pid(self) -> int | None:
        """The running program's pid."""
        try:
            record = json.loads(self._record.read_text())
        except FileNotFoundError:
            return None
        pid, start = int(record["pid"]), record["start"]
        found = _stat(pid)
        if found is None or found[1] != start:
            return None
        if _gone(pid, found[0]):
            self._reap(pid)
            return None
        return pid

    @property
    def state(self) -> str:
        """``running``, ``paused`` or ``stopped``."""
        pid = self.pid
        found = None if pid is None else _stat(pid)
        if found is None:
            return "stopped"
        return "paused" if found[0] == "T" else "running"

    @staticmethod
    def _reap(pid: int) -> None:
        # Only the process that started it is its parent.
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass

    def start(self, command: Sequence[str | Path], env: Mapping[str, str]) -> None:
        """Start it in a session of its own, so that no terminal's signal reaches it."""
        if self.pid is not None:
            raise ClusterError(f"{self.name} runs already")
        for path in (self.log, self._record):
            path.parent.mkdir(parents=True, exist_ok=True)
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        arguments = [str(word) for word in command]
        pid = os.posix_spawn(
            arguments[0],
            arguments,
            dict(env),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            # Python ignores some signals, and its children would go on doing so.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT],
            setsigmask=[],
        )
        found = _stat(pid)
        # It is there, as a zombie at least, until it is reaped.
        assert found is not None
        record = {"pid": pid, "start": found[1], "command": arguments}
        fresh = self._record.with_suffix(".new")
        fresh.write_text(json.dumps(record))
        fresh.rename(self._record)

    def wait_until(self, holds: Callable[[], Any], what: str, patience: float) -> Any:
        """Wait for a sign of life; an error at once if the program ends instead."""

        def check() -> Any:
            result = holds()
            if not result and self.pid is None:
                raise ClusterError(f"{self.name} ended by itself.\n{last_lines(self.log)}")
            return result

        return wait_for(check, f"{self.name}: {what}", patience, lambda: last_lines(self.log))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the running program."""
        pid = self.pid
        if pid is None:
            raise ClusterError(f"{self.name} does not run")
        os.kill(pid, number)

    def stop(self) -> None:
        """End it, by force if it does not end when it is told to; nothing if it does not run."""
        pid = self.pid
        if pid is None:
            return
        try:
            os.kill(pid, signal.SIGTERM)
            # A paused program would see the signal only when it is resumed.
            os.kill(pid, signal.SIGCONT)
            wait_for(lambda: self.pid is None, f"{self.name} ends", PATIENCE)
        except ProcessLookupError:
            pass
        except ClusterError:
            self.kill()

    def kill(self) -> None:
        """End it without a chance to tidy up; nothing if it does not run."""
        pid = self.pid
        if pid is None:
            return
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        wait_for(lambda: self.pid is None, f"{self.name} is gone", PATIENCE)
