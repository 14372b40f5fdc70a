"""How arrays of NumPy are pickled: without a copy, and with the memory that they share.

An array that shows another's memory is pickled as a view of it, where both come along: what is
written into one is seen in the other. This holds for classes of arrays, arrays of objects, fields,
and memory of Python's own. Memory of files and C libraries cannot come along.
"""

import array
import ctypes
import functools
import importlib
import mmap
import sys
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel.snapshot import texts
from gpu_share_kernel.snapshot.kinds import Lost

__all__ = ["Arrays"]

#: Below this numpy's own way costs nothing.
_SMALL = 16 * 2**10
_CData = ctypes.c_int.__mro__[2]
_FILE = "its memory is a file's, or shared with other processes"


class Arrays:
    """Reduces arrays of NumPy for one pickler.

    Parameters
    ----------
    counted: called with the bytes of what is not copied now; None: everything is copied.
    views: by id the arrays that own memory of which others show a part; they are pickled with it,
        and show it again. Found in a trial, by :meth:`views`.
    named: where there was no trial, ids of what is pickled by itself: the views are guessed then,
        and :meth:`guessed` says afterwards whether that was right.
    """

    def __init__(self, counted=None, views=None, named=None):
        self._counted = counted
        self._views = views or {}
        self._named = named
        self._looks = counted is not None or named is not None
        self._guesses = {}  # type: dict[int, bool]
        self._brought = set()  # type: set[int]
        self._held = 0
        self._probing = False
        self._seen = {}  # type: dict[int, tuple[Any, dict[int, int]]]
        self._plain = {}  # type: dict[int, tuple[Any, Any]]
        self._framed = {}  # type: dict[int, Any]
        self._alive = []  # type: list[Any]

    def views(self):
        """The arrays whose memory more than one array shows, by id."""
        found = {}
        for key, (owner, shown) in self._seen.items():
            # What several of its objects share, only pandas knows how to write to.
            if len(shown) > 1 and len(self._framed.keys() & shown) < 2:
                found[key] = owner
        return found

    def guessed(self, views):
        """Whether what was pickled is what it would have been, had the views been known."""
        return all(self._guesses.get(key) for key in views) and all(
            key in views for key, guess in self._guesses.items() if guess
        )

    def _guess(self, obj, owner, root):
        """Whether an array will turn out to be one of several that show an owner's memory."""
        key = id(owner)
        if key not in self._guesses:
            shown = self._seen[key][1]
            # Where nobody else can show it, nothing but the array has the owner.
            self._held = sys.getrefcount(owner) - (1 if root is owner else 0)
            alone = self._probing or self._held <= _held_once() or id(obj) in self._framed
            several = len(shown) > 1 or not alone
            self._guesses[key] = several and len(self._framed.keys() & shown) < 2
            if self._guesses[key] and id(root) not in shown:
                self._brought.add(id(root))
        return self._guesses[key]

    def counted_twice(self, views):
        """Bytes that the trial has counted too often; negative: too rarely."""
        return sum(
            sum(self._seen[key][1].values()) - (0 if owner.dtype.hasobject else owner.nbytes)
            for key, owner in views.items()
            if key in self._seen
        )

    def frame(self, obj):
        """Note the arrays of an object of pandas."""
        numpy = sys.modules["numpy"]
        held = [getattr(obj, name, None) for name in ("_ndarray", "_data", "_mask")]
        blocks = getattr(obj, "blocks", ()) if type(obj).__name__.endswith("Manager") else [obj]
        held += [getattr(block, "values", None) for block in blocks if _is_block(block)]
        for each in held:
            if type(each) is numpy.ndarray:
                self._framed[id(each)] = each

    def array_way(self, cls):
        """The function that reduces arrays of a class; None for the usual way."""
        numpy = sys.modules["numpy"]
        plain = numpy.ndarray
        if cls is plain:
            return self._array
        masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", plain)
        usual = (
            cls.__reduce_ex__ is plain.__reduce_ex__
            and cls.__reduce__ in (plain.__reduce__, masked.__reduce__)
            and cls.__setstate__ in (plain.__setstate__, masked.__setstate__)
        )
        return self._dressed if usual and not _is_mapped(cls) else None

    def _dressed(self, obj):
        """An array of another class: as the plain one that it shows, and its attributes."""
        own = dict(getattr(obj, "__dict__", {}))
        return _dressed, (self._bare(obj), type(obj)), own, None, None, _dressed_setstate

    def _bare(self, obj):
        """One and the same plain array for one of another class."""
        try:
            return self._plain[id(obj)][1]
        except KeyError:
            numpy = sys.modules["numpy"]
            made = numpy.ndarray.view(obj, numpy.ndarray)
            self._plain[id(obj)] = (obj, made)
            return made

    def _array(self, obj):
        numpy = sys.modules["numpy"]
        owner, memory = _owner(obj)
        reduced = self._over(obj, memory)
        if reduced is not None:
            return reduced
        root = owner if type(owner) is numpy.ndarray else self._bare(owner)
        objects = obj.dtype.hasobject or root.dtype.hasobject
        sound = root.dtype.itemsize > 0 and (root.flags.c_contiguous or root.flags.f_contiguous)
        # It shows the same more than once: as a copy it would be larger than all that it shows.
        more = obj.nbytes > root.nbytes
        if sound and self._looks:
            seen = self._seen.setdefault(id(owner), (owner, {}))[1]
            # What is only here because another one shows it is not shown itself.
            if id(obj) not in self._brought or id(obj) in self._named:
                seen[id(obj)] = 0 if more or objects else obj.nbytes
            self._alive.append(obj)  # its number must not become another's
        shows = sound and obj is not root and (more or id(owner) in self._views)
        if sound and obj is not root and self._named is not None:
            shows = self._guess(obj, owner, root) or more
        if shows:
            start = _address(obj) - _address(root)
            layout = (obj.shape, obj.dtype, start, obj.strides, obj.flags.writeable)
            if not objects:
                return _numpy_view, (root, *layout)
            try:
                _object_view(root, *layout)
            except Exception:  # a part of a field of several objects
                return None
            return _object_view, (root, *layout)
        if objects and texts.is_long(obj):
            return texts.whole(obj)
        if objects or obj.nbytes < _SMALL or obj.flags.c_contiguous or obj.flags.f_contiguous:
            return None
        # numpy would make bytes of it, which the pickler's memory would keep.
        data = self._buffer(
            obj.nbytes, lambda: numpy.ascontiguousarray(obj).reshape(-1).view(numpy.uint8)
        )
        return _numpy_array, (data, obj.dtype, obj.shape)

    def _buffer(self, nbytes, fetch):
        raise NotImplementedError

    def _tensor_memory(self, memory):
        """What stands for the memory of another library's array, and its address; else None."""

    def _over(self, obj, memory):
        """An array over memory that is no array's."""
        if memory is None or type(memory) is bytes or hasattr(type(memory), "of_a_snapshot"):
            return None
        if isinstance(memory, mmap.mmap):
            raise Lost(_FILE)
        if isinstance(memory, _CData):
            raise Lost("its memory is a C library's")
        numpy = sys.modules["numpy"]
        if type(memory) in (bytearray, array.array) and len(memory):
            place = memory, _address(numpy.frombuffer(memory, numpy.uint8))
        else:
            place = self._tensor_memory(memory)
        if place is None or obj.dtype.hasobject:
            return None
        layout = (obj.shape, obj.dtype, _address(obj) - place[1], obj.strides)
        return _over, (place[0], *layout, obj.flags.writeable)


