"""A FAKE of PyTorch for a dry run of the questions on the FAKE driver.

It computes nothing: what is asked of it exists and answers with itself. What is said to be on the
GPU truly takes a MiB of the fake driver, so that a process is moved off and back.
"""

import ctypes
import sys
from unittest.mock import MagicMock

import fake_gpu_program as gpu

_MIB = 2**20


class OutOfMemoryError(RuntimeError):
    pass


class _Thing(MagicMock):
    """A tensor, module, stream or anything else."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.item = lambda: 42
        self.nbytes = _MIB
        self.tolist = lambda: [7.0]
        self.tobytes = lambda: b""

    def _get_child_mock(self, **kwargs):
        return _Thing(**kwargs)


def _make(*args, device=None, **kwargs):
    made = _Thing()
    if device == "cuda":
        try:
            made.held = gpu.Array(_MIB)
        except MemoryError as error:
            raise OutOfMemoryError from error
    return made


def _use(*args, **kwargs):
    """A call to CUDA, which waits where the process is away."""
    gpu.Array(_MIB)
    return _Thing()


def _info(*args):
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    gpu.context()
    gpu._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


cuda = _Thing()
cuda.is_available = lambda: bool(gpu.init() or True)
cuda.device_count = lambda: 1
cuda.is_initialized = lambda: bool(gpu._contexts)
cuda.memory_reserved = lambda device=0: 0
cuda.mem_get_info = _info
cuda.synchronize = cuda.Stream = cuda.Event = cuda.empty_cache = _use
cuda.CUDAGraph = lambda: MagicMock(replay=_use)
distributed = _Thing()
distributed.is_initialized = lambda: False
multiprocessing, profiler, nn, fft, linalg = (_Thing() for _ in range(5))
profiler.profile.return_value.__enter__.return_value.key_averages.return_value = []
zeros = ones = arange = randn = empty = _make
relu = manual_seed = _Thing()
__version__ = "dry"
version = MagicMock(cuda="dry")
int32 = uint8 = bfloat16 = object()

for _name in ("cuda", "distributed", "multiprocessing", "profiler"):
    sys.modules["torch." + _name] = globals()[_name]
sys.modules["torch.multiprocessing.reductions"] = multiprocessing.reductions


def __getattr__(name):
    if name == "compile":
        return lambda function: function
    raise AttributeError(name)
