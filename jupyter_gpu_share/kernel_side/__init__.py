"""What runs in kernels: the standard library only, any Python from 3.8.

The engine puts this folder first on the ``PYTHONPATH`` of a kernel. Nothing of the server is
imported there, and the kernel's environment needs no package of ours. The one thing that snapshots
of variables need beside it, cloudpickle, is the kernel's own where it has one, else the server's.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

__all__ = ["CLOUDPICKLE", "DELIVERED", "PATH", "cloudpickle"]

#: The folder for a kernel's ``PYTHONPATH``.
PATH = Path(__file__).parent
#: Variable of a kernel's environment: the folder that holds the server's cloudpickle. Only
#: cloudpickle is ever imported from there, whatever else the folder has.
CLOUDPICKLE = "JUPYTER_GPU_SHARE_CLOUDPICKLE"
#: Where the kernel looks as well, below the folder with these files. Not importable by itself: a
#: kernel's own cloudpickle comes first.
DELIVERED = "delivered"


def cloudpickle() -> Path:
    """The folder that holds the server's cloudpickle, for :data:`CLOUDPICKLE`.

    Raises
    ------
    ModuleNotFoundError: it is not installed, though this package depends on it.
    """
    spec = find_spec("cloudpickle")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("cloudpickle is not installed; install jupyter-gpu-share anew.")
    return Path(spec.origin).parent.parent
