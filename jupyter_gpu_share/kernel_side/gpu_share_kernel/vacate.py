"""Moving what a process holds off its GPUs, and back, while the process lives on.

The share can be somebody else's meanwhile. On simulated GPUs the simulated memory is moved, by the
same steps; on NVIDIA's the driver's process checkpoint does it.
"""

import os

__all__ = ["is_simulated", "opened_nvidia", "plan", "resume", "vacate"]

#: Whether the state of CUDA may be away. The driver closes its files with a checkpoint, so nothing
#: else tells that it was ever opened.
_away = False


def plan():
    """How this process would move off its GPUs.

    ``how`` is ``nothing`` (it never opened one), ``simulated``, ``cuda``, or ``none``; ``why`` is
    a sentence for the user where it is ``none``.
    """
    if not os.environ.get("JUPYTER_GPU_SHARE_UUID"):
        return {"how": "none", "why": "The kernel holds no share."}
    if is_simulated():
        from gpu_share_kernel import simulated

        return {"how": "simulated" if simulated.opened() else "nothing", "why": ""}
    if _away:  # what is to be done is done, or half of it
        return {"how": "cuda", "why": ""}
    if not opened_nvidia():
        return {"how": "nothing", "why": ""}
    from gpu_share_kernel import cuda

    why = cuda.hindrance()
    return {"how": "none" if why else "cuda", "why": why}


def vacate():
    """Move off the GPUs; returns what :func:`plan` said and the bytes that were moved.

    ``bytes`` are those of all GPUs, ``most`` those of the one that had most.

    Raises
    ------
    RuntimeError: it cannot be done. Everything is as before.
    """
    global _away
    planned = plan()
    moved = most = 0
    if planned["how"] == "none":
        raise RuntimeError(planned["why"])
    # Of a process that never opened the GPU, none of its threads shall do so while it has no share.
    if is_simulated():
        from gpu_share_kernel import simulated

        moved = simulated.vacate()
        most = simulated.most()
    elif planned["how"] == "cuda":
        from gpu_share_kernel import cuda

        _away = True
        moved = most = cuda.vacate()
    return {"how": planned["how"], "bytes": moved, "most": most}


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
    elif _away or opened_nvidia():
        from gpu_share_kernel import cuda

        cuda.resume()
        _away = False


def is_simulated():
    """Whether the GPUs of this kernel's share are simulated."""
    return "JUPYTER_GPU_SHARE_SIMULATED_BYTES" in os.environ


def opened_nvidia():
    """Whether a file of the NVIDIA driver is open in this process; unknown counts as opened."""
    folder = "/proc/self/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return True
    for name in names:
        try:
            if os.readlink(os.path.join(folder, name)).startswith("/dev/nvidia"):
                return True
        except OSError:
            continue
    return False
