"""What can go wrong with the test cluster."""

from __future__ import annotations

from pathlib import Path


class ClusterError(Exception):
    """The cluster cannot be built, started or used; says what happened and what the log says."""


class CannotRunError(ClusterError):
    """This machine has not what the cluster needs; one sentence says what."""


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log, indented, for an error's message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 32768))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return f"  (no log at {log})"
    lines = text.splitlines()[-count:]
    return "\n".join([f"Last lines of {log}:", *(f"  {line}" for line in lines)])
