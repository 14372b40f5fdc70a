"""The limits of this kernel's share, seen and set while the process lives.

They are variables of the environment, read when something is allocated, and caps that frameworks
have taken from them.
"""

import os
import sys
from contextlib import suppress

from gpu_share_kernel import caps, driver, vacate

__all__ = ["change", "given", "look", "renew", "tell"]

#: Whether variables were set that frameworks have not been told of yet.
_stale = False
#: Names and values of variables that were set here, not by the user.
given = {}  # type: dict[str, str | None]
#: Frameworks that take their limit once, when they first use the GPU, by module.
_FIXED = {"tensorflow": "TensorFlow", "jax": "JAX"}


def look():
    """How much of a GPU is in use, and whether other limits can be set.

    ``used`` are bytes on the fullest GPU of the share, without what frameworks keep for later use;
    None where they cannot be read. ``why`` is a sentence where no other limits can be set.
    """
    if not vacate.is_simulated():
        caps.empty_caches()
    used = _used()
    why = "" if used is not None else "How much of its GPU the kernel uses cannot be read."
    return {"used": used, "why": _fixed() or why}


def change(limits):
    """Take on other limits.

    Raises
    ------
    RuntimeError: more is in use than they allow, or that cannot be read. Nothing has changed.
    """
    granted = int(limits["JUPYTER_GPU_SHARE_MEMORY_BYTES"])
    if granted < caps.granted_bytes():
        found = look()
        if found["why"]:
            raise RuntimeError(found["why"])
        if found["used"] > granted:
            raise RuntimeError("The kernel uses %d MiB of its GPU." % (found["used"] // 2**20))
    before = {name: os.environ.get(name) for name in limits}
    tell(limits)
    try:
        renew()
    except BaseException:
        tell(before)
        with suppress(Exception):
            renew()
        raise


def tell(limits):
    """Set the variables only, for a process that is off its GPU."""
    global _stale
    changed = {name: value for name, value in limits.items() if os.environ.get(name) != value}
    for name, value in changed.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    given.update(changed)
    _stale = _stale or bool(changed)


def renew():
    """Put the limits into frameworks that have taken theirs already, where any has changed."""
    global _stale
    if not _stale:
        return
    caps.install()
    if not vacate.is_simulated():
        caps.renew_torch()
        if driver.reached():  # else it reads the variable when it is first used
            caps.renew_cupy()
    _stale = False


def _used():
    if not vacate.is_simulated():
        return _used_of_nvidia()
    from gpu_share_kernel import simulated

    return simulated.most()


def _used_of_nvidia():
    if not driver.reached():
        return 0
    from gpu_share_kernel import cuda_signs

    rows = cuda_signs.devices(os.getpid())
    if rows is None or any(used is None for used, _ in rows.values()):
        return None
    return max(used for used, _ in rows.values())


def _fixed():
    """Why a framework would go on with the limit that it has; empty: none would."""
    if vacate.is_simulated():
        return ""
    for module, name in _FIXED.items():
        if module in sys.modules:
            return "%s keeps to the limit that it was started with." % name
    return ""
