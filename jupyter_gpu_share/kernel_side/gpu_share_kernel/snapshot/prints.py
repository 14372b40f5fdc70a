"""Fingerprints of variables that are the same in two processes if the variables are.

A fingerprint is a digest of the variable's pickle in a form of its own, which is never read again:
what a pickle says of a value, and nothing that depends on the process. Texts and code count by
value, sets have no order, arrays count by their content and by the memory that they share.
Everything else is as in the file: types, names, and which objects are one and the same.
"""

import array
import bisect
import copyreg
import functools
import hashlib
import itertools
import mmap
import pickle
import sys
import types
import zlib
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel.snapshot import alike, arrays, classes, devices, pickles, process, texts

__all__ = ["Away", "Prints", "note_classes"]

#: Bytes of an array that are looked at at once.
_PART = 2**22
#: Of a class or function: what Python or cloudpickle add or leave out as they go.
_NOT_OF_A_CLASS = frozenset(["__slotnames__", "__annotations_cache__", "__doc__"])
_SUBMODULES = "_cloudpickle_submodules"
#: Functions that make an array again, and how many of their arguments are the same on any device.
_OF_DEVICES = (("_torch_storage", 2), ("_cupy_array", 3), ("_jax_array", 3))
_BUFFERS = (pickle.PickleBuffer, bytes, bytearray, mmap.mmap)
_UNKNOWN = object()
#: References to what only one array lies over, as they are counted where arrays are looked at.
_HELD_ONCE = 4


