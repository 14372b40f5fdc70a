"""A kernelspec's command, as it is run in a pod. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PureWindowsPath

__all__ = ["command_of", "flags_of"]

_PYTHON = re.compile(r"python[\d.]*t?(\.exe)?", re.IGNORECASE)


def command_of(argv: Sequence[str], python: str) -> list[str]:
    """The command for the pod: in the place of any interpreter of Python stands the image's own.

    Other programs, as of kernels for R or Julia, are called by the name that the kernelspec has.
    """
    if not argv:
        return []
    first, *rest = argv
    return [python if _is_python(first) else first, *rest]


def flags_of(argv: Sequence[str]) -> tuple[str, ...]:
    """The interpreter's flags in a command ``python -X… -m ipykernel_launcher …``."""
    parts = list(argv)
    if "-m" not in parts or not _is_python(parts[0]):
        return ()
    return tuple(part for part in parts[1 : parts.index("-m")] if part.startswith("-"))


def _is_python(program: str) -> bool:
    # It takes both kinds of slashes: the kernelspec is of the server's machine.
    return _PYTHON.fullmatch(PureWindowsPath(program).name) is not None
