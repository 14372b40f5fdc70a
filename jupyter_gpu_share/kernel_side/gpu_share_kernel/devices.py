"""How arrays and tensors are pickled: without copying them, and those of a GPU through the host.

No framework is imported here when saving: what the user did not import holds nothing of theirs.
Arrays of a GPU are fetched one at a time and come back to the device with the same number; where
there is no such device they come back all the same, to another one or to the machine's memory.
"""

import ctypes
import importlib
import mmap
import pickle
import sys

from gpu_share_kernel.arrays import Arrays, _numpy_array
from gpu_share_kernel.kinds import Lost

__all__ = ["Hands", "notes"]

#: What the user should know about arrays that came back elsewhere.
_notes = []  # type: list[str]


def notes():
    """Sentences about what came back elsewhere, and forget them."""
    told = sorted(set(_notes))
    del _notes[:]
    return told


class Hands(Arrays):  # type: ignore[misc]
    """Reduces arrays and tensors for one pickler; its parameters are those of :class:`Arrays`."""

    def __init__(self, counted=None, views=None):
        super().__init__(counted, views)
        self.copy = None  # type: pickle.PickleBuffer | None
        self._storages = {}

    def way(self, cls):
        """The function that reduces objects of a class as ``__reduce__`` would; else None.

        It answers None itself where an object is better pickled in the usual way.
        """
        if cls is memoryview:
            return _memoryview
        package = str(getattr(cls, "__module__", "")).partition(".")[0]
        if issubclass(cls, getattr(sys.modules.get("numpy"), "ndarray", ())):
            return self.array_way(cls)
        if package == "cupy":
            return self._cupy if cls is getattr(sys.modules["cupy"], "ndarray", None) else None
        if package == "pandas":
            return self.frame if self._counted is not None else None
        if package in ("jax", "jaxlib"):
            array = getattr(sys.modules.get("jax"), "Array", ())
            return self._jax if issubclass(cls, array) else None
        torch = sys.modules.get("torch")
        storage = getattr(torch, "storage", None)
        untyped = getattr(storage, "UntypedStorage", None)
        if untyped is None:  # not imported, or not to its end
            return None
        if cls is untyped:
            return self._storage
        if cls is getattr(storage, "TypedStorage", None):
            return self._typed_storage
        return self._tensor if issubclass(cls, getattr(torch, "Tensor", ())) else None

    def _buffer(self, nbytes, fetch):
        """The data of an array that has to be copied first, for the moment of writing it."""
        if self._counted is not None:
            self._counted(nbytes)
            return None
        self.let_go()
        self.copy = pickle.PickleBuffer(fetch())
        return self.copy

    def let_go(self):
        """Free the last copy, which was written by now: the pickler's memory would keep it."""
        if self.copy is not None:
            self.copy.release()
            self.copy = None

    # -- PyTorch -------------------------------------------------------------------------------

    def _storage(self, obj):
        first = self._first(obj)
        return (_same, (first,)) if first is not obj else (_torch_storage, self._storage_data(obj))

    def _typed_storage(self, obj):
        return _torch_typed, (self._first(obj._untyped_storage), obj.dtype)

    def _tensor(self, obj):
        """With its gradient, which PyTorch would leave out."""
        if obj.is_leaf and obj.grad is not None:
            reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
            if isinstance(reduced, tuple) and len(reduced) == 2:
                return _torch_with_gradient, (*reduced, obj.grad)
        return None

    def _first(self, storage):
        """One Python object for one storage: tensors make a new one each time they are asked."""
        key = (str(storage.device), storage.data_ptr(), storage.nbytes())
        if not key[1]:
            return storage
        return self._storages.setdefault(key, storage)

    def _storage_data(self, storage):
        size = storage.nbytes()
        device = storage.device.type
        if device == "cpu":
            return (pickle.PickleBuffer(_bytes_at(storage)) if size else b""), size, device, None

        def fetch():
            host = storage.cpu()
            data = _bytes_at(host)
            data.owner = host
            return data

        return (self._buffer(size, fetch) if size else b""), size, device, storage.device.index

    # -- CuPy and JAX --------------------------------------------------------------------------

    def _cupy(self, obj):
        data = self._buffer(obj.nbytes, lambda: obj.get(order="C").reshape(-1).view("u1"))
        return _cupy_array, (data, obj.dtype, obj.shape, int(obj.device.id))

    def _jax(self, obj):
        numpy = sys.modules["numpy"]
        try:
            (device,) = obj.devices()
            dtype = numpy.dtype(obj.dtype)
        except Exception:  # a tracer, a key, or spread over devices: JAX knows its own way
            return None
        if not obj.nbytes:
            return None

        def fetch():
            try:
                # Of the array itself JAX would keep the copy for as long as the array is there.
                jax = sys.modules["jax"]
                host = jax.device_put(obj, jax.devices("cpu")[0])
            except RuntimeError:  # it was told to have no such device
                host = obj
            return numpy.ascontiguousarray(numpy.asarray(host)).reshape(-1).view(numpy.uint8)

        where = (device.platform, int(device.id))
        return _jax_array, (self._buffer(obj.nbytes, fetch), dtype, obj.shape, where)