class Prints:
    """Makes fingerprints of one variable after the other.

    That of a variable says also what it shares with those before it.

    Parameters
    ----------
    exact: texts, code and sets count as pickle has them, as they mostly are in both processes: this
        takes a tenth of the time, and what is equal so is equal.
    lenient: what a library's class has in it, which has code of its own to take up its state again,
        does not count. Such code may leave out what is made anew, such as counters and caches. Nor
        does the order of dicts that such a class has itself made anew of.
    """

    def __init__(self, exact=False, lenient=False):
        self.exact, self.lenient = exact, lenient
        self._hash = hashlib.blake2b(digest_size=16)
        self._marks = []
        self._tables = ({}, {}, {})  # type: tuple[dict[Any, Any], ...]
        self._texts, self._sets, self._blocks = self._tables
        self._spaces = {}  # type: dict[int, Any]  # globals of functions
        self._starts = []  # type: list[tuple[int, int]]  # where blocks begin, and their numbers
        hands = _Hands(self)
        self._pickler = _printer(self, hands)
        self._private = hands.private

    def next(self, value):
        """The fingerprint of a value: text.

        Raises
        ------
        Exception: whatever its pickling raises.
        """
        mark = [None]
        self._pickler.dump(mark)  # for its number in the pickler's memory
        self._marks.append((mark, [len(table) for table in self._tables]))
        self._hash = hashlib.blake2b(digest_size=16)
        with process.quiet():
            self._pickler.dump(value)
        return self._hash.hexdigest()

    def of_all(self, values):
        """One fingerprint of all values: text, empty where there is none that is exact.

        Raises
        ------
        MemoryError
        """
        with process.quiet():
            for value in values:
                try:
                    self._pickler.dump_plainly(value)
                except MemoryError:
                    raise
                except Exception:  # it changes while it is looked at, or is not exact
                    return ""
        return self._hash.hexdigest()

    def back(self, count=1):
        """Have the last ones made, or tried, count as if they had never been seen."""
        mark, lengths = self._marks[-count]
        del self._marks[-count:]
        memo = self._pickler.memo.copy()
        kept = memo[id(mark)][0]
        self._pickler.memo = {key: row for key, row in memo.items() if row[0] < kept}
        for table, length in zip(self._tables, lengths):  # noqa: B905 - newer than 3.8
            while len(table) > length:
                table.popitem()
        self._starts = [row for row in self._starts if row[1] in self._blocks]

    # -- what the pickler hands over ---------------------------------------------------------------

    def write(self, data):
        """A part of the pickle."""
        self._hash.update(data)

    def text(self, text):
        """The number of a text, which is noted when it is new."""
        number = self._texts.get(text)
        if number is None:
            number = self._texts[text] = len(self._texts)
            self._note(b"T", text.encode("utf-8", "surrogatepass"))
        return number

    def content(self, view):
        """What is in a buffer: something with bytes in a row."""
        with memoryview(view) as given, given.cast("B") as flat:
            check = 0
            for start in range(0, len(flat), _PART):
                check = zlib.crc32(flat[start : start + _PART], check)
            self._note(b"B", b"%d %d" % (len(flat), check))

    def take(self, buffer):
        """What a pickler hands over beside its pickle."""
        with buffer.raw() as view:
            self.content(view)
        return False

    def _note(self, kind, data):
        self._hash.update(kind + b"%d:" % len(data))
        self._hash.update(data)

    def set(self, obj):
        """Stands for a set: its number, and at the first time what is in it, in an order."""
        known = self._sets.get(id(obj))
        if known is not None:
            return ("set", known[0])
        number = len(self._sets)
        self._sets[id(obj)] = (number, obj)
        plain, others = [], []
        for each in set.copy(obj) if type(obj) is set else frozenset.copy(obj):
            text = alike.spelt(each)
            if text is None:
                others.append(each)
            else:
                plain.append(text)
        for text in sorted(plain):
            self._note(b"M", text.encode("utf-8", "surrogatepass"))
        return ("set", number, type(obj) is set, len(plain), sorted(others, key=alike.outside))

    # -- arrays of NumPy ---------------------------------------------------------------------------

    def array(self, obj):
        """Stands for an array, with what its memory has to do with that of arrays before it."""
        numpy = sys.modules["numpy"]
        self._note(b"A", repr((obj.dtype, obj.shape, obj.flags.writeable)).encode())
        owner, memory = arrays._owner(obj)
        if self.exact and type(memory) is bytearray and sys.getrefcount(memory) > _HELD_ONCE:
            raise ValueError("what else lies over it is not noted")
        block = None
        if obj.nbytes and id(owner) not in self._private:
            block = self._block(arrays._address(obj), _extent(numpy, owner, memory), obj.strides)
        if obj.dtype.hasobject:
            if obj.nbytes > owner.nbytes:
                where = arrays._address(obj) - arrays._address(owner), obj.strides
                return _array, (), (where, _elements(numpy, owner))
            if texts.is_long(obj):
                return _array, (), texts.told(obj, self.content)
            return _array, (), _elements(numpy, obj)  # it may hold itself
        whole = obj
        if obj.nbytes > owner.nbytes:
            # It shows the same more than once; there may be less memory than it seems to have.
            where = (arrays._address(obj) - arrays._address(owner), obj.strides)
            self._note(b"W", repr(where).encode())
            whole = owner
        if obj.dtype.itemsize and obj.size and not (block and block.has(whole)):
            for part in _parts(numpy, whole.view(numpy.ndarray)):
                self.content(part)
        return _array, ()

    def raw(self, obj):
        """Stands for a ``bytearray``: its number, and at the first time what is in it."""
        known = self._sets.get(id(obj))
        if known is not None:
            return ("raw", known[0])
        number = len(self._sets)
        self._sets[id(obj)] = (number, obj)
        self.memory(obj)
        self.content(obj)
        return ("raw", number)

    def memory(self, obj):
        """Note what the memory of one of Python's objects has to do with that of arrays."""
        numpy = sys.modules.get("numpy")
        if len(obj) and hasattr(numpy, "frombuffer"):
            low, _, _ = extent = _of_buffer(numpy, obj)
            self._block(low, extent, ())

    def _block(self, low, extent, strides):
        """The memory that an object lies in; where others before it do, that is noted."""
        first, end, whole = extent
        at = bisect.bisect_right(self._starts, (low, sys.maxsize)) - 1
        block = self._blocks[self._starts[at][1]] if at >= 0 else None
        if block is not None and low < block.end:
            self._note(b"V", repr((block.number, low - block.first, strides)).encode())
            return block
        number = len(self._blocks)
        block = self._blocks[number] = _Block(number, low, end, whole)
        bisect.insort(self._starts, (first, number))
        return block

    def function(self, reduced):
        """Of a function: without what depends on which modules were imported."""
        state, slots = reduced[2]
        slots = {name: value for name, value in slots.items() if name != _SUBMODULES}
        if not self.exact:
            return (*reduced[:2], (state, slots), *reduced[3:])
        code, space, *more = reduced[1]
        # Its texts are often those of something else, or equal ones.
        if id(space) not in self._pickler._spaces:  # those that are variables themselves
            space = self._spaces.setdefault(id(space), (space, [alike.texts_apart(space)]))[1]
        made = (code, space, *alike.texts_apart(more))
        return (reduced[0], made, (state, alike.texts_apart(slots)), *reduced[3:])

    def klass(self, obj, reduced):
        """Of a class: the attributes that were saved, in an order."""
        state, more = reduced[2][0], list(reduced[2][1:])
        saved = _saved_of.get(obj)
        rows = [
            (name, value)
            for name, value in sorted(state.items(), key=alike.first)
            if _is_own(name, value) and (saved is None or name in saved)
        ]
        if reduced[5].__name__ == "_enum_setstate":  # attributes of its members
            more = [more[0], [sorted(own.items(), key=alike.first) for own in more[1].values()]]
        names = [name for name, _ in rows]
        if not self.exact:
            return (*reduced[:2], (names, [value for _, value in rows], more), *reduced[3:])
        made = [alike.texts_apart(each) if type(each) is dict else each for each in reduced[1]]
        state = alike.texts_apart(dict(rows)), more
        return (reduced[0], alike.texts_apart(made), state, *reduced[3:])


