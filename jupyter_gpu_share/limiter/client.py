"""What the engine asks of the service. All functions block for as long as that takes."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import EngineError

__all__ = ["NOT_JOINED", "command", "end", "make", "set_limits"]

#: Exit code of a process that was not taken into its group, so that it did not become the kernel.
NOT_JOINED = 97
#: Seconds for an answer: killed processes have to be gone.
_PATIENCE = 20.0


def make(path: str, group: str, limits: Mapping[str, int]) -> None:
    """Have a group made for a kernel. ``limits`` are bytes by uuid.

    Raises
    ------
    EngineError: it was refused, or nobody answers. There is no such group then.
    """
    _ask(path, {"do": "make", "group": group, "limits": dict(limits)})


def set_limits(path: str, group: str, limits: Mapping[str, int]) -> None:
    """Set other limits of a group.

    Raises
    ------
    EngineError: it was refused, or nobody answers.
    """
    _ask(path, {"do": "set", "group": group, "limits": dict(limits)})


def end(path: str, group: str) -> None:
    """Kill what is in a group, and remove it. Nothing where there is none.

    Raises
    ------
    EngineError: processes are left in it, or nobody answers.
    """
    _ask(path, {"do": "end", "group": group})


def command(path: str, group: str, argv: Sequence[str]) -> list[str]:
    """A command that comes into a group and then becomes ``argv``, in the same process."""
    join = Path(__file__).with_name("join.py")
    return [sys.executable, "-I", "-S", str(join), path, group, *argv]


def _ask(path: str, request: Mapping[str, Any]) -> None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE)
            connection.connect(path)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as stream:
                answer = json.loads(stream.readline())
    except (OSError, ValueError) as error:
        raise EngineError(
            f"The service that limits GPU memory does not answer at {path} ({error}); the "
            "administrator has to start it, or to unset c.LocalEngine.limiter."
        ) from error
    if "error" in answer:
        raise EngineError(f"GPU memory cannot be limited: {answer['error']}")
