"""Jupyter servers as on machines of their own: another name of the host, another wall clock."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from waiting import PATIENCE

__all__ = ["Host", "shifted_clock"]


@dataclass(frozen=True)
class Host:
    """A machine that a server runs on.

    Attributes
    ----------
    apart: seconds by which its wall clock is ahead of this machine's.
    clock: the library that shifts it.
    """

    name: str
    apart: int
    clock: Path

    @property
    def prefix(self) -> tuple[str, ...]:
        """The command that runs the one after it there; the process is the same."""
        named = 'hostname "$0" && exec "$@"'
        shifted = ("env", f"LD_PRELOAD={self.clock}", f"CLOCK_APART={self.apart}")
        return ("unshare", "--uts", "sh", "-c", named, self.name, *shifted)


def shifted_clock(folder: Path) -> Path:
    """Compile the library that shifts a process's wall clock."""
    library = folder / "apart.so"
    source = Path(__file__).with_name("apart.c")
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(source)]
    subprocess.run(command, timeout=PATIENCE, check=True)
    return library