@functools.lru_cache(maxsize=None)
def _held_once():
    """What Python counts as references to the owner of memory that only one array shows."""
    numpy = sys.modules["numpy"]
    probe = Arrays(named=frozenset())
    probe._probing = True
    probe._array(numpy.arange(2)[1:])
    return probe._held


def _is_mapped(cls):
    numpy = sys.modules["numpy"]
    return issubclass(cls, getattr(numpy, "memmap", ()))


def _is_block(obj):
    return type(obj).__name__.endswith("Block")


def _owner(obj):
    """The array that an array's memory belongs to, and what that itself has it from."""
    numpy = sys.modules["numpy"]
    owner, base = obj, obj.base
    while base is not None:
        if isinstance(base, numpy.ndarray):
            owner, base = base, base.base
        elif type(base) is memoryview:
            base = base.obj
        elif type(base).__name__ == "DummyArray" and hasattr(base, "base"):  # of as_strided
            base = base.base
        else:
            break
    return owner, base


def _address(obj):
    return obj.__array_interface__["data"][0]


# -- called when a snapshot is loaded ----------------------------------------------------------


def _numpy_array(data, dtype, shape):
    numpy = importlib.import_module("numpy")
    return numpy.frombuffer(data, dtype=dtype).reshape(shape)


def _row(whole):
    """All elements of an array in the order of its memory."""
    return (whole if whole.flags.c_contiguous else whole.T).reshape(-1)


def _numpy_view(whole, shape, dtype, start, strides, writeable):
    numpy = importlib.import_module("numpy")
    view = numpy.ndarray(shape, dtype, _row(whole).view(numpy.uint8), start, strides)
    if not writeable:
        view.flags.writeable = False
    return view


def _object_view(whole, shape, dtype, start, strides, writeable):
    numpy = importlib.import_module("numpy")
    tricks = importlib.import_module("numpy.lib.stride_tricks")
    first, offset = divmod(start, whole.dtype.itemsize)
    part = _row(whole)[first:]
    if dtype != whole.dtype or offset:
        part = part.getfield(dtype, offset)
    if not numpy.prod(shape):
        return part[:0].reshape(shape)
    return tricks.as_strided(part, shape, strides, writeable=writeable)


def _over(memory, shape, dtype, start, strides, writeable):
    numpy = importlib.import_module("numpy")
    if hasattr(memory, "data_ptr"):  # PyTorch's
        torch = importlib.import_module("torch")
        memory = torch.empty(0, dtype=torch.uint8).set_(memory).numpy()
    view = numpy.ndarray(shape, dtype, memory, start, strides)
    if not writeable:
        view.flags.writeable = False
    return view


def _dressed(plain, cls):
    return plain.view(cls)


def _dressed_setstate(obj, state):
    obj.__dict__.update(state)