#: Names of the attributes that a class had when it was saved; for those that came back.
_saved_of = {}  # type: dict[type, set[str]]


def note_classes(cloudpickle):
    """Note what is brought back of classes: what their making adds is no part of that."""
    theirs = sys.modules[cloudpickle.CloudPickler.__module__]
    for module in (theirs, classes):
        for name in _SETTERS:
            if hasattr(module, name):
                setattr(module, name, _noting(getattr(module, name)))


def _noting(usual):
    @functools.wraps(usual)  # it is found by its name, as the usual one
    def setter(obj, state):
        _saved_of[obj] = set(state[0])
        return usual(obj, state)

    return setter


#: Names of the functions that give classes their attributes.
_SETTERS = ("_class_setstate", "_enum_setstate")


class Away:
    """Stands for an array of a device that is not there, with what it would be made of."""

    def __init__(self, *parts):
        self.parts = parts


class _Block:
    """Memory that arrays share.

    Attributes
    ----------
    first: address of the first object that was seen of it, which need not be its beginning.
    end: address after it.
    """

    def __init__(self, number, first, end, whole):
        self.number, self.first, self.end, self._whole = number, first, end, whole
        self._seen = None

    def has(self, obj):
        """Whether all of an array was looked at before."""
        low = obj.__array_interface__["data"][0]
        if self._seen is None or not self._seen[0] <= low < self._seen[1]:
            if obj.flags.c_contiguous or obj.flags.f_contiguous:
                self._seen = self._seen or (low, low + obj.nbytes)
            return False
        start = low + sum(min(0, s * (n - 1)) for s, n in zip(obj.strides, obj.shape))  # noqa: B905
        end = low + obj.dtype.itemsize
        end += sum(max(0, s * (n - 1)) for s, n in zip(obj.strides, obj.shape))  # noqa: B905
        return bool(self._seen[0] <= start and end <= self._seen[1])


class _Hands(devices.Hands):  # type: ignore[misc]
    """Fetches arrays of devices to have their content looked at, one at a time."""

    def __init__(self, prints):
        super().__init__(counted=lambda nbytes: None)
        self._prints = prints
        #: By id arrays that own memory of which only pandas knows who shares it.
        self.private = {}  # type: dict[int, Any]

    def frame(self, obj):
        before = len(self._framed)
        super().frame(obj)
        for key in itertools.islice(reversed(self._framed), len(self._framed) - before):
            owner = arrays._owner(self._framed[key])[0]
            self.private[id(owner)] = owner

    def _buffer(self, nbytes, fetch):
        data = fetch()
        self._prints.content(data)


