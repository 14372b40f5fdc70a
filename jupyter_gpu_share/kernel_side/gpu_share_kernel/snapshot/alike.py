"""What fingerprints take objects for: in an order, and without what a process adds by itself."""

import pickle
import types
from typing import Any  # noqa: F401 - in a comment

__all__ = [
    "LIST_ITERATOR",
    "code",
    "first",
    "instance",
    "instance_exactly",
    "is_by_name",
    "iterator",
    "outside",
    "own_set",
    "spelt",
    "texts_apart",
    "without_order",
]

_PLAIN = frozenset([type(None), bool, int, float, complex, str, bytes])
_MANY = (list, tuple, set, frozenset)


def is_by_name(obj, cls):
    """Whether pickle writes the name of an object, which it can: it is saved by now."""
    if cls is types.BuiltinFunctionType:
        return type(obj.__self__) is types.ModuleType
    return issubclass(cls, (type, types.FunctionType))


LIST_ITERATOR = type(iter([]))  # type: type[Any]


def iterator(obj):
    """That of a dict or a set comes back as one of a list that begins."""
    reduced = obj.__reduce__()
    return reduced[:2] if reduced[2:] == (0,) else reduced


def own_set(obj):
    """Of a class made of a set: it has no order either."""
    reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if not isinstance(reduced, tuple) or not isinstance(reduced[1], tuple):
        return reduced
    members = [each for arg in reduced[1] for each in (arg if isinstance(arg, _MANY) else [arg])]
    return (reduced[0], (sorted(members, key=outside),), *reduced[2:])


def without_order(obj):
    """As a library's class says itself, which may give its dicts another order as it is made."""
    reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if not isinstance(reduced, tuple):
        return reduced
    return (reduced[0], *_ordered(reduced[1:3], {}), *reduced[3:])


def _ordered(value, known):
    """The same with its plain dicts in an order."""
    cls = type(value)
    if cls not in (dict, list, tuple):
        return value
    if id(value) in known:
        return known[id(value)][1]
    if cls is tuple:
        return tuple(_ordered(each, known) for each in value)
    made = cls()  # type: Any
    known[id(value)] = value, made
    if cls is list:
        made += [_ordered(each, known) for each in value]
        return made
    rows = value.items()
    if all(type(key) is str for key in value):
        rows = sorted(rows, key=first)
    made.update((key, _ordered(each, known)) for key, each in rows)
    return made


def instance(obj):
    """Its attributes in an order: what makes it anew may set them in another."""
    reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if not isinstance(reduced, tuple) or len(reduced) < 3:
        return reduced
    state = reduced[2]
    if type(state) is tuple and len(state) == 2 and {type(each) for each in state} <= _STATES:
        # Of the notebook's classes the slots come back as attributes like any other.
        state = dict(state[0] or {}, **(state[1] or {}))
    if type(state) is dict and all(type(name) is str for name in state):
        state = dict(sorted(state.items(), key=first))
    return (*reduced[:2], state, *reduced[3:])


def instance_exactly(obj):
    """The same with the names as one text, for those of attributes are interned, or not."""
    reduced = instance(obj)
    if not isinstance(reduced, tuple) or len(reduced) < 3 or type(reduced[2]) is not dict:
        return reduced
    names = list(reduced[2])
    if not all(type(name) is str for name in names):
        return reduced
    return (*reduced[:2], (repr(names), list(reduced[2].values())), *reduced[3:])


#: Of an object's state, with its slots.
_STATES = {dict, type(None)}


def first(row):
    return row[0]


def texts_apart(given):
    """A dict with names, or a list, as one text that has all of its texts, and the others."""
    rows = list(given.items() if type(given) is dict else enumerate(given))
    text = repr([(key, value) if type(value) is str else (key,) for key, value in rows])
    return text, [value for _, value in rows if type(value) is not str]


def spelt(value):
    """A plain value as text, the same for what is the same; None of others."""
    cls = type(value)
    if cls in _PLAIN:
        return "%s %r" % (cls.__name__, value)
    if cls is tuple or cls is frozenset:
        texts = [spelt(each) for each in value]
        if None in texts:
            return None
        if cls is frozenset:
            texts.sort()
        return "%s(%s)" % (cls.__name__, ", ".join(texts))
    return None


def outside(value):
    """By what an object is sorted that has no order: what is seen without running its code."""
    cls = type(value)
    text = spelt(value)
    if text is None:
        if cls is tuple or cls is frozenset:
            texts = list(map(outside, value))
            text = repr(sorted(texts) if cls is frozenset else texts)
        elif issubclass(cls, _NAMED):
            text = str(value.__qualname__)
        else:
            text = repr(["%s=%s" % (name, spelt(each)) for name, each in _state(value)])
    return "%s.%s %s" % (cls.__module__, cls.__qualname__, text)


def _state(value):
    try:
        state = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return ()
    return list(state.items()) if type(state) is dict else ()


_NAMED = (type, types.FunctionType, types.BuiltinFunctionType)


def code(code):
    """Code as text."""
    consts = [_const(each) for each in code.co_consts]
    return repr(
        (
            code.co_code,
            consts,
            code.co_names,
            code.co_varnames,
            code.co_freevars,
            code.co_cellvars,
            code.co_argcount,
            getattr(code, "co_posonlyargcount", 0),
            code.co_kwonlyargcount,
            code.co_flags,
            code.co_name,
            code.co_firstlineno,
        )
    )


def _const(value):
    if type(value) is types.CodeType:
        return code(value)
    text = spelt(value)
    return repr(value) if text is None else text
