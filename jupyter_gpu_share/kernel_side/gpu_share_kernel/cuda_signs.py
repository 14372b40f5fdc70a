"""What is known of a process that uses CUDA, before its memory is moved off the GPUs.

No framework is imported here: what the user did not import holds nothing. What cannot be seen is
said, too; whoever asks takes it for a reason to leave the process where it is.
"""

import ctypes
import gc
import json
import os
import socket
import subprocess
import sys

from gpu_share_kernel import driver, readings

__all__ = [
    "children",
    "communicators",
    "devices",
    "elsewhere",
    "has_no_context",
    "host_memory",
    "managed_memory",
    "mps",
    "names",
    "uuids",
    "visible_communicators",
]

_PROC = "/proc"
_CGROUPS = "/sys/fs/cgroup"
_MPS_DEFAULT = "/tmp/nvidia-mps"  # noqa: S108 - where NVIDIA's daemon puts it
_MPS = "the GPU is reached through MPS"
_SECONDS = 20
_FALSE = ("", "0", "f", "false", "n", "no")
#: Resources of RMM that may give memory which moves between GPU and host by itself.
_WANDERING = ("SystemMemoryResource", "SamHeadroomMemoryResource", "CallbackMemoryResource")
#: Run in a process of its own, see :func:`devices`.
_TELL = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from gpu_share_kernel import cuda_signs; cuda_signs._tell(int(sys.argv[2]), sys.argv[3:])"
)


def uuids():
    """The GPUs of the share."""
    return [u for u in os.environ.get("JUPYTER_GPU_SHARE_UUID", "").split(",") if u]


# -- how the GPU is reached ------------------------------------------------------------------------


def mps():
    """Whether CUDA goes through NVIDIA's MPS daemon, in words; empty: it does not."""
    if os.environ.get("JUPYTER_GPU_SHARE_ISOLATION") == "mps":
        return _MPS
    # CUDA looks at the default place, too, where the environment names none.
    control = os.path.join(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or _MPS_DEFAULT, "control")
    if not os.path.lexists(control):
        return ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(control)
        except ConnectionRefusedError:  # left behind by a daemon that has ended
            return ""
        except OSError:  # it cannot be asked
            pass
    return _MPS


# -- what frameworks use ---------------------------------------------------------------------------


def communicators():
    """What of NCCL is in use, in words and with what to do; empty: nothing."""
    for name, look in (
        ("PyTorch", _torch_communicators),
        ("CuPy", _cupy_communicators),
        ("nccl4py", _nccl4py_communicators),
        ("this process", _hidden_communicators),
    ):
        try:
            found = look()
        except Exception as error:
            return "it cannot be seen whether %s uses NCCL (%s)" % (name, type(error).__name__)
        if found:
            return found
    return ""


def visible_communicators():
    """Whether communicators of NCCL are seen, which take memory that no framework counts."""
    looks = (_torch_communicators, _cupy_communicators, _nccl4py_communicators)
    return any(look() for look in looks)


def _torch_communicators():
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return ""
    module = sys.modules["torch.distributed.distributed_c10d"]
    told = [distributed.get_backend()]
    told += [row[0] for row in module._world.pg_map.values()]
    told += list(module._world.pg_backend_config.values())
    names = {piece.split(":")[-1] for text in told for piece in str(text).lower().split(",")}
    if names <= {"gloo", "undefined"} and "gloo" in names:
        return ""
    return "PyTorch's process group uses NCCL; `torch.distributed.destroy_process_group()` ends it"


def _cupy_communicators():
    library = sys.modules.get("cupy_backends.cuda.libs.nccl")
    backends = sys.modules.get("cupyx.distributed._nccl_comm")
    kinds = [
        getattr(library, "NcclCommunicator", None),
        getattr(backends, "NCCLBackend", None),
    ]
    return "a communicator of CuPy uses NCCL; delete it" if _alive(kinds) else ""


def _nccl4py_communicators():
    kinds = [getattr(sys.modules.get("nccl.core"), "Communicator", None)]
    return "a communicator of nccl4py uses NCCL; destroy and delete it" if _alive(kinds) else ""


def _hidden_communicators():
    """With several GPUs PyTorch's `DataParallel` and JAX make communicators that nobody can see."""
    if len(uuids()) < 2:
        return ""
    with open(os.path.join(_PROC, "self", "maps"), errors="replace") as file:
        if any("/libnccl" in line for line in file):
            return "NCCL is loaded beside several GPUs, and may use them; take a size with one GPU"
    return ""


