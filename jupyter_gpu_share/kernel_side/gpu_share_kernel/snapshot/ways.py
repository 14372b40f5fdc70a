"""How single kinds of Python's own objects are pickled, where neither they nor cloudpickle do it.

Each way answers as ``__reduce__`` does, or with None where the usual way is right. The names of
functions that set a state end with ``setstate``: an unpickler finds by it whose state is not whole.
"""

import functools
import importlib
import sys
import types
import typing
from typing import Any  # noqa: F401 - in a comment

__all__ = ["Marks", "Twins", "by_class", "dispatcher"]

_OF_CELLS = "__main__"


def of_a_cell(obj):
    """Whether something was defined by a cell, as far as it says."""
    try:
        return obj.__module__ == _OF_CELLS
    except Exception:
        return False


# -- what belongs to a module ----------------------------------------------------------------------


class Marks:
    """Objects that are variables of modules: they are compared by identity.

    Such as ``dataclasses.MISSING``: a copy of one is not it. It is pickled as a name, with its
    state of now.

    Parameters
    ----------
    why: a function that says why a module cannot be imported in a new kernel; empty if it can.
    """

    def __init__(self, why):
        self._why = why
        self._found = None

    def way(self, cls):
        """The function that reduces objects of a class; None where no module has any."""
        if cls.__module__ == _OF_CELLS or not _is_plain(cls):
            return None
        if self._found is None:
            self._found = self._search()
        known = self._found.get(cls)
        if not known:
            return None

        def reduce(obj):
            place = known.get(id(obj))
            if place is None:
                return None
            state = obj.__reduce_ex__(4)[2:3] if cls is not object else ()
            return (_mark, (*place, cls), *state)

        return reduce

    def _search(self):
        found = {}  # type: dict[type, dict[int, tuple[str, str]]]
        for name, module in list(sys.modules.items()):
            if name == _OF_CELLS or type(module) is not types.ModuleType:
                continue
            if name.partition(".")[0] == "gpu_share_kernel":
                continue
            for key, value in list(vars(module).items()):
                cls = type(value)
                if _is_plain(cls) and cls.__module__ != _OF_CELLS:
                    there = found.setdefault(cls, {})
                    # Where it is imported it has another name: that of its class's module is best.
                    if id(value) not in there or name == cls.__module__:
                        there[id(value)] = (name, key)
        return {
            cls: {key: place for key, place in there.items() if not self._why(place[0])}
            for cls, there in found.items()
        }


_PLAIN = {}  # type: dict[type, bool]


def _is_plain(cls):
    """Whether objects of a class have no more than their attributes, and no way of their own."""
    try:
        return _PLAIN[cls]
    except KeyError:
        pass
    plain = (
        cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__reduce__ is object.__reduce__
        and getattr(cls, "__getstate__", None) is getattr(object, "__getstate__", None)
        and not hasattr(cls, "__setstate__")
        and (cls is object or cls.__module__ != "builtins")
        and not issubclass(cls, (type, list, dict, set, tuple, str, bytes, int, float))
        and cls.__new__ is object.__new__
    )
    if cls.__module__ != _OF_CELLS:  # such classes come and go
        _PLAIN[cls] = plain
    return plain


def _mark(module, name, cls):
    try:
        found = getattr(importlib.import_module(module), name)
    except AttributeError:  # it was set later
        found = None
    return found if type(found) is cls else object.__new__(cls)


# -- instances -------------------------------------------------------------------------------------


def asks(cls):
    """Whether objects of a class answer for attributes that they do not have.

    An unpickler asks a new object for its ``__setstate__``; such a one asks itself, without end.
    """
    return hasattr(cls, "__getattr__") and not hasattr(cls, "__setstate__")


def asking(obj):
    """An object whose class does so."""
    reduced = obj.__reduce_ex__(4)
    if isinstance(reduced, str) or len(reduced) < 3 or len(reduced) > 5 or reduced[2] is None:
        return None
    return (*reduced, *[None] * (5 - len(reduced)), _setstate)


def _setstate(obj, state):
    slots = {}  # type: dict[str, Any]
    if isinstance(state, tuple) and len(state) == 2:
        state, slots = state
    if state:
        own = object.__getattribute__(obj, "__dict__")
        own.update({sys.intern(key) if type(key) is str else key: state[key] for key in state})
    for name, value in (slots or {}).items():
        setattr(obj, name, value)


# -- functions -------------------------------------------------------------------------------------


class Twins:
    """Cells of closures: functions that share a variable share it afterwards.

    cloudpickle gives each function new and empty cells, which its state fills. Here the same real
    cell gets the same empty one each time.
    """

    def __init__(self):
        self._twins = {}

    def share(self, function, args):
        """The arguments with which cloudpickle makes a function, with the twins of its cells."""
        if not function.__closure__ or len(args) != 5 or not isinstance(args[4], tuple):
            return args
        cells = tuple(map(self._twin, function.__closure__, args[4]))
        return (*args[:4], cells)

    def _twin(self, cell, empty):
        return self._twins.setdefault(id(cell), (cell, empty))[1]


_DISPATCHER = getattr(functools.singledispatch(len), "__code__")  # noqa: B009 - its types hide it


