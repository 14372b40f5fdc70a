"""What becomes of a kernel's processes: signals, exit codes, and the end of those that are left."""

import ctypes
import os
import signal
import time

from gpu_share_kernel import readings

__all__ = ["code", "exists", "inherit_orphans", "kill", "sweep"]

#: Seconds that what was killed gets until it is gone, and between two looks for it.
_SWEEP = 2.0
_SWEEP_LOOK = 0.005
_PR_SET_CHILD_SUBREAPER = 36


def inherit_orphans():
    """Become the parent of all that lose theirs, where the first process of a pod is another."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (OSError, AttributeError):
        pass


def exists(pid):
    """Whether there is such a process, or its zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def kill(pid, number):
    """Send a signal to a process that may be gone, or another's by now."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def code(status):
    """As :mod:`subprocess` gives it: negative for a signal."""
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def sweep(family, reap):
    """Kill processes, and see them gone.

    Parameters
    ----------
    family: gives those that are there; it is asked again and again.
    reap: waits for those that have ended.

    Returns
    -------
    set: those that are there still.
    """
    killed = set()  # type: set[int]
    until = time.monotonic() + _SWEEP
    while True:  # what is being killed may just have started something
        left = family()
        for pid in left - killed:
            kill(pid, signal.SIGKILL)
        killed |= left
        reap()
        left = readings.living(left)
        if not left or time.monotonic() > until:
            return left
        time.sleep(_SWEEP_LOOK)
