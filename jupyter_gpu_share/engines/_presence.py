"""Whether this machine may have GPUs to share, found out before an engine is loaded."""

from __future__ import annotations

import ctypes

__all__ = ["SIMULATE", "driver_is_installed"]

#: Describes GPUs that are simulated, in the environment.
SIMULATE = "JUPYTER_GPU_SHARE_SIMULATE"


def driver_is_installed() -> bool:
    """Whether NVIDIA's driver has its library here. Takes a moment, and asks no GPU."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True
