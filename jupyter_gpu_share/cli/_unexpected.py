"""What the command says of errors that are not this package's own: one line, never a traceback."""

from __future__ import annotations

import errno

from traitlets import TraitError

from .._text import one_line

__all__ = ["in_a_line"]

_WAYS_OUT = {
    errno.EACCES: " Give this user the right to it.",
    errno.ENOSPC: " Make room there.",
    errno.EROFS: " Name a folder that can be written.",
}


def in_a_line(error: Exception) -> str:
    """What happened and what to do."""
    text = one_line(str(error)).rstrip(".")
    if isinstance(error, TraitError):
        return (
            f"A setting cannot be used: {text}. `jupyter --paths` names the folders of the "
            "configuration, jupyter_server_config."
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"The package {package} is missing in this environment: pip install {package}"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}.{_WAYS_OUT.get(error.errno or 0, '')}"
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return (
        f"This command met an error of its own: {what}. Run it again as "
        "`jupyter gpu-share --debug …`, and report what it prints."
    )
