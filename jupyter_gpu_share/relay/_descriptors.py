"""File descriptors: how many this process may have open, and what it says when that is too few."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress

__all__ = ["can_open", "raise_descriptor_limit", "too_many", "words"]

_log = logging.getLogger(__name__)

#: Programs that go through all possible descriptors take too long beyond this many.
_MOST = 65_536
#: Some systems name a hard limit that they do not grant: what to try then.
_MODEST = (10_240, 4096)


def raise_descriptor_limit() -> int | None:
    """Let this process open as many descriptors as it may, up to 65,536.

    A relay needs 25, so the usual limit of 1024 is met at 40 kernels. The limit is never lowered;
    what may not be done is left. Returns the limit that holds then; None where there is none.
    """
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    most = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    for wanted in (most, *_MODEST):
        if soft < wanted <= most:
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                _log.debug("The limit of open files was raised from %d to %d", soft, wanted)
                return wanted
    return soft


def too_many(error: BaseException) -> bool:
    """Whether an error says that no descriptor or thread was left."""
    if isinstance(error, OSError) or hasattr(error, "errno"):
        return getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE)
    return isinstance(error, RuntimeError) and "new thread" in str(error)


def words(error: BaseException) -> str:
    """What happened and what to do, for the user."""
    if isinstance(error, RuntimeError):
        return (
            "The kernel cannot be connected: too many threads in the Jupyter server. Shut down "
            "kernels that are not needed, or raise the limit (ulimit -u) and start the server "
            "again."
        )
    return (
        "The kernel cannot be connected: too many open files in the Jupyter server. Shut down "
        "kernels that are not needed, or raise the limit (ulimit -n) and start the server again."
    )


def can_open(descriptors: int) -> None:
    """See that so many descriptors can be opened now.

    libzmq opens those of connections in a thread of its own, and tries for ever where there are
    none; at some places it ends the process then.

    Raises
    ------
    OSError: they cannot.
    """
    opened: list[int] = []
    try:
        while len(opened) < descriptors:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for each in opened:
            os.close(each)
