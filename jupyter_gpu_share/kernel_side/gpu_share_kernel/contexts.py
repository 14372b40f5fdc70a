"""How much CUDA takes of a GPU beside what frameworks count, measured after cells that use it.

It is what NVIDIA's library shows for this process without what the frameworks say they hold. Where
either is not known, nothing is measured. The server leaves the most that was seen out of caps.
"""

import json
import os
import sys
from contextlib import suppress

__all__ = ["measure", "watch"]

#: Variable of a kernel's environment: the file of the most that was seen. Not set: nobody asks.
FILE = "JUPYTER_GPU_SHARE_CONTEXT_FILE"
#: Of what is in the file.
VERSION = 1
_MIB = 2**20
#: What a context can take. More is memory that somebody else has taken in this process.
_LEAST, _MOST = 32 * _MIB, 2048 * _MIB
#: They take memory that nobody tells of.
_SILENT = ("cudf", "jax", "numba.cuda", "onnxruntime", "pycuda", "rmm", "tensorflow")
#: Each so many times as many cells later libraries of CUDA may have been loaded, which take more.
_SLOWER = 4

_watched = False
_cells, _next = 0, 1


def watch():
    """Measure after some of the cells that are run from now on. Idempotent."""
    global _watched
    shell = _shell() if os.environ.get(FILE) and not _watched else None
    if shell is not None:
        shell.events.register("post_run_cell", _after_cell)
        _watched = True


def measure():
    """Bytes that the context takes; None where that is not known.

    It takes as long as a process needs to start.
    """
    from gpu_share_kernel import cuda_signs, driver

    if any(name in sys.modules for name in _SILENT):
        return None
    found = driver.contexts()
    if found is None or len(found) != 1:
        return None
    before = _held()
    rows = cuda_signs.devices(os.getpid())
    # A thread of the user's may have taken more meanwhile.
    if before is None or rows is None or found[0] not in rows or before != _held():
        return None
    used = rows[found[0]][0]
    amount = None if used is None else used - before
    return amount if amount is not None and _LEAST <= amount <= _MOST else None


def _after_cell(_result=None):
    global _cells, _next
    from gpu_share_kernel import driver

    try:
        if not driver.contexts():
            return
        _cells += 1
        if _cells < _next:
            return
        _next = _cells * _SLOWER
        amount = measure()
        if amount is not None:
            _note(os.environ[FILE], amount)
    except Exception:  # the estimate stays
        return


def _held():
    """Bytes that frameworks have of GPUs, those kept for later use included; None: not known."""
    total = 0
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is None and cupy is None:
        return None
    if torch is not None:
        total += sum(torch.cuda.memory_reserved(n) for n in range(torch.cuda.device_count()))
    if cupy is not None:
        total += cupy.get_default_memory_pool().total_bytes()
    return total


def _note(path, amount):
    """Write it down, where it is more than what is there."""
    with suppress(OSError, ValueError, KeyError, TypeError), open(path) as file:
        found = json.load(file)
        if found["version"] == VERSION and found["bytes"] >= amount:
            return
    draft = "%s.%d" % (path, os.getpid())
    number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(number, "w") as file:
        json.dump({"version": VERSION, "bytes": amount}, file)
    os.replace(draft, path)


def _shell():
    """IPython's shell, where this process is a kernel."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()
