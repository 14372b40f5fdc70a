"""Objects that are nothing by themselves: views of a dict, and what a process has one of.

A copy of one would show, or change, something else than before. Each way answers as ``__reduce__``
does, or with None where the usual way is right.
"""

import collections
import functools
import gc
import importlib
import sys
import types
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel.snapshot.kinds import Lost

__all__ = ["by_class", "registered_with", "single"]

_VIEWS = ("keys", "values", "items")
#: What a process has one of, by its class: module, and name or function in it.
_SINGLES = {
    ("numpy.random.mtrand", "RandomState"): ("numpy.random.mtrand", "_rand"),
    ("matplotlib", "RcParams"): ("matplotlib", "rcParams"),
    ("decimal", "Context"): ("decimal", "getcontext"),
}


def by_class():
    """The ways of exact classes."""
    found = {types.MappingProxyType: _proxy}  # type: dict[Any, Any]
    for cls in (dict, collections.OrderedDict):
        for name in _VIEWS:
            found[type(getattr(cls(), name)())] = functools.partial(_view, name)
    return found


def single(cls):
    """The way of a class of which the process has one object of its own; None for all others."""
    place = _SINGLES.get((cls.__module__, cls.__qualname__))
    if place is None:
        return None

    def reduce(obj):
        return (_single, place) if obj is _single(*place) else None

    return reduce


def _single(module, name):
    found = getattr(importlib.import_module(module), name)
    return found() if isinstance(found, (types.FunctionType, types.BuiltinFunctionType)) else found


def _view(name, obj):
    # Older Pythons do not say which dict it is of.
    return _view_of, (name, gc.get_referents(obj)[0])


def _view_of(name, mapping):
    return getattr(mapping, name)()


def _proxy(obj):
    """A view that cannot be written through, such as ``vars`` of a class.

    Raises
    ------
    Lost: of a class that cannot be told.
    """
    mapping = gc.get_referents(obj)[0]
    if type(mapping) is not dict or "__module__" not in mapping or "__doc__" not in mapping:
        return types.MappingProxyType, (mapping,)
    for name in ("__dict__", "__weakref__"):
        cls = getattr(mapping.get(name), "__objclass__", None)
        if cls is not None and gc.get_referents(vars(cls))[0] is mapping:
            return vars, (cls,)
    raise Lost


def registered_with(cls):
    """Abstract classes of Python's own with which a class was registered."""
    try:
        look = importlib.import_module("_abc")._get_dump
    except (ImportError, AttributeError):  # of another Python than CPython
        return []
    return [each for each in _abstract() if any(ref() is cls for ref in look(each)[0])]


def _abstract():
    for name in ("collections.abc", "numbers", "contextlib", "os", "io"):
        module = sys.modules.get(name)
        for value in list(vars(module).values()) if module is not None else ():
            if isinstance(value, type) and hasattr(value, "_abc_impl"):
                yield value