def dispatcher(obj):
    """A function of a cell with ``singledispatch``: its cache of weak references begins anew."""
    if obj.__code__ is not _DISPATCHER or not of_a_cell(obj):
        return None
    rows = list(obj.registry.items())
    own = {key: value for key, value in vars(obj).items() if key not in _OF_DISPATCHERS}
    name = getattr(obj, "__name__", "function")
    return _make_dispatcher, (name,), (rows, own), None, None, _dispatcher_setstate


_OF_DISPATCHERS = frozenset(["register", "dispatch", "registry", "_clear_cache", "__wrapped__"])


def _make_dispatcher(name):
    def function(*args, **kwargs):
        raise NotImplementedError

    function.__name__ = name
    return functools.singledispatch(function)


def _dispatcher_setstate(obj, state):
    rows, own = state
    functools.update_wrapper(obj, dict(rows)[object])
    for cls, function in rows:
        obj.register(cls, function)
    obj.__dict__.update(own)


_Cached = type(functools.lru_cache(1)(len))


def _cached(obj):
    """A function with ``lru_cache``, of a cell: begins with an empty cache."""
    if not of_a_cell(obj):
        return None
    typed = obj.cache_parameters()["typed"] if hasattr(obj, "cache_parameters") else False
    return _make_cached, (obj.__wrapped__, obj.cache_info().maxsize, typed)


def _make_cached(function, size, typed):
    return functools.lru_cache(size, typed)(function)


def _cached_property(obj):
    """Older ones hold a lock."""
    state = {key: value for key, value in vars(obj).items() if key != "lock"}
    return _make_cached_property, (), state


def _make_cached_property():
    return functools.cached_property(len)


# -- types -----------------------------------------------------------------------------------------


def _new_type(obj):
    return (_make_new_type, (obj.__name__, obj.__supertype__)) if of_a_cell(obj) else None


def _make_new_type(name, supertype):
    make = typing.NewType  # type: Any
    made = make(name, supertype)
    made.__module__ = _OF_CELLS  # not that of whoever happens to make it: it is saved again
    return made


_VARIANCE = ("covariant", "contravariant", "infer_variance")


def _type_variable(obj):
    if not of_a_cell(obj):
        return None
    options = {name: True for name in _VARIANCE if getattr(obj, "__%s__" % name, False)}
    if getattr(obj, "__bound__", None) is not None:
        options["bound"] = obj.__bound__
    if hasattr(obj, "has_default") and obj.has_default():
        options["default"] = obj.__default__
    limits = getattr(obj, "__constraints__", ())
    return _make_type_variable, (type(obj), obj.__name__, limits, options)


def _make_type_variable(cls, name, limits, options):
    made = cls(name, *limits, **options)
    made.__module__ = _OF_CELLS
    return made


# -- exceptions ------------------------------------------------------------------------------------

_OF_EXCEPTIONS = ("__cause__", "__context__", "__suppress_context__")


def exception(obj):
    """With its cause, its context, and where it was raised."""
    reduced = obj.__reduce_ex__(4)
    if isinstance(reduced, str) or len(reduced) > 3:
        return None
    own = {name: getattr(obj, name) for name in _OF_EXCEPTIONS}
    places, tb = [], obj.__traceback__
    while tb is not None:
        code = tb.tb_frame.f_code
        where = tb.tb_frame.f_globals.get("__name__")
        places.append((code.co_filename, code.co_name, where, tb.tb_lineno))
        tb = tb.tb_next
    if not places and not any(own.values()):
        return None
    state = reduced[2] if len(reduced) == 3 else None
    return (reduced[0], reduced[1], (state, own, places), None, None, _exception_setstate)


def _exception_setstate(obj, state):
    usual, own, places = state
    if usual is not None:
        obj.__setstate__(usual)
    for name in _OF_EXCEPTIONS:
        setattr(obj, name, own[name])
    obj.__traceback__ = _traceback(places)


def _traceback(places):
    """Of files, functions and lines as they were; its frames have none of their variables."""
    made = None
    for file, name, module, line in reversed(places):
        code = compile("raise Stop", file, "exec").replace(co_name=name, co_firstlineno=line)
        try:
            exec(code, {"__name__": module, "__file__": file, "Stop": _Stop})  # noqa: S102 - ours
        except _Stop as stop:
            inner = stop.__traceback__  # type: Any
            frame = inner.tb_next.tb_frame
        # No instruction: it has no columns to mark.
        made = types.TracebackType(made, frame, -1, line)
    return made


class _Stop(Exception):  # noqa: N818 - it only makes a frame
    pass


# -- all of them -----------------------------------------------------------------------------------


def by_class():
    """The ways of exact classes."""
    found = {_Cached: _cached}  # type: dict[Any, Any]
    if isinstance(getattr(typing, "NewType", None), type):  # a function in older versions
        found[typing.NewType] = _new_type
    for name in ("TypeVar", "ParamSpec", "TypeVarTuple"):
        if hasattr(typing, name):
            found[getattr(typing, name)] = _type_variable
    if "lock" in vars(functools.cached_property(len)):
        found[functools.cached_property] = _cached_property
    return found
