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

    Where it is not known how much memory the share is, PyTorch and JAX are held to its fraction.
    """
    wanted = granted_bytes() > 0 or part() < 1 or "JUPYTER_GPU_SHARE_VISIBLE" in os.environ
    if wanted and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def granted_bytes():
    """Bytes of memory on each GPU of the share."""
    return int(os.environ["JUPYTER_GPU_SHARE_MEMORY_BYTES"])


def part():
    """The part of each GPU that the share is, where its bytes are not known; else 1."""
    if granted_bytes() > 0 or os.environ.get("JUPYTER_GPU_SHARE_ISOLATION") != "framework":
        return 1.0
    above, _, below = os.environ.get("JUPYTER_GPU_SHARE_FRACTION", "1").partition("/")
    return int(above) / int(below or 1) or 1.0


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
        if granted_bytes() <= 0 and part() >= 1:
            return
        try:
            self._cap(module)
        except Exception as error:
            warnings.warn(
                "gpu-share: %s is not capped to this kernel's share: %s" % (module.__name__, error),
                RuntimeWarning,
                stacklevel=2,
            )


def _wraps(function):
    from functools import wraps  # not at the start of every Python

    return wraps(function)


def _look():
    """Whether the GPU that is chosen now is of the share. A child may have been given another."""
    try:
        from gpu_share_kernel import chosen
    except Exception:  # a library is to work without it
        return
    chosen.look()


def _cap_torch(cuda):
    """Set the fraction of every visible GPU when CUDA is initialised, not before.

    PyTorch counts the fraction from the memory that the device reports. A lower one of the user's
    stays.
    """
    tell = _keep_lower(cuda)

    def set_fractions():
        for device in range(cuda.device_count()):
            properties = cuda.get_device_properties(device)
            _check_gpu(str(getattr(properties, "uuid", "")))
            if device not in _asked_of_torch:
                _asked_of_torch[device] = _given_to_torch(cuda, device)
            tell(min(_asked_of_torch[device], _most_of_torch(cuda, device)), device)

    # PyTorch keeps what is asked of it before CUDA is there, and does it then.
    cuda._lazy_call(set_fractions)
    if granted_bytes() > 0:
        _watch()


#: Fractions that the user has asked PyTorch for, by the number of the GPU.
_asked_of_torch = {}  # type: dict[int, float]


def _most_of_torch(cuda, device):
    if granted_bytes() <= 0:
        return part()
    return min(1.0, cap_bytes() / cuda.get_device_properties(device).total_memory)


def _keep_lower(cuda):
    """Have a fraction that a cell sets never be more than the cap; PyTorch's own function."""
    tell = cuda.set_per_process_memory_fraction
    if hasattr(tell, "gpu_share_told"):
        return tell.gpu_share_told

    @_wraps(tell)
    def set_per_process_memory_fraction(fraction, device=None):
        tell(fraction, device)  # it checks what it is given
        number = device.partition(":")[2] or None if isinstance(device, str) else device
        number = number if isinstance(number, (str, int)) else getattr(number, "index", None)
        number = cuda.current_device() if number is None else int(number)
        _asked_of_torch[number] = fraction
        if fraction > _most_of_torch(cuda, number):
            tell(_most_of_torch(cuda, number), number)

    set_per_process_memory_fraction.gpu_share_told = tell
    name = tell.__name__
    for module in (cuda, sys.modules.get(cuda.__name__ + ".memory")):
        if getattr(module, name, None) is tell:
            setattr(module, name, set_per_process_memory_fraction)
    return tell


def _given_to_torch(cuda, device):
    """The fraction that the user has set before PyTorch began, in its own variables."""
    read = getattr(cuda, "get_per_process_memory_fraction", None)
    found = [1.0] if read is None else [float(read(device)) or 1.0]
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        for part in os.environ.get(name, "").split(","):
            key, _, value = part.partition(":")
            if key.strip() == "per_process_memory_fraction":
                found.append(float(value))
    return min(found)


def _cap_cupy(cupy):
    """It reads its limit itself."""
    if granted_bytes() <= 0:
        return
    _told_to_cupy.clear()
    _told_to_cupy[None] = _limit_of_cupy()
    _watch()


#: Bytes that CuPy was told last, by GPU (None: by the environment), and those that the user set.
_told_to_cupy = {}  # type: dict[int | None, int]
_asked_of_cupy = {}  # type: dict[int, int]


def _limit_of_cupy():
    """Bytes for each GPU; 0: as many as there are."""
    return int(os.environ.get("CUPY_GPU_MEMORY_LIMIT", "0"))


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
    of most notebooks, which tell it, do nothing then. Devices that a cell makes itself have no more
    together.
    """
    if granted_bytes() <= 0:
        return
    config = tensorflow.config
    limit = cap_bytes() // _MIB
    capped = config.list_physical_devices("GPU")
    tell_logical = config.set_logical_device_configuration
    for device in capped:
        tell_logical(device, [config.LogicalDeviceConfiguration(memory_limit=limit)])
    if not capped:
        return

    @_wraps(tell_logical)
    def set_logical_device_configuration(device, logical_devices):
        within = _within(logical_devices, limit) if device in capped else logical_devices
        tell_logical(device, within)

    config.set_logical_device_configuration = set_logical_device_configuration
    experimental = getattr(config, "experimental", None)
    if experimental is None:
        return
    if hasattr(experimental, "set_virtual_device_configuration"):  # its older name
        experimental.set_virtual_device_configuration = set_logical_device_configuration
    tell = experimental.set_memory_growth

    @_wraps(tell)
    def set_memory_growth(device, enable):
        if device not in capped:
            tell(device, enable)

    experimental.set_memory_growth = set_memory_growth


def _within(logical, limit):
    """Logical devices with at most so many MiB together; one without a limit would have all."""
    wanted = [limit if each.memory_limit is None else each.memory_limit for each in logical]
    whole = max(sum(wanted), limit)
    limits = [amount * limit // whole for amount in wanted]
    return [each._replace(memory_limit=limits[n]) for n, each in enumerate(logical)]


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
    limit = _limit_of_cupy()
    for device in range(cupy.cuda.runtime.getDeviceCount()):
        with cupy.cuda.Device(device):
            pool = cupy.get_default_memory_pool()
            found = pool.get_limit()
            # A pool that is only made now has read the variable as it is now.
            if found not in (_told_to_cupy.get(device, _told_to_cupy.get(None, found)), limit):
                _asked_of_cupy[device] = found
            asked = _asked_of_cupy.get(device, 0)
            lower = min(limit or asked, asked or limit)
            pool.set_limit(size=lower)
            _told_to_cupy[device] = lower


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
