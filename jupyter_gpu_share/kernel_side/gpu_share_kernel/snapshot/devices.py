"""How arrays and tensors are pickled: without copying them, and those of a GPU through the host.

No framework is imported here when saving: what the user did not import holds nothing of theirs.
Arrays of a GPU are fetched one at a time and come back to the device with the same number; where
there is no such device they come back all the same, to another one or to the machine's memory.
"""

import contextlib
import ctypes
import importlib
import mmap
import pickle
import sys
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel.snapshot import texts
from gpu_share_kernel.snapshot.arrays import Arrays, _numpy_array
from gpu_share_kernel.snapshot.kinds import Lost

__all__ = ["Hands", "notes"]

#: How many steps of a computation are followed.
_FOLLOWED = 1000

#: What the user should know about arrays that came back elsewhere.
_notes = []  # type: list[str]


def notes():
    """Sentences about what came back elsewhere, and forget them."""
    told = sorted(set(_notes))
    del _notes[:]
    return told


class Hands(Arrays):  # type: ignore[misc]
    """Reduces arrays and tensors for one pickler; its parameters are those of :class:`Arrays`."""

    def __init__(self, counted=None, views=None, named=None):
        super().__init__(counted, views, named)
        self.copy = None  # type: pickle.PickleBuffer | None
        self._storages = {}

    def way(self, cls):
        """The function that reduces objects of a class as ``__reduce__`` would; else None.

        It answers None itself where an object is better pickled in the usual way.
        """
        if cls is memoryview:
            return _memoryview
        if cls is texts.Texts:
            return lambda obj: obj.reduced(self._buffer)
        package = str(getattr(cls, "__module__", "")).partition(".")[0]
        if issubclass(cls, getattr(sys.modules.get("numpy"), "ndarray", ())):
            return self.array_way(cls)
        if package == "cupy":
            return self._cupy if cls is getattr(sys.modules["cupy"], "ndarray", None) else None
        if package == "pandas":
            return self.frame if self._looks else None
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
        if issubclass(cls, getattr(getattr(torch, "optim", None), "Optimizer", ())):
            return self._optimizer
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
        if first is not obj:
            return _same, (first,)
        owner = self._views.get(_place(obj))
        if owner is not None:
            start = obj.data_ptr() - owner.__array_interface__["data"][0]
            plain = type(owner) is sys.modules["numpy"].ndarray
            return _torch_over, (owner if plain else self._bare(owner), start, obj.nbytes())
        return _torch_storage, self._storage_data(obj)

    def _typed_storage(self, obj):
        return _torch_typed, (self._first(obj._untyped_storage), obj.dtype)

    def _tensor(self, obj):
        """With its gradient and its hooks, which PyTorch would leave out.

        Raises
        ------
        Lost: a gradient could still be followed through how it was computed, which is not saved;
            or its memory is other processes', too.
        """
        if str(getattr(obj, "layout", "torch.strided")) != "torch.strided":
            return None
        if _is_shared(obj):
            raise Lost("its memory is shared with other processes")
        if not obj.is_leaf:
            if not _is_spent(obj.grad_fn):
                raise Lost("gradients could not be computed through it any more")
            return _same, (obj.detach(),)
        state = {name: getattr(obj, name, None) for name in _OF_TENSORS}
        # A table of hooks that is empty may be none afterwards, or the other way round.
        state = {
            name: each
            for name, each in state.items()
            if each is not None and (name == "grad" or each)
        }
        if not state:
            return None
        reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        if not isinstance(reduced, tuple) or len(reduced) != 2:
            return None
        return (*reduced, state, None, None, _tensor_setstate)

    def _optimizer(self, obj):
        """With its hooks."""
        reduced = obj.__reduce_ex__(4)
        hooks = {
            name: value
            for name, value in vars(obj).items()
            if name.startswith("_optimizer_") and value
        }
        if not hooks or len(reduced) != 3:
            return None
        return (*reduced[:2], (reduced[2], hooks), None, None, _optimizer_setstate)

    def views(self):
        """Besides those of arrays, by place and size, arrays over whose memory a storage is."""
        found = super().views()
        for key, storage in self._storages.items():
            place, size = key[1:]
            for owner, _ in self._seen.values() if storage.device.type == "cpu" else ():
                first = owner.__array_interface__["data"][0]
                if first <= place and place + size <= first + owner.nbytes and size:
                    found[key] = owner
        return found

    def _tensor_memory(self, memory):
        tensor = getattr(sys.modules.get("torch"), "Tensor", ())
        if not isinstance(memory, tensor):
            return None
        storage = self._first(memory.untyped_storage())
        return storage, storage.data_ptr()

    def _first(self, storage):
        """One Python object for one storage: tensors make a new one each time they are asked."""
        key = _place(storage)
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
                with _all_bits(jax, dtype):
                    host = jax.device_put(obj, jax.devices("cpu")[0])
            except RuntimeError:  # it was told to have no such device
                host = obj
            return numpy.ascontiguousarray(numpy.asarray(host)).reshape(-1).view(numpy.uint8)

        where = (device.platform, int(device.id))
        weak = bool(getattr(obj, "weak_type", False))
        return _jax_array, (self._buffer(obj.nbytes, fetch), dtype, obj.shape, where, weak)


