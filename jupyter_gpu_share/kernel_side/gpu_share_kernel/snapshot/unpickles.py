"""Unpickling what :mod:`gpu_share_kernel.snapshot.pickles` has pickled.

A variable that cannot be unpickled must not spoil what others share with it. Whatever is missing
is replaced by a stand-in, everything is read to its end, and variables that hold a stand-in are
given up afterwards.
"""

import datetime as dt
import gc
import importlib
import itertools
import pickle
import sys
import types
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel.snapshot.pickles import root, roots, text_of
from gpu_share_kernel.snapshot.records import Damaged

__all__ = ["Loader", "damage"]


class _Absent(type):
    """The class of stand-ins: each is a class itself, for classes are what is missing most."""

    why = ""


def _take(self, *args, **kwargs):
    return None


def _absent(why):
    """A stand-in that can be used as a class, called, filled and given a state."""
    members = dict.fromkeys(
        ("__init__", "__setstate__", "__setitem__", "append", "extend", "add", "update"), _take
    )
    members["__new__"] = lambda cls, *args, **kwargs: object.__new__(cls)
    members["why"] = why
    return _Absent("Absent", (), members)


class _Tolerant:
    """Finds what pickles name; what is not there becomes a stand-in."""

    def find_class(self, module, name):
        try:
            found = super().find_class(module, name)  # type: ignore[misc]
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return self.missing(error)
        if name == "subimport" and module.partition(".")[0] == "cloudpickle":
            return self._module
        return self._root if found is root else found

    def _root(self, name):
        found = root(name)
        if found is None and "." in name:  # of a module
            importlib.import_module(name)
            found = root(name)
        if found is None:
            found = self.missing(LookupError("there is no such %s here" % name))()
        return found

    def _module(self, name):
        try:
            __import__(name)
            return sys.modules[name]
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return self.missing(error)

    def missing(self, error):
        """A stand-in, which is noted."""
        self.failed = True
        return _absent(text_of(error) if isinstance(error, TypeError) else _sentence(error))


def _sentence(error):
    if isinstance(error, ModuleNotFoundError) and error.name:
        return "the module %s is not here" % error.name
    return text_of(error)


class _Fast(_Tolerant, pickle.Unpickler):
    """Python's own unpickler; ``known`` is what its memory begins with, in order."""

    def __init__(self, reader, known=()):
        super().__init__(reader, buffers=itertools.chain(known, reader))
        self.failed = False
        if known:
            # It cannot be given a memory, but reads one: NEXT_BUFFER, MEMOIZE, POP for each object.
            rows = b"\x97\x940" * len(known) + b"N."
            reader.push(b"\x80\x05\x95" + len(rows).to_bytes(8, "little") + rows)
            self.load()


class Loader:
    """Unpickles the variables one after the other, as fast as it goes.

    A variable of which something cannot be rebuilt is read once more, carefully; the others stay
    fast.

    Attributes
    ----------
    failed: whether anything was missing.
    broken: objects that could not be completed, by id: the object, and why.
    """

    def __init__(self, reader):
        self._reader = reader
        self.failed = False
        self.broken = {}
        self._fast = _Fast(reader)
        self._fast.load()  # the roots
        self._known = len(self._fast.memo.copy())
        self._last = None  # type: Any

    def next(self):
        """What comes next: a dict with names and values."""
        place = self._reader.place()
        try:
            loaded = self._fast.load()
        except (KeyboardInterrupt, Damaged):
            raise
        except BaseException:
            loaded = self._carefully(place)
        self._last = loaded
        self.failed = self.failed or self._fast.failed
        return loaded[0]

    def _carefully(self, place):
        memo = self._fast.memo.copy()
        # What came after the last one's own number is of the attempt that failed.
        if self._last is not None:
            self._known = 1 + next(n for n, each in memo.items() if each is self._last)
        self._reader.back(place)
        slow = CarefulLoader(self._reader, self.broken)
        slow.memo = {number: each for number, each in memo.items() if number < self._known}
        loaded = slow.next()
        self.failed = self.failed or self._fast.failed or slow.failed
        # The one before has read ahead.
        self._fast = _Fast(self._reader, [slow.memo[n] for n in range(len(slow.memo))])
        return loaded


_Unpickler = getattr(pickle, "_Unpickler")  # noqa: B009 - its types say little of it


