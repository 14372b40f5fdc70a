"""What a program does that uses CUDA, on the FAKE driver: over the driver's own functions."""

import ctypes

_cuda = None
_contexts = {}


def _call(name, *args):
    global _cuda
    if _cuda is None:
        _cuda = ctypes.CDLL("libcuda.so.1")
    code = getattr(_cuda, name)(*args)
    if code == 2:
        raise MemoryError("CUDA_ERROR_OUT_OF_MEMORY")
    if code:
        raise OSError(f"{name} answers {code}")


def init():
    """What `torch.cuda.is_available()` does: no context is made."""
    _call("cuInit", 0)


def context(device=0):
    """A context on a device, as the first array on it makes."""
    init()
    if device not in _contexts:
        made = ctypes.c_void_p()
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(made), device)
        _contexts[device] = made
    _call("cuCtxSetCurrent", _contexts[device])


class Array:
    """Memory of a GPU; its first bytes can be written and read."""

    def __init__(self, nbytes, device=0):
        context(device)
        self.address = ctypes.c_uint64()
        _call("cuMemAlloc_v2", ctypes.byref(self.address), ctypes.c_size_t(nbytes))

    def write(self, text):
        data = text.encode()
        _call("cuMemcpyHtoD_v2", self.address, data, ctypes.c_size_t(len(data)))

    def read(self, length):
        data = ctypes.create_string_buffer(length)
        _call("cuMemcpyDtoH_v2", data, self.address, ctypes.c_size_t(length))
        return data.raw.decode()

    def free(self):
        _call("cuMemFree_v2", self.address)
