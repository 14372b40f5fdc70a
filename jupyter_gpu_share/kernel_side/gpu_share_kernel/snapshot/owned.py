"""What the notebook's own modules have in their variables and classes, and what it did to them.

A module is the notebook's own where its file lies in a folder in which the notebook works. A new
kernel imports it anew, with the values that it begins with; those of now are put into it.
"""

import importlib
import os
import sys
import types

from gpu_share_kernel.snapshot.ways import of_a_cell

__all__ = ["put", "values"]

_OTHERS = ("__main__", "cloudpickle", "gpu_share_kernel", "sitecustomize")


def values(folders):
    """Pairs of a name, such as ``utils.CACHE``, and the value that it has.

    Parameters
    ----------
    folders: those in which the notebook has worked.
    """
    places = {os.path.join(os.path.realpath(str(folder)), "") for folder in folders}
    known = {}  # type: dict[str, str]
    for name, module in list(sys.modules.items()):
        file = getattr(getattr(module, "__spec__", None), "origin", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        if name.partition(".")[0] in _OTHERS:
            continue
        file = _real(file, known)
        if "-packages" in file or not any(file.startswith(place) for place in places):
            continue
        for key, value in list(vars(module).items()):
            if key[:2] == "__" or isinstance(value, types.ModuleType):
                continue
            if _replaced(value):
                yield "%s.%s" % (name, key), value
            elif isinstance(value, type):
                if value.__module__ == name and type(value) is type:
                    for inner, each in list(vars(value).items()):
                        if inner[:2] != "__" and (_is_data(each) or of_a_cell(each)):
                            yield "%s.%s.%s" % (name, key, inner), each
            elif not callable(value):
                yield "%s.%s" % (name, key), value


def _real(file, known):
    """The real path of a file; ``known`` has those of folders, of which there are fewer."""
    if os.path.islink(file):
        return os.path.realpath(file)
    folder, name = os.path.split(file)
    if folder not in known:
        known[folder] = os.path.realpath(folder)
    return os.path.join(known[folder], name)


def _replaced(value):
    """Whether a function or class is none of a module."""
    return isinstance(value, (type, types.FunctionType)) and of_a_cell(value)


def _is_data(value):
    """Whether an attribute of a class is a value, and no part of how the class works."""
    return not callable(value) and not any(
        hasattr(type(value), name) for name in ("__get__", "__set__", "__delete__")
    )


def put(name, value):
    """Bring back what :func:`values` gave.

    Raises
    ------
    ImportError, AttributeError: the module, or its class, is not there any more.
    """
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        if ".".join(parts[:count]) in sys.modules:
            break
    else:
        count = _imported(parts)
    owner = sys.modules[".".join(parts[:count])]
    for part in parts[count:-1]:
        owner = getattr(owner, part)
    setattr(owner, parts[-1], value)


def _imported(parts):
    """How many of the parts are a module's name; imports it."""
    for count in range(len(parts) - 1, 0, -1):
        try:
            importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            if count == 1:
                raise
        else:
            return count
    raise ImportError(".".join(parts))
