"""Soft caps: tells PyTorch and TensorFlow, once they are imported, how much memory they may take.

JAX and CuPy read theirs from the environment. Nothing is imported on a framework's behalf; the
hooks cost a dictionary look-up for each import. A framework whose interface has changed is used
without a cap and says so: the use above the share is then still seen from outside.
"""

import os
import sys
import warnings
from importlib.machinery import PathFinder

_MIB = 2**20


def install():
    """Have the caps put in as the frameworks are imported. Idempotent.

    Nothing is capped where it is not known how much memory the share is.
    """
    if granted_bytes() > 0 and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def granted_bytes():
    """Bytes of memory on each GPU of the share."""
    return int(os.environ["JUPYTER_GPU_SHARE_MEMORY_BYTES"])


class _Finder:
    """Finds nothing itself: it wraps the loaders of the modules that are to be capped."""

    def find_spec(self, name, path=None, target=None):
        cap = _CAPS.get(name)
        if cap is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader, cap)  # type: ignore[assignment]
        return spec


class _Loader:
    """Runs the module as its own loader does, then the cap."""

    def __init__(self, loader, cap):
        self._loader = loader
        self._cap = cap

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        try:
            self._cap(module)
        except Exception as error:
            warnings.warn(
                "gpu-share: %s is not capped to this kernel's share: %s" % (module.__name__, error),
                RuntimeWarning,
                stacklevel=2,
            )


def _cap_torch(cuda):
    """Set the fraction of every visible GPU when CUDA is initialised, not before.

    PyTorch counts the fraction from the memory that the device reports.
    """

    def set_fractions():
        for device in range(cuda.device_count()):
            total = cuda.get_device_properties(device).total_memory
            cuda.set_per_process_memory_fraction(min(1.0, granted_bytes() / total), device)

    # PyTorch keeps what is asked of it before CUDA is there, and does it then.
    cuda._lazy_call(set_fractions)


def _cap_tensorflow(tensorflow):
    """Make one logical device of each GPU, with the memory of the share."""
    config = tensorflow.config
    limit = granted_bytes() // _MIB
    for device in config.list_physical_devices("GPU"):
        logical = config.LogicalDeviceConfiguration(memory_limit=limit)
        config.set_logical_device_configuration(device, [logical])


def renew_torch():
    """Set the fraction again, where PyTorch is there."""
    cuda = sys.modules.get("torch.cuda")
    if cuda is not None:
        _cap_torch(cuda)


def renew_cupy():
    """Set the limit of CuPy's pool again, where CuPy has one that works."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return
    limit = int(os.environ.get("CUPY_GPU_MEMORY_LIMIT", "0"))  # 0: none
    for device in range(cupy.cuda.runtime.getDeviceCount()):
        with cupy.cuda.Device(device):
            cupy.get_default_memory_pool().set_limit(size=limit)


_CAPS = {"torch.cuda": _cap_torch, "tensorflow": _cap_tensorflow}