def _bytes_at(storage):
    """The memory of a storage on the host, as it is there."""
    return (ctypes.c_ubyte * storage.nbytes()).from_address(storage.data_ptr())


def _memoryview(obj):
    """A view of the whole of something comes back as one.

    Raises
    ------
    Lost: of another view only a copy could be made, which would not show changes any more.
    """
    with memoryview(obj.obj) as whole:
        same = (whole.nbytes, whole.format, whole.readonly, whole.shape) == (
            obj.nbytes,
            obj.format,
            obj.readonly,
            obj.shape,
        )
    if not same:
        raise Lost
    return memoryview, (obj.obj,)


# -- called when a snapshot is loaded ----------------------------------------------------------


def _same(value):
    return value


def _torch_storage(data, size, device, index):
    torch = importlib.import_module("torch")
    where = _torch_device(torch, device, index)
    if where == "cpu" and isinstance(data, mmap.mmap):
        # Large: taken as it is. All that is lost is that it could grow in place.
        return torch.frombuffer(data, dtype=torch.uint8).untyped_storage()
    storage = torch.UntypedStorage(size, device=where)
    if size:
        source = torch.frombuffer(data, dtype=torch.uint8)
        torch.empty(0, dtype=torch.uint8, device=where).set_(storage).copy_(source)
        del source
        _free(data)
    return storage


def _torch_device(torch, device, index):
    if device == "cpu":
        return "cpu"
    backend = getattr(torch, device, None)
    number = backend.device_count() if backend is not None and backend.is_available() else 0
    if not number:
        _notes.append("arrays of the GPU are in the machine's memory, for there is no GPU now")
        return "cpu"
    if index is not None and index >= number:
        _notes.append("arrays of several GPUs are on the first one, for there are fewer now")
        index = 0
    return "%s:%d" % (device, index or 0)


def _torch_typed(storage, dtype):
    torch = importlib.import_module("torch")
    return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def _torch_with_gradient(function, args, gradient):
    tensor = function(*args)
    tensor.grad = gradient
    return tensor


def _cupy_array(data, dtype, shape, device):
    cupy = importlib.import_module("cupy")
    host = _numpy_array(data, dtype, shape)
    number = cupy.cuda.runtime.getDeviceCount()
    if device >= number:
        _notes.append("arrays of several GPUs are on the first one, for there are fewer now")
        device = 0
    with cupy.cuda.Device(device):
        array = cupy.array(host)
    del host
    _free(data)
    return array


def _jax_array(data, dtype, shape, where):
    jax = importlib.import_module("jax")
    platform, number = where
    host = _numpy_array(data, dtype, shape)
    try:
        devices = jax.devices(platform)
    except RuntimeError:
        devices = jax.devices()
        _notes.append("arrays of the GPU are in the machine's memory, for there is no GPU now")
    same = [device for device in devices if device.id == number]
    array = jax.device_put(host, (same or devices)[0])
    array.block_until_ready()
    return array


def _free(data):
    """Let go of the copy on the host, which the unpickler's memory would keep."""
    try:
        if isinstance(data, bytearray):
            data.clear()
        elif isinstance(data, mmap.mmap):
            data.close()
    except BufferError:  # somebody still looks at it
        pass