class CarefulLoader(_Tolerant, _Unpickler):  # type: ignore[misc, valid-type]
    """The same in Python, slowly: goes on where rebuilding an object fails."""

    dispatch = dict(_Unpickler.dispatch)

    def __init__(self, reader, broken):
        super().__init__(reader, buffers=reader)
        self.failed = False
        self.broken = broken

    def next(self):
        """What is to be read at once."""
        return self.load()

    def _break(self, value, error):
        self.failed = True
        self.broken[id(value)] = (value, text_of(error))

    def _reduce(self):
        args = self.stack.pop()
        function = self.stack[-1]
        try:
            self.stack[-1] = function(*args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.stack[-1] = self.missing(error)()
            # The setter of a state works on an object that is there already.
            if args and getattr(function, "__name__", "").endswith("setstate"):
                self._break(args[0], error)

    def _make(self, cls, args, kwargs):
        try:
            self.append(cls.__new__(cls, *args, **kwargs))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.append(self.missing(error)())

    def _new(self):
        args, cls = self.stack.pop(), self.stack.pop()
        self._make(cls, args, {})

    def _new_with_names(self):
        kwargs, args, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self._make(cls, args, kwargs)

    def _freeze(self):
        items = self.pop_mark()
        self._make(frozenset, (items,), {})

    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.NEWOBJ[0]] = _new
    dispatch[pickle.NEWOBJ_EX[0]] = _new_with_names
    dispatch[pickle.FROZENSET[0]] = _freeze


def _going_on(method, which):
    """The method of an opcode that fills an object; ``which`` finds the object beforehand."""

    def run(self):
        filled = which(self)
        try:
            method(self)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # what it has taken from the stack was to be taken
            self._break(filled, error)

    return run


for _opcode, _which in (
    (pickle.BUILD, lambda self: self.stack[-2]),
    (pickle.APPENDS, lambda self: self.metastack[-1][-1]),
    (pickle.SETITEMS, lambda self: self.metastack[-1][-1]),
    (pickle.ADDITEMS, lambda self: self.metastack[-1][-1]),
    (pickle.APPEND, lambda self: self.stack[-2]),
    (pickle.SETITEM, lambda self: self.stack[-3]),
):
    CarefulLoader.dispatch[_opcode[0]] = _going_on(_Unpickler.dispatch[_opcode[0]], _which)


def damage(values, loader):
    """Why each of the values is not whole, or None: in the same order."""
    if not loader.failed:
        return [None] * len(values)
    # Nothing of a snapshot is reached through modules and the kernel itself.
    stop = {
        id(vars(module)) for module in list(sys.modules.values()) if hasattr(module, "__dict__")
    }
    stop |= set(map(id, roots()))
    stop |= {id(loader), id(loader.broken)}
    return [_damage(value, loader.broken, stop) for value in values]


def _damage(value, broken, whole):
    """Look for a stand-in in all that a value holds. What holds none is added to ``whole``."""
    seen, todo = set(), [value]
    shows = {}  # type: dict[type, bool]
    while todo:
        each = todo.pop()
        if id(each) in whole or id(each) in seen:
            continue
        seen.add(id(each))
        if id(each) in broken:
            return broken[id(each)][1]
        cls = type(each)
        if cls is _Absent or type(cls) is _Absent:
            return each.why
        if issubclass(cls, types.ModuleType):
            continue
        todo += gc.get_referents(each)
        if cls not in shows:
            shows[cls] = not issubclass(cls, _hiding())
        if not shows[cls]:
            todo += _hidden(each)
    whole |= seen
    return None


def _hiding():
    """Classes of what does not show all that it holds."""
    numpy = sys.modules.get("numpy")
    more = [getattr(numpy, name) for name in ("ndarray", "void") if hasattr(numpy, name)]
    return (dt.datetime, dt.time, *more)


def _hidden(value):
    """What a value holds without showing it to the collector of garbage.

    Only objects that stay: the number of one that is made here would soon be another's.
    """
    if isinstance(value, (dt.datetime, dt.time)):
        return [] if value.tzinfo is None else [value.tzinfo]
    if not value.dtype.hasobject:
        return []
    numpy = sys.modules["numpy"]
    array = numpy.asarray(value) if isinstance(value, numpy.void) else value.view(numpy.ndarray)
    if array.dtype.names is None:
        return list(array.flat)
    return [each for name in array.dtype.names for each in _hidden(array[name])]
