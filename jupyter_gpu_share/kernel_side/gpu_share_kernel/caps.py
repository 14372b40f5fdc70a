"""Soft caps: tells PyTorch and TensorFlow, once they are imported, how much memory they may take.

JAX and CuPy read theirs from the environment; JAX's has two names. Nothing is imported on a
framework's behalf; the hooks cost a dictionary look-up for each import. A framework whose interface
has changed is used without a cap and says so: the use above the share is then still seen from
outside.
"""

import os
import sys
import warnings

_MIB = 2**20


def install():
    """Have the caps put in as the frameworks are imported. Idempotent.

    Nothing is capped where it is not known how much memory the share is.
    """
    wanted = granted_bytes() > 0 or "JUPYTER_GPU_SHARE_VISIBLE" in os.environ
    if wanted and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def granted_bytes():
    """Bytes of memory on each GPU of the share."""
    return int(os.environ["JUPYTER_GPU_SHARE_MEMORY_BYTES"])


def cap_bytes():
    """What of them a framework may take: the context of CUDA, which no framework counts, is left.

    Servers of older versions do not tell it.
    """
    granted = granted_bytes()
    told = os.environ.get("JUPYTER_GPU_SHARE_CAP_BYTES", "")
    return min(granted, int(told)) if told.isdigit() else granted


class _Finder:
    """Finds nothing itself: it wraps the loaders of the modules that are to be capped."""

    def find_spec(self, name, path=None, target=None):
        cap = _CAPS.get(name)
        if cap is None:
            return None
        spec = _find(name, path, target)
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader, cap)
        return spec


def _find(name, path, target):
    """What the finders behind ours find: an editable install has one of its own."""
    for finder in sys.meta_path:
        if isinstance(finder, _Finder) or not hasattr(finder, "find_spec"):
            continue
        spec = finder.find_spec(name, path, target)
        if spec is not None:
            return spec
    return None


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
        _look()
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        if granted_bytes() <= 0:
            return
        try:
            self._cap(module)
        except Exception as error:
            warnings.warn(
                "gpu-share: %s is not capped to this kernel's share: %s" % (module.__name__, error),
                RuntimeWarning,
                stacklevel=2,
            )


def _look():
    """Whether the GPU that is chosen now is of the share. A child may have been given another."""
    try:
        from gpu_share_kernel import chosen
    except Exception:  # a library is to work without it
        return
    chosen.look()


def _cap_torch(cuda):
    """Set the fraction of every visible GPU when CUDA is initialised, not before.

    PyTorch counts the fraction from the memory that the device reports.
    """

    def set_fractions():
        for device in range(cuda.device_count()):
            properties = cuda.get_device_properties(device)
            total = properties.total_memory
            _check_gpu(str(getattr(properties, "uuid", "")))
            cuda.set_per_process_memory_fraction(min(1.0, cap_bytes() / total), device)

    # PyTorch keeps what is asked of it before CUDA is there, and does it then.
    cuda._lazy_call(set_fractions)
    _watch()


def _cap_cupy(cupy):
    """It reads its limit itself."""
    _watch()


def _watch():
    from gpu_share_kernel import contexts

    contexts.watch()


def _check_gpu(uuid):
    """Say so where a GPU is used that is not of the share: a cell has chosen it by its number."""
    own = [name for name in os.environ.get("JUPYTER_GPU_SHARE_UUID", "").split(",") if name]
    # Of an instance of MIG it is not certain whose name is told.
    if uuid and own and all(name.startswith("GPU-") for name in own):
        from gpu_share_kernel import chosen

        chosen.say_used("GPU-" + uuid)


def _cap_tensorflow(tensorflow):
    """Make one logical device of each GPU, with the memory of the share.

    Memory of such a device grows in any case, and TensorFlow refuses to be told so: the first lines
    of most notebooks, which tell it, do nothing then.
    """
    config = tensorflow.config
    limit = cap_bytes() // _MIB
    capped = config.list_physical_devices("GPU")
    for device in capped:
        logical = config.LogicalDeviceConfiguration(memory_limit=limit)
        config.set_logical_device_configuration(device, [logical])
    if not capped or not hasattr(config, "experimental"):
        return
    experimental = config.experimental
    tell = experimental.set_memory_growth

    def set_memory_growth(device, enable):
        if device not in capped:
            tell(device, enable)

    experimental.set_memory_growth = set_memory_growth


def _cap_jax(jaxlib):
    """Leave JAX one name of its variable, with the lower of both: with two it does not start."""
    new, old = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
    if new not in os.environ:
        return
    ours = os.environ.pop(old, None)
    if ours is None:  # one that was saved had both, and its share may be smaller now
        above, _, below = os.environ.get("JUPYTER_GPU_SHARE_FRACTION", "1").partition("/")
        ours = str(int(above) / int(below or 1))
    try:
        lower = float(os.environ[new]) <= float(ours)
    except ValueError:
        lower = False
    if not lower:
        os.environ[new] = ours


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


def empty_caches():
    """Have frameworks give back memory of GPUs that no object of the user's is in."""
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is None and cupy is None:
        return
    import gc

    from gpu_share_kernel import driver

    # CuPy would begin to use the GPU when it is asked, and a process that is away would wait.
    if not driver.reached() or driver.is_locked():
        return
    gc.collect()
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if cupy is not None:
        cupy.get_default_memory_pool().free_all_blocks()


_CAPS = {
    "torch.cuda": _cap_torch,
    "cupy": _cap_cupy,
    "tensorflow": _cap_tensorflow,
    "jaxlib": _cap_jax,
}