def managed_memory():
    """What uses managed memory, in words and with what to do; empty: nothing that is known."""
    for name, look in (
        ("XLA", _xla_managed),
        ("RMM", _rmm_managed),
        ("CuPy", _cupy_managed),
        ("Numba", _numba_managed),
        ("bitsandbytes", _bitsandbytes_managed),
    ):
        try:
            found = look()
        except Exception as error:
            return "it cannot be seen whether %s uses it (%s)" % (name, type(error).__name__)
        if found:
            return found
    return ""


def _xla_managed():
    name = "TF_FORCE_UNIFIED_MEMORY"
    told = [os.environ.get(name, "")]
    # Set when the process began, and changed since: what TensorFlow has read may be either.
    with open(os.path.join(_PROC, "self", "environ"), "rb") as file:
        entries = [entry.partition(b"=") for entry in file.read().split(b"\0")]
    told += [value.decode("utf-8", "replace") for key, _, value in entries if key == name.encode()]
    if all(value.strip().lower() in _FALSE for value in told):
        return ""
    return "`%s` is set; start the kernel without it" % name


def _rmm_managed():
    resources = sys.modules.get("rmm.mr")
    if resources is None:
        return ""
    ahead = [resources.get_per_device_resource(index) for index in range(max(1, len(uuids())))]
    seen = set()
    while ahead:
        resource = ahead.pop()
        if resource is None or id(resource) in seen:
            continue
        seen.add(id(resource))
        for kind in type(resource).__mro__:
            if "Managed" in kind.__name__ or kind.__name__ in _WANDERING:
                return "RMM gives it (`%s`); choose another memory resource" % kind.__name__
        ahead.append(getattr(resource, "upstream_mr", None))
        ahead += list(getattr(resource, "bin_mrs", None) or [])
    return ""


def _cupy_managed():
    cuda = sys.modules.get("cupy.cuda")
    if cuda is None:
        return ""
    allocator = cuda.get_allocator()
    owner = getattr(allocator, "__self__", None)
    if owner is not None and owner is sys.modules["cupy"].get_default_memory_pool():
        return ""
    if isinstance(owner, cuda.MemoryAsyncPool):
        return ""
    # Which allocator a pool of the user's takes its memory from cannot be seen.
    harmless = [cuda.malloc_async, getattr(cuda.memory, "_malloc", None)]
    module = str(getattr(allocator, "__module__", ""))
    if any(allocator is each for each in harmless) or module.startswith("rmm."):
        return ""
    return "CuPy's allocator was replaced, and may give it; `cupy.cuda.set_allocator` sets it back"


def _numba_managed():
    driver = sys.modules.get("numba.cuda.cudadrv.driver")
    kinds = [getattr(driver, "ManagedMemory", None), getattr(driver, "ManagedOwnedPointer", None)]
    return "a `managed_array` of Numba is in it; delete the array" if _alive(kinds) else ""


def _bitsandbytes_managed():
    manager = getattr(sys.modules.get("bitsandbytes.functional"), "GlobalPageManager", None)
    # Asking in the usual way would make one.
    found = getattr(manager, "_instance", None)
    if found is None or not found.paged_tensors:
        return ""
    return "a paged optimizer of bitsandbytes uses it; delete the optimizer, or take one without it"


def _alive(kinds):
    """Whether there is an object of one of some classes, not of those that are None."""
    wanted = {kind for kind in kinds if kind is not None}
    if not wanted:
        return False
    for thing in gc.get_objects():
        # What is written in C may not be listed itself, but whatever holds it is.
        if type(thing) in wanted or any(type(held) in wanted for held in gc.get_referents(thing)):
            return True
    return False


# -- other processes -------------------------------------------------------------------------------


def children():
    """Numbers of this process's child processes that have the driver open; unseen counts."""
    family = readings.tree(os.getpid()) - {os.getpid()}
    return sorted(pid for pid in family if _state(pid) not in "ZX" and _has_driver(pid))


