"""What this process has of NVIDIA's driver, by its files and its own word.

Nothing is loaded and nothing begun by asking: what is not in the process yet holds nothing. What
cannot be seen counts as held.
"""

import ctypes
import os

__all__ = ["contexts", "is_locked", "is_wsl", "open_files", "reached", "visible"]

_PROC = "/proc"
#: On Linux, and under WSL2.
_FILES = ("/dev/nvidia", "/dev/dxg")
_CUDA = "libcuda.so"
#: Libraries that hold memory of a GPU besides.
_OTHERS = ("libnvidia-opencl.so", "libnvidia-glcore.so", "libnvidia-eglcore.so")
#: It opens the driver's files too, and only reads.
_NVML = "libnvidia-ml.so"
_SUCCESS, _NOT_INITIALIZED, _NO_DEVICE = 0, 3, 100
_RUNNING = 0


def open_files(pid="self"):
    """Names in ``/dev`` of the driver's files that a process has open.

    Raises
    ------
    OSError: the process cannot be looked into.
    """
    folder = os.path.join(_PROC, str(pid), "fd")
    found = set()
    for name in os.listdir(folder):
        try:
            target = os.readlink(os.path.join(folder, name))
        except OSError:  # closed meanwhile
            continue
        if target.startswith(_FILES):
            found.add(target[len("/dev/") :])
    return found


def is_wsl():
    """Whether the GPU is reached as under WSL2, where the driver tells less and can do less."""
    return "dxg" in open_files()


def reached():
    """Whether this process may have something on a GPU."""
    try:
        files, libraries = open_files(), _libraries()
    except OSError:
        return True
    if any(name.startswith(_OTHERS) for name in libraries):
        return bool(files)
    if any(name.startswith(_CUDA) for name in libraries):
        return _began() is not False
    return bool(files) and not any(name.startswith(_NVML) for name in libraries)


def contexts():
    """The UUIDs of the GPUs on which this process has CUDA's primary context.

    Frameworks use that one; another, which ``cuCtxCreate`` makes, is not seen. None where it is not
    known, as while the process is away.
    """
    library, names = _cuda(), visible()
    if library is None or names is None:
        return None
    found = []
    for device, uuid in enumerate(names):
        flags, active = ctypes.c_uint(), ctypes.c_int()
        code = library.cuDevicePrimaryCtxGetState(device, ctypes.byref(flags), ctypes.byref(active))
        if code != _SUCCESS:
            return None
        if active.value:
            found.append(uuid)
    return found


def visible():
    """The UUIDs of the GPUs that CUDA shows to this process, in their order.

    None where it is not known.
    """
    library = _cuda()
    if library is None or _began(library) is not True or not _runs(library):
        return None
    number = ctypes.c_int()
    if library.cuDeviceGetCount(ctypes.byref(number)) != _SUCCESS:
        return None
    names = [_uuid(library, device) for device in range(number.value)]
    return None if None in names else names


def is_locked():
    """Whether calls to CUDA would wait: this process is away, or another tool is at it."""
    library = _cuda()
    return library is not None and not _runs(library)


def _uuid(library, device):
    read = getattr(library, "cuDeviceGetUuid_v2", None) or library.cuDeviceGetUuid
    raw = (ctypes.c_ubyte * 16)()
    if read(ctypes.byref(raw), device) != _SUCCESS:
        return None
    text = bytes(raw).hex()
    parts = (text[:8], text[8:12], text[12:16], text[16:20], text[20:])
    return "GPU-" + "-".join(parts)


def _libraries():
    """Names of the files that are in this process's memory."""
    with open(os.path.join(_PROC, "self", "maps"), errors="replace") as file:
        return {line.rstrip("\n").rpartition("/")[2] for line in file if "/" in line}


def _cuda():
    """NVIDIA's library, where this process has loaded it."""
    try:
        return ctypes.CDLL(_CUDA + ".1", mode=os.RTLD_NOLOAD)
    except OSError:
        return None


def _began(library=None):
    """Whether CUDA was begun in this process; None where it is not known."""
    library = library or _cuda()
    if library is None:
        return None
    if not _runs(library):
        return True
    number = ctypes.c_int()
    code = library.cuDeviceGetCount(ctypes.byref(number))
    return {_SUCCESS: True, _NOT_INITIALIZED: False, _NO_DEVICE: False}.get(code)


def _runs(library):
    """Whether calls of this process are answered: those of one that is locked would wait."""
    ask = getattr(library, "cuCheckpointProcessGetState", None)
    if ask is None:  # a driver that locks no process
        return True
    state = ctypes.c_int()
    return ask(os.getpid(), ctypes.byref(state)) != _SUCCESS or state.value == _RUNNING
