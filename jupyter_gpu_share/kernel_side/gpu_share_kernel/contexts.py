"""How much CUDA takes of a GPU beside what frameworks count, measured after cells that use it.

It is what NVIDIA's library shows for this process without what the frameworks say they hold. Where
either is not known, nothing is measured. The server leaves the most that was seen out of caps.
"""

import json
import os
import sys
from contextlib import suppress

__all__ = ["measure", "watch"]

#: Variable of a kernel's environment: the file of the most that was seen, for each GPU of the share
#: in their order. Not set: nobody asks.
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
    """Bytes that the context takes, by GPU of the share; of those for which that is known.

    It takes as long as a process needs to start.
    """
    from gpu_share_kernel import cuda_signs, driver

    if any(name in sys.modules for name in _SILENT) or cuda_signs.visible_communicators():
        return {}
    found = driver.contexts()
    before = _held()
    rows = cuda_signs.devices(os.getpid()) if found and before is not None else None
    # A thread of the user's may have taken more meanwhile.
    if not found or before is None or rows is None or before != _held():
        return {}
    amounts = {
        uuid: used - before.get(uuid, 0)
        for uuid, (used, _) in rows.items()
        if used is not None and uuid in found
    }
    return {uuid: n for uuid, n in amounts.items() if _LEAST <= n <= _MOST}


def _after_cell(_result=None):
    global _cells, _next
    from gpu_share_kernel import cuda_signs, driver

    try:
        if not driver.contexts():
            return
        _cells += 1
        if _cells < _next:
            return
        _next = _cells * _SLOWER
        amounts = measure()
        for number, uuid in enumerate(cuda_signs.uuids()):
            if uuid in amounts:
                _note(os.environ[FILE].split(os.pathsep)[number], amounts[uuid])
    except Exception:  # the estimate stays
        return


def _held():
    """Bytes that frameworks have, by GPU, those kept for later use included; None: not known."""
    from gpu_share_kernel import driver

    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    visible = driver.visible()
    if visible is None or (torch is None and cupy is None):
        return None
    total = dict.fromkeys(visible, 0)
    for number, uuid in enumerate(visible):
        if torch is not None and number < torch.cuda.device_count():
            total[uuid] += torch.cuda.memory_reserved(number)
        if cupy is not None:
            with cupy.cuda.Device(number):
                total[uuid] += cupy.get_default_memory_pool().total_bytes()
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
