"""Whether a new kernel could import the modules that pickles refer to by name.

A new kernel gets the working folder and ``sys.path`` that this one has now. A module that was found
before one of them changed, or that was loaded from a file, is not found that way any more: it is
carried, which means that the new kernel is told where it lies.
"""

import glob
import importlib.util
import os
import sys
from importlib.machinery import (
    ExtensionFileLoader,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)

__all__ = ["Reach", "carry"]

#: In every kernel: made by Python, or brought by us.
_ALWAYS = frozenset(
    ["__main__", "__mp_main__", "builtins", "cloudpickle", "gpu_share_kernel"]
).union(sys.builtin_module_names)
_IN_PYTHON = ("built-in", "frozen")
#: What loads a file as it is; the others may change what they read.
_PLAIN = (ExtensionFileLoader, SourceFileLoader, SourcelessFileLoader)


class Reach:
    """What a new kernel would find, as things are now."""

    def __init__(self):
        # What Python remembers of a relative entry is of the folder where it was first used.
        self._path = [
            os.path.abspath(entry or ".") for entry in _strings(sys.path) if _there(entry)
        ]
        self._reasons = {}
        self._finders = None

    def why(self, name):
        """Why a module cannot be imported in a new kernel, in words; empty if it can."""
        try:
            return self._reasons[name]
        except (KeyError, TypeError):
            pass
        reason = self._reasons[name] = self._why(name) if isinstance(name, str) else ""
        return reason

    def _why(self, name):
        top, _, below = name.partition(".")
        if below:
            spec = getattr(sys.modules.get(name), "__spec__", None)
            origin = getattr(spec, "origin", None)
            plain = type(getattr(spec, "loader", None)) in _PLAIN
            if plain and not os.path.exists(origin or ""):
                return _missing(name, origin)
            return self.why(top)
        if top in _ALWAYS or self._finds(top) or self.carried(top) is not None:
            return ""
        spec = getattr(sys.modules.get(top), "__spec__", None)
        if spec is not None and spec.name != top:
            return self.why(spec.name)  # another name, which its import gives it
        return _missing(top, getattr(spec, "origin", None))

    def _finds(self, top):
        """Whether a module is found, and where it was found before."""
        module = sys.modules.get(top)
        spec = getattr(module, "__spec__", None)
        origin = getattr(spec, "origin", None) or getattr(module, "__file__", None)
        if origin in _IN_PYTHON:
            return True
        folders = getattr(module, "__path__", None)
        if _same(_ask(PathFinder.find_spec, top, self._path), origin, folders):
            return True
        if self._finders is None:
            self._finders = _finders_of_site()
        return any(
            _same(_ask(finder.find_spec, top, None), origin, folders) for finder in self._finders
        )

    def carried(self, top):
        """Where a module lies that would not be found: its file, and the folders of a package.

        None where that cannot be told.
        """
        spec = getattr(sys.modules.get(top), "__spec__", None)
        if spec is None or top != spec.name:
            return None
        folders = spec.submodule_search_locations
        folders = None if folders is None else [os.path.abspath(each) for each in folders]
        if spec.origin is None or spec.origin == "namespace":
            if not folders or not all(map(os.path.isdir, folders)):
                return None
            return [None, folders]
        if type(spec.loader) not in _PLAIN or not os.path.exists(spec.origin):
            return None
        return [os.path.abspath(spec.origin), folders]

    def told(self):
        """For :func:`carry`, as plain data: of all modules that were imported so far.

        What a package that is installed has brought for itself, in a folder of its own, is told of
        only where :meth:`why` was asked for it: the package finds it by itself.
        """
        folders, files = [], {}
        for finder in sys.meta_path:
            if isinstance(finder, _Carried):
                files.update(finder.files)
        for top, module in list(sys.modules.items()):
            spec = getattr(module, "__spec__", None)
            if "." in top or top in _ALWAYS or spec is None or spec.origin in _IN_PYTHON:
                continue
            place = spec.origin or spec.submodule_search_locations
            installed = "-packages" in str(place)
            if top in files or (installed and top not in self._reasons) or self._finds(top):
                continue
            row = self.carried(top)
            if row is None:
                continue
            origin, parts = row
            if origin is not None and not installed:
                folder = os.path.dirname(origin if parts is None else os.path.dirname(origin))
                found = _ask(PathFinder.find_spec, top, [*self._path, folder])
                # At the end of the path the folder hides nothing that is found without it.
                if _same(found, origin, parts):
                    if folder not in folders:
                        folders.append(folder)
                    continue
            files[top] = row
        return {"folders": folders, "files": files}


class _Carried:
    """Finds modules where they were in an earlier process.

    Attributes
    ----------
    files: by name of a module, what :meth:`Reach.carried` gave.
    """

    def __init__(self, files):
        self.files = files

    def find_spec(self, name, path=None, target=None):
        """Called by Python for every module that is imported."""
        row = self.files.get(name)
        if row is None:
            return None
        origin, folders = row
        if origin is not None:
            return importlib.util.spec_from_file_location(
                name, origin, submodule_search_locations=folders
            )
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = list(folders)
        return spec


def carry(told):
    """Have this process find what :meth:`Reach.told` of an earlier one has told of."""
    sys.path.extend(folder for folder in told["folders"] if folder not in sys.path)
    if told["files"]:
        # Before others: the path may have another module of the same name.
        sys.meta_path.insert(0, _Carried(dict(told["files"])))


def _missing(name, origin):
    if isinstance(origin, str) and origin != "namespace":
        return "a new kernel could not import %s from %s" % (name, origin)
    return "a new kernel could not import %s, which has no file" % name


def _strings(values):
    return [value for value in values if isinstance(value, str)]


def _there(entry):
    """Whether an entry of the path can be made absolute: the working folder may be gone."""
    try:
        return bool(os.path.isabs(entry) or os.getcwd())
    except OSError:
        return False


def _ask(find, name, path):
    try:
        return find(name, path)
    except Exception:  # somebody's hook
        return None


def _same(spec, origin, folders):
    """Whether what was found is the module that is there."""
    if spec is None:
        return False
    if origin is not None and origin != "namespace":
        # A path is followed only where it has to be: that takes longer than all else of a look.
        return spec.origin == origin or (
            spec.origin is not None and os.path.realpath(spec.origin) == os.path.realpath(origin)
        )
    found = spec.submodule_search_locations
    return bool(found) and folders is not None and set(found) == set(folders)


def _finders_of_site():
    """What Python's start puts into ``sys.meta_path``, such as that of an editable install."""
    found = []
    for finder in sys.meta_path:
        name = getattr(finder, "__module__", None) or type(finder).__module__
        file = getattr(sys.modules.get(str(name)), "__file__", None)
        if not file or not hasattr(finder, "find_spec"):
            continue
        for each in glob.glob(os.path.join(glob.escape(os.path.dirname(file)), "*.pth")):
            try:
                with open(each, errors="replace") as lines:
                    named = any(str(name) in line for line in lines if line.startswith("import"))
            except OSError:
                continue
            if named:
                found.append(finder)
                break
    return found
