"""How classes of the notebook are rebuilt without running their code again.

cloudpickle makes a class as a class statement would: the ``__init_subclass__`` of its bases and the
code of its metaclass run once more. What they did the first time, such as an entry in a registry,
is among the variables already. So what cells have defined does not run when a class is rebuilt;
what libraries have defined does, for their modules are new.
"""

import abc
import types
import typing

from gpu_share_kernel.snapshot import aliases

__all__ = ["reduced"]

_OF_CELLS = "__main__"
#: Among the attributes of a class: abstract classes of Python's with which it is registered.
_REGISTERED = "_gpu_share_registered"


def reduced(cls, parts):
    """What cloudpickle gave for a class, with functions of ours in place of its own.

    Parameters
    ----------
    parts: function, arguments, state, None, None, and the function that sets the state.
    """
    if len(parts) != 6:
        return parts
    make, args, state = parts[:3]
    if make.__name__ == "_make_skeleton_class" and len(args) == 6:
        meta, name, bases, members = args[:4]
        slots = vars(cls).get("__slots__")
        # Typed named tuples and dicts have what is no class among their bases, and make their own.
        if slots is not None and all(isinstance(each, type) or _generic(each) for each in bases):
            members = dict(members, __slots__=slots)
        with_them = aliases.registered_with(cls)
        if with_them:
            state = (dict(state[0], **{_REGISTERED: with_them}), *state[1:])
        return (_make, (meta, name, bases, members), state, None, None, _class_setstate)
    if make.__name__ == "_make_skeleton_enum" and len(args) == 7:
        bases, name, qualname, _, module = args[:5]
        members = {key: member.value for key, member in cls.__members__.items()}
        space, more = state
        space = {key: value for key, value in space.items() if key not in members}
        own = {
            key: {n: v for n, v in vars(member).items() if n not in _OF_MEMBERS}
            for key, member in cls.__members__.items()
        }
        made = (cls.__class__, bases, name, qualname, members, module)
        return (_make_enum, made, (space, more, own), None, None, _enum_setstate)
    return parts


def _generic(base):
    return typing.get_origin(base) is not None


#: Of each member, and set when it is made.
_OF_MEMBERS = frozenset(
    ["_name_", "_value_", "__objclass__", "_sort_order_", "_hashable_values_", "_inverted_"]
)


def _of_a_cell(cls):
    return type.__getattribute__(cls, "__module__") == _OF_CELLS


def _make(meta, name, bases, members):
    real = types.resolve_bases(bases)
    with _Quiet(real):
        if not _of_a_cell(meta):
            # As a class statement does it.
            cls = types.new_class(
                name, bases, {"metaclass": meta}, lambda space: space.update(members)
            )
        else:
            native = next(each for each in meta.__mro__ if not _of_a_cell(each))
            space = dict(members)
            if real is not bases:
                space["__orig_bases__"] = bases
            cls = native.__new__(meta, name, real, space)
            native.__init__(cls, name, real, space)
    return cls


class _Quiet:
    """While it lasts, bases that cells have defined have no ``__init_subclass__``."""

    def __init__(self, bases):
        self._bases = bases
        self._taken = []

    def __enter__(self):
        for base in self._bases:
            for each in base.__mro__:
                if _of_a_cell(each) and "__init_subclass__" in vars(each):
                    self._taken.append((each, vars(each)["__init_subclass__"]))
                    type.__delattr__(each, "__init_subclass__")

    def __exit__(self, *exception):
        for each, function in self._taken:
            type.__setattr__(each, "__init_subclass__", function)


def _class_setstate(cls, state):
    members, _ = state
    registered = members.pop("_abc_impl", ())
    with_them = members.pop(_REGISTERED, ())
    put = type.__setattr__ if _of_a_cell(type(cls)) else setattr
    for name, value in members.items():
        put(cls, name, value)
    if "__firstlineno__" in members:  # setting others has removed it
        put(cls, "__firstlineno__", members["__firstlineno__"])
    for each in registered:
        abc.ABCMeta.register(cls, each)
    for each in with_them:
        each.register(cls)


def _make_enum(meta, bases, name, qualname, members, module):
    native = next(each for each in meta.__mro__ if not _of_a_cell(each))
    with _Quiet(bases):
        space = native.__prepare__(name, bases)
        for key, value in members.items():
            space[key] = value
        cls = native.__new__(meta, name, bases, space)
    type.__setattr__(cls, "__module__", module)
    type.__setattr__(cls, "__qualname__", qualname)
    return cls


def _enum_setstate(cls, state):
    members, _, own = state
    members = dict(members)
    for name, value in members.items():
        type.__setattr__(cls, name, value)
    for name, values in own.items():
        vars(cls.__members__[name]).update(values)