def _state(pid):
    try:
        with open(os.path.join(_PROC, str(pid), "stat"), errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    except (OSError, IndexError):
        return "?"


def _has_driver(pid):
    try:
        return bool(driver.open_files(pid))
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True


# -- which GPUs it uses ----------------------------------------------------------------------------


def has_no_context():
    """Whether CUDA was begun in this process, and nothing made with it.

    Some frameworks do so when they are asked whether there is a GPU. A context that is not the
    primary one is seen by NVIDIA's library only, and nothing is by that under WSL2.
    """
    try:
        if driver.contexts() != [] or driver.is_wsl() or not readings.counts_as_driver():
            return False
    except Exception:
        return False
    told = _ask(os.getpid())
    return told is not None and told["listed"] == []


def elsewhere():
    """GPUs that this process uses and that are not of its share; what is not known is left out."""
    found = driver.contexts() or []
    told = _ask(os.getpid())
    if told is not None and readings.counts_as_driver():
        found = found + told["listed"]
    return sorted(set(found) - set(uuids()))


# -- memory ----------------------------------------------------------------------------------------


def devices(pid):
    """Bytes that a process uses, or None, and bytes that are free, by GPU of the share.

    None where they cannot be read.
    """
    wanted = uuids()
    told = _ask(pid)
    if told is None or not set(wanted) <= set(told["rows"]):
        return None
    return {uuid: tuple(told["rows"][uuid]) for uuid in wanted}


def _ask(pid):
    """What NVIDIA's library tells of a process; None where it does not.

    It is asked by another process: here it would open the driver anew, and it is documented nowhere
    what it does beside a checkpoint.
    """
    wanted = uuids()
    return _run(pid, wanted) if wanted else None


def names():
    """The UUIDs of the machine's GPUs in the order of their numbers; None where nobody tells."""
    told = _run(os.getpid(), [])
    return told["names"] if told is not None and told["names"] else None


def _run(pid, wanted):
    if not sys.executable:
        return None
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-I", "-S", "-c", _TELL, folder, str(pid)]
    try:
        done = subprocess.run(
            command + wanted,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=True,
        )
        told = json.loads(done.stdout.decode())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return told


def _tell(pid, wanted):
    """Print rows of memory, the GPUs that list the process, and all that there are."""
    gpu = readings.Gpu()
    rows = {uuid: _memory_of(gpu, uuid, pid) for uuid in wanted} if gpu.present else {}
    rows = {uuid: row for uuid, row in rows.items() if row is not None}
    print(json.dumps({"rows": rows, "listed": gpu.listing(pid), "names": gpu.names()}))


class _Amounts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def _memory_of(gpu, uuid, pid):
    handle, amounts = ctypes.c_void_p(), _Amounts()
    if gpu._nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) != 0:
        return None
    if gpu._nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(amounts)) != 0:
        return None
    rows = [row.used for row in gpu.processes(handle) if row.pid == pid]
    known = [used for used in rows if used != readings._NOT_AVAILABLE]
    if not readings.counts_as_driver():
        known = []
    return (sum(known) if known else None), amounts.free


def host_memory():
    """Bytes of the machine that this process may still take; None where that is not known."""
    try:
        with open(os.path.join(_PROC, "meminfo")) as file:
            rows = dict(line.split(":", 1) for line in file if ":" in line)
        left = [int(rows["MemAvailable"].split()[0]) * 1024]
        with open(os.path.join(_PROC, "self", "cgroup")) as file:
            for line in file:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                if not controllers:
                    left += _left(_CGROUPS, path, _SECOND)
                elif "memory" in controllers.split(","):
                    left += _left(os.path.join(_CGROUPS, "memory"), path, _FIRST)
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return max(0, min(left))


#: Names in the two versions of control groups: limits, use, and what of it can be dropped.
_SECOND = (("memory.max", "memory.high"), "memory.current", "inactive_file")
_FIRST = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def _left(root, path, names):
    """What is left below the limits of a control group and of those around it.

    In a container the path may be that outside of it; its own group is the root then.
    """
    limits, use, droppable = names
    left = []
    while True:
        folder = root + path.rstrip("/")
        bounds = [_number(os.path.join(folder, name)) for name in limits]
        known = [bound for bound in bounds if bound is not None]
        if known:
            used = _number(os.path.join(folder, use)) or 0
            left.append(min(known) - used + _droppable(folder, droppable))
        if path in ("", "/"):
            return left
        path = os.path.dirname(path)


def _number(path):
    """A number from a file; None where there is no such file, or no limit in it."""
    try:
        with open(path) as file:
            text = file.read().strip()
    except FileNotFoundError:
        return None
    return None if text == "max" else int(text)


def _droppable(folder, name):
    try:
        with open(os.path.join(folder, "memory.stat")) as file:
            rows = dict(line.split() for line in file)
    except FileNotFoundError:
        return 0
    return int(rows.get(name, 0))
