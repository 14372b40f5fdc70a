"""Moving what a process holds off its GPUs, and back, while the process lives on.

The share can be somebody else's meanwhile. On simulated GPUs the simulated memory is moved, by the
same steps; on NVIDIA's the driver's process checkpoint does it.
"""

import os
import time

from gpu_share_kernel import driver

__all__ = ["failed", "is_simulated", "plan", "resume", "vacate"]

#: Seconds until a process is tried again whose GPU was still at work; each time twice as many.
_AGAIN, _LONGEST = 60.0, 3600.0
#: What CUDA looks at when it begins.
_VISIBLE = "CUDA_VISIBLE_DEVICES"

#: Whether the state of CUDA may be away. The driver closes its files with a checkpoint, so nothing
#: else tells that it was ever opened.
_away = False
#: What was visible before GPUs were hidden from a process that has not used any; empty: nothing is.
_hidden = []  # type: list[str | None]
#: Why it did not work, until when that counts, and how often in a row the GPU was at work.
_snag, _until, _busy = "", 0.0, 0


def plan():
    """How this process would move off its GPUs.

    ``how`` is ``nothing`` (it has nothing there), ``simulated``, ``cuda``, or ``none``; ``why`` is
    a sentence for the user where it is ``none``.
    """
    if not os.environ.get("JUPYTER_GPU_SHARE_UUID"):
        return {"how": "none", "why": "The kernel holds no share."}
    if is_simulated():
        from gpu_share_kernel import simulated

        return {"how": "simulated" if simulated.opened() else "nothing", "why": ""}
    if _away:  # what is to be done is done, or half of it
        return {"how": "cuda", "why": ""}
    if _holds_nothing():
        return {"how": "nothing", "why": ""}
    if _snag and time.monotonic() < _until:
        return {"how": "none", "why": _snag}
    from gpu_share_kernel import cuda

    why = cuda.hindrance()
    return {"how": "none" if why else "cuda", "why": why}


def failed(why):
    """Moving did not work: for the rest of its life this process is not moved again.

    Each try carries all that it has on the GPU to the machine and back.
    """
    _note(why, float("inf"))


def vacate():
    """Move off the GPUs; returns what :func:`plan` said and the bytes that were moved.

    ``bytes`` are those of all GPUs, ``most`` those of the one that had most. ``proven`` is true
    where the driver has told that it is done, and the memory was seen to be free.

    Raises
    ------
    RuntimeError: it cannot be done. Everything is as before.
    """
    planned = plan()
    moved = most = 0
    proven = False
    if planned["how"] == "none":
        raise RuntimeError(planned["why"])
    if is_simulated():
        from gpu_share_kernel import simulated

        moved = simulated.vacate()
        most = simulated.most()
    elif planned["how"] == "cuda":
        moved = most = _vacate_cuda()
        proven = True
    else:
        # None of its threads shall begin to use a GPU while it has no share.
        _hide()
    return {"how": planned["how"], "bytes": moved, "most": most, "proven": proven}


def resume():
    """Move back onto the GPUs. Nothing where :func:`vacate` was not called.

    Raises
    ------
    RuntimeError, MemoryError: there is no room for it. Everything stays where it is.
    """
    global _away
    if is_simulated():
        from gpu_share_kernel import simulated

        simulated.resume()
        return
    _show()
    if _away or driver.reached():
        from gpu_share_kernel import cuda

        cuda.resume()
        _away = False


def is_simulated():
    """Whether the GPUs of this kernel's share are simulated."""
    return "JUPYTER_GPU_SHARE_SIMULATED_BYTES" in os.environ


def _holds_nothing():
    """Whether neither this process nor one that it has started has anything on a GPU."""
    from gpu_share_kernel import cuda_signs

    if cuda_signs.children():
        return False
    return not driver.reached() or cuda_signs.has_no_context()


def _vacate_cuda():
    global _away, _snag, _until, _busy
    from gpu_share_kernel import caps, cuda

    if not _away:
        caps.empty_caches()  # what nobody needs is not carried to the machine and back
    _away = True
    try:
        moved = cuda.vacate()
    except cuda.BusyError as error:
        _note(str(error), time.monotonic() + min(_AGAIN * 2**_busy, _LONGEST))
        _busy += 1
        raise
    except RuntimeError as error:
        failed(str(error))
        raise
    _snag, _until, _busy = "", 0.0, 0
    return moved


def _note(why, until):
    global _snag, _until
    _snag, _until = "Moving the GPU's memory away did not work before: %s" % why, until


def _hide():
    if not _hidden:
        _hidden.append(os.environ.get(_VISIBLE))
        os.environ[_VISIBLE] = ""


def _show():
    while _hidden:
        before = _hidden.pop()
        if before is None:
            os.environ.pop(_VISIBLE, None)
        else:
            os.environ[_VISIBLE] = before