def _printer(prints, hands):
    """A pickler whose pickle is the same in two processes if what it pickles is."""
    output = pickles._Output(prints.write, prints.content, hands)
    output.take = prints.take
    usual = pickles._saver(output, hands)
    others = {}  # type: dict[type, Any]
    ways = {types.CodeType: lambda obj: prints.text(alike.code(obj))}  # type: dict[type, Any]
    dtype = getattr(sys.modules.get("numpy"), "dtype", ())  # type: Any
    dtype = dtype if isinstance(dtype, type) else ()  # numpy is about to be imported

    def identity(cls):
        """How objects of a class that count by value are told; None where they do not."""
        if cls is set or cls is frozenset:
            return prints.set
        if cls is bytearray:
            return prints.raw
        if issubclass(cls, dtype):
            return lambda obj: prints.text("dtype %r" % obj)
        return None

    class Exact(type(usual)):  # type: ignore[misc]
        """The one that saves, with another pickle."""

        def _root(self):
            # By their place, which is the same where one is not there.
            memo, there = {}, {}  # type: ignore[var-annotated]
            for name in pickles._ROOTS:
                value = pickles.root(name)
                if value is None or id(value) in memo:
                    value = there[name] = [name]
                memo[id(value)] = (len(memo), value)
            super()._root()
            self.memo = memo
            return []

        def reducer_override(self, obj):
            cls = type(obj)
            if cls is getattr(sys.modules.get("numpy"), "ndarray", None):
                return prints.array(obj)
            if prints.exact and cls is types.CodeType:
                return _text, (alike.code(obj),)
            if prints.exact and issubclass(cls, dtype):
                return _text, ("dtype %r" % obj,)
            if cls is Away:
                return _device_array, tuple(map(_without_buffer(prints), obj.parts[:3]))
            reduced = super().reducer_override(obj)
            if reduced is NotImplemented:
                if prints.exact and alike.is_by_name(obj, cls) and obj is not _text:
                    return _text, ("%s.%s" % (obj.__module__, obj.__qualname__),)
                way = others.get(cls, _UNKNOWN)
                if way is _UNKNOWN:
                    way = others[cls] = _other_way(cls, self.dispatch_table, prints)
                return reduced if way is None else way(obj)
            if not isinstance(reduced, tuple):
                return reduced
            setter = getattr(reduced[5], "__name__", "") if len(reduced) > 5 else ""
            if setter == "_function_setstate":
                return prints.function(reduced)
            if setter in _SETTERS:
                return prints.klass(obj, reduced)
            for name, count in _OF_DEVICES:
                if reduced[0] is getattr(devices, name, None):
                    return _device_array, tuple(map(_without_buffer(prints), reduced[1][:count]))
            return reduced

    class Printer(Exact):
        def persistent_id(self, obj, texts=prints._texts, ways=ways):
            # Called for every object: there may be millions.
            cls = type(obj)
            if cls is str:
                number = texts.get(obj)
                return prints.text(obj) if number is None else number
            way = ways.get(cls, _UNKNOWN)
            if way is _UNKNOWN:
                way = ways[cls] = identity(cls)
            return None if way is None else way(obj)

    return Exact() if prints.exact else Printer()


def _other_way(cls, table, prints):
    """How objects are reduced that pickle reduces by itself; None: as it does."""
    if cls.__module__ == "gpu_share_kernel.simulated":
        return lambda obj: (_device_array, obj.__reduce__()[1])
    if cls is alike.LIST_ITERATOR:
        return alike.iterator
    if cls is array.array:
        return functools.partial(_row, prints)
    if prints.lenient and hasattr(cls, "__setstate__"):
        return lambda obj: (_opaque, (cls,))
    if issubclass(cls, (set, frozenset)):
        return alike.own_set
    if cls in table or cls in copyreg.dispatch_table or issubclass(cls, (type, types.FunctionType)):
        return None
    if cls.__reduce_ex__ is object.__reduce_ex__ and cls.__reduce__ is object.__reduce__:
        return alike.instance_exactly if prints.exact else alike.instance
    return alike.without_order if prints.lenient and cls.__module__ != "__main__" else None


def _row(prints, obj):
    """Of Python's own arrays, over which one of NumPy's may lie."""
    prints.memory(obj)
    return obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


def _without_buffer(prints):
    def drop(value):
        if not isinstance(value, _BUFFERS):
            return value
        prints.content(value)
        return None

    return drop


def _is_own(name, value):
    return name not in _NOT_OF_A_CLASS or (name == "__doc__" and value is not None)


def _array():
    """Stands for arrays in the pickles here."""


def _text():
    """Stands for what counts by value in the pickles here."""


def _opaque():
    """Stands for objects that take up their state by code of their own."""


def _device_array():
    """Stands for arrays of devices in the pickles here."""


def _elements(numpy, obj):
    return obj.view(numpy.ndarray).__reduce__()[2][4]


def _extent(numpy, owner, memory):
    """Where the memory of an array begins and ends, and what has it."""
    if type(memory) in (bytearray, array.array):
        return _of_buffer(numpy, memory)
    low = high = arrays._address(owner)
    for count, step in zip(owner.shape, owner.strides):  # noqa: B905 - newer than 3.8
        low += min(0, step * (count - 1))
        high += max(0, step * (count - 1))
    return low, high + owner.dtype.itemsize, owner


def _of_buffer(numpy, memory):
    flat = numpy.frombuffer(memory, numpy.uint8)
    low = arrays._address(flat)
    return low, low + flat.nbytes, memory


def _parts(numpy, given):
    """An array's content in pieces, in the order of its elements."""
    if given.flags.f_contiguous and not given.flags.c_contiguous:
        given = given.T
    if given.flags.c_contiguous:
        yield given.reshape(-1).view(numpy.uint8)
        return
    if given.ndim > 1 and given.nbytes > _PART:
        for each in given:
            yield from _parts(numpy, each)
        return
    step = max(1, _PART // max(1, given.nbytes // len(given)))
    for start in range(0, len(given), step):
        yield numpy.ascontiguousarray(given[start : start + step]).reshape(-1).view(numpy.uint8)