_OF_TENSORS = ("grad", "_backward_hooks", "_post_accumulate_grad_hooks")


def _place(storage):
    return str(storage.device), storage.data_ptr(), storage.nbytes()


def _is_shared(tensor):
    """Whether the memory of a tensor on the host is that of other processes, too."""
    ask = getattr(tensor, "is_shared", None)
    return ask is not None and str(tensor.device) == "cpu" and ask()


def _is_spent(function):
    """Whether gradients were computed through how a tensor was made: once is all that works."""
    seen, todo = set(), [function]  # type: set[object], list[Any]
    while todo and len(seen) < _FOLLOWED:
        each = todo.pop()
        if each is None or each in seen:
            continue
        seen.add(each)
        for name in dir(each):
            if name.startswith("_saved_"):
                try:
                    value = getattr(each, name)
                except RuntimeError:
                    return True
                if hasattr(value, "grad_fn"):
                    return False
        todo += [inner for inner, _ in each.next_functions]
    return False


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


def _torch_over(array, start, size):
    torch = importlib.import_module("torch")
    numpy = importlib.import_module("numpy")
    row = (array if array.flags.c_contiguous else array.T).reshape(-1).view(numpy.uint8)
    return torch.frombuffer(row, dtype=torch.uint8, offset=start, count=size).untyped_storage()


def _tensor_setstate(tensor, state):
    for name, value in state.items():
        setattr(tensor, name, value)


def _optimizer_setstate(optimizer, state):
    usual, hooks = state
    optimizer.__setstate__(usual)
    vars(optimizer).update(hooks)


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


def _jax_array(data, dtype, shape, where, weak=False):
    jax = importlib.import_module("jax")
    platform, number = where
    host = _numpy_array(data, dtype, shape)
    try:
        devices = jax.devices(platform)
    except RuntimeError:
        devices = jax.devices()
        _notes.append("arrays of the GPU are in the machine's memory, for there is no GPU now")
    same = [device for device in devices if device.id == number]
    with _all_bits(jax, dtype):
        array = jax.device_put(host, (same or devices)[0])
    if weak:
        # There is no other way to make one of more than a single number.
        lax = importlib.import_module("jax._src.lax.lax")
        array = lax._convert_element_type(array, weak_type=True)
    array.block_until_ready()
    if array.dtype != dtype or bool(getattr(array, "weak_type", False)) != weak:
        raise TypeError("JAX makes it %s, which was %s" % (array.dtype, dtype))
    return array


def _all_bits(jax, dtype):
    """While it lasts, JAX makes arrays of 64 bits where that is what is asked for."""
    enabled = getattr(getattr(jax, "config", None), "jax_enable_x64", True)
    if dtype.itemsize // (2 if dtype.kind == "c" else 1) < 8 or enabled:
        return contextlib.nullcontext()
    where = jax if hasattr(jax, "enable_x64") else jax.experimental
    return where.enable_x64(True)


def _free(data):
    """Let go of the copy on the host, which the unpickler's memory would keep."""
    try:
        if isinstance(data, bytearray):
            data.clear()
        elif isinstance(data, mmap.mmap):
            data.close()
    except BufferError:  # somebody still looks at it
        pass
