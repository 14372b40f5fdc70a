"""Pickling many variables one by one as one whole: what they share stays shared.

All variables go through one pickler, so that an object that two of them hold is written once. What
belongs to the kernel and not to the user (the namespace itself, the shell, ``sys.stdout``) is put
into the pickler's memory beforehand, and into the unpickler's of the next kernel: a reference to
the old one becomes a reference to the new one.
How they are written is in :mod:`gpu_share_kernel.snapshot.streams`, and the other way in
:mod:`gpu_share_kernel.snapshot.unpickles`.
"""

import builtins
import importlib
import importlib.util
import os
import pickle
import sys
import types
import warnings
from importlib.machinery import PathFinder
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel import interrupts
from gpu_share_kernel.snapshot import aliases, classes, devices, modules, process, ways
from gpu_share_kernel.snapshot.kinds import Lost, article, called, kind_of

__all__ = [
    "VARIABLES",
    "NoCloudpickle",
    "Trial",
    "cloudpickle",
    "roots",
    "text_of",
    "try_all",
]

_PROTOCOL = 5
_FOLDER = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
#: Buffers of fewer bytes go with the pickles.
_SMALL = 16 * 2**10
#: Up to so many bytes of pickles the memory of the trial's pickler is rolled back exactly.
_ROLLBACK = 2 * 2**20
_SHORT = 200
#: Groups of entries that are variables of the namespace.
VARIABLES = ("user", "start", "named")


class NoCloudpickle(Exception):  # noqa: N818 - a finding, told to the user
    """There is no cloudpickle; the text is a sentence."""


def cloudpickle():
    """The kernel's own cloudpickle, or the one that was delivered with these files.

    Raises
    ------
    NoCloudpickle: neither is there.
    """
    try:
        module = importlib.import_module("cloudpickle")
    except Exception:
        module = _delivered()
    if module is None:
        raise NoCloudpickle("cloudpickle is not installed in the kernel's environment.")
    if not hasattr(module.CloudPickler, "reducer_override"):
        raise NoCloudpickle("The cloudpickle of the kernel's environment is too old.")
    return module


def _delivered():
    """Import it from a folder of which nothing else may be importable."""
    for folder in (
        os.environ.get("JUPYTER_GPU_SHARE_CLOUDPICKLE"),
        os.path.join(_FOLDER, "delivered"),
    ):
        spec = PathFinder.find_spec("cloudpickle", [folder]) if folder else None
        if spec is None or spec.loader is None:
            continue
        module = importlib.util.module_from_spec(spec)
        sys.modules["cloudpickle"] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules["cloudpickle"]
            raise
        return module
    return None


# -- what is the kernel's own ----------------------------------------------------------------------


def _shell():
    return sys.modules["IPython"].get_ipython()


def _history():
    return _shell().history_manager


#: By name, for the file: its meaning must not depend on the order here.
_ROOTS = {
    "namespace": lambda: _shell().user_ns,
    "globals": lambda: _shell().user_global_ns,
    "shell": _shell,
    "kernel": lambda: _shell().kernel,
    "In": lambda: _history().input_hist_parsed,
    "raw": lambda: _history().input_hist_raw,
    "Out": lambda: _history().output_hist,
    "folders": lambda: _history().dir_hist,
    "stdout": lambda: sys.stdout,
    "stderr": lambda: sys.stderr,
    "stdin": lambda: sys.stdin,
    "builtins": lambda: vars(builtins),
    "environ": lambda: os.environ,
    "modules": lambda: sys.modules,
    "path": lambda: sys.path,
    "arguments": lambda: sys.argv,
    "finders": lambda: sys.meta_path,
    "path hooks": lambda: sys.path_hooks,
    "filters": lambda: warnings.filters,
    "random": lambda: sys.modules["random"]._inst,
    "loop": lambda: sys.modules["asyncio"].get_running_loop(),
}


def root(name):
    """What the name of a root stands for in this kernel; None where it is not there."""
    try:
        return _ROOTS[name]()
    except Exception:
        return None


def roots():
    """All roots that are there."""
    return [value for value in map(root, _ROOTS) if value is not None]


def _rooted(names):
    """A pickle that puts roots into an unpickler's memory, one after the other, for good."""
    parts = [b"\x80\x05"]
    for name in names:
        # GLOBAL, BINUNICODE, TUPLE1, REDUCE, MEMOIZE, POP
        text = name.encode()
        parts.append(b"c%s\nroot\n" % __name__.encode())
        parts.append(b"X" + len(text).to_bytes(4, "little") + text + b"\x85R\x940")
    return b"".join([*parts, b"N."])


# -- saving ----------------------------------------------------------------------------------------


class _Output:
    """Where a pickler writes: pickles, and raw buffers beside them."""

    def __init__(self, pickled, buffer, hands):
        self.write = pickled
        self._buffer = buffer
        self._hands = hands

    def take(self, buffer):
        """Called by the pickler for what it need not copy; true has it copied after all."""
        with buffer.raw() as view:
            if len(view) < _SMALL:
                return True
            self._buffer(view)
        if buffer is self._hands.copy:
            self._hands.let_go()
        return False


def _saver(output, hands):
    """A pickler for all variables."""
    base = cloudpickle().CloudPickler
    namespace = root("globals")

    class Saver(base):  # type: ignore[misc, valid-type]
        """cloudpickle's, with what a whole namespace needs."""

        def __init__(self):
            super().__init__(output, protocol=_PROTOCOL, buffer_callback=output.take)
            #: Without cloudpickle's own words for what is nested too deeply.
            self.dump_plainly = super(base, self).dump
            self.last = None
            self._ways = {
                types.ModuleType: self._module,
                types.BuiltinFunctionType: self._builtin,
            }  # type: dict[type, Any]
            self.reach = modules.Reach()
            self._marks = ways.Marks(self.reach.why)
            self._twins = ways.Twins()
            self.roots = self._root()

        def _root(self):
            memo = {}  # type: dict[int, tuple[int, object]]
            names = []
            for name in _ROOTS:
                value = root(name)
                if value is not None and id(value) not in memo:
                    memo[id(value)] = (len(memo), value)
                    names.append(name)
            self.memo = memo
            # Functions get the notebook's own globals, not a copy of some; and those of a dict
            # that is a variable, that dict.
            self._spaces = {
                id(value): value
                for value in [namespace, *(namespace or {}).values()]
                if type(value) is dict and "__builtins__" in value
            }
            self.globals_ref.update(self._spaces)
            return names

        def start(self):
            """Write the roots, before anything else."""
            output.write(_rooted(self.roots))

        def forget(self):
            """Begin anew, knowing the roots only."""
            self.clear_memo()
            self.globals_ref.clear()
            self._root()

        def forget_since(self, first):
            """Forget an object, and all that was seen after it."""
            memo = self.memo.copy()
            number = memo[id(first)][0]
            self.memo = {key: row for key, row in memo.items() if row[0] < number}

        def reducer_override(self, obj):
            # Called for every object but the simplest: there may be millions.
            self.last = obj
            cls = type(obj)
            try:
                way = self._ways[cls]
            except KeyError:
                way = self._ways[cls] = self._way(obj, cls)
            if way is None:
                return NotImplemented
            reduced = way(obj)
            return NotImplemented if reduced is None else reduced

        def _way(self, obj, cls):
            """The function that reduces objects of a class; None for the usual way."""
            if kind_of(obj):
                return _lose
            if issubclass(cls, type):
                return self._type
            if cls is types.FunctionType:
                return self._function
            if cls in _WAYS:
                return _WAYS[cls]
            if issubclass(cls, BaseException) and cls.__setstate__ is BaseException.__setstate__:
                return ways.exception
            way = aliases.single(cls) or hands.way(cls)
            if way is not None or cls in self.dispatch_table:
                return way
            if (
                cls.__reduce_ex__ is not object.__reduce_ex__
                or cls.__reduce__ is not object.__reduce__
            ):
                return _own_way
            if cls.__module__ == "__main__" and ways.asks(cls):
                return ways.asking
            return self._marks.way(cls)

        def _by_name(self, name):
            """Called for what is pickled as a name in a module."""
            why = self.reach.why(name)
            if why:
                raise pickle.PicklingError(why)

        def _module(self, obj):
            name = getattr(obj, "__name__", "")
            if sys.modules.get(name) is obj:
                self._by_name(name)

        def _builtin(self, obj):
            if type(obj.__self__) is types.ModuleType:
                self._by_name(obj.__module__)

        def _type(self, obj):
            reduced = super().reducer_override(obj)
            if reduced is NotImplemented:
                self._by_name(obj.__module__)
            return classes.reduced(obj, reduced) if isinstance(reduced, tuple) else reduced

        def _function(self, obj):
            reduced = ways.dispatcher(obj)
            if reduced is not None:
                return reduced
            reduced = super().reducer_override(obj)
            if reduced is NotImplemented:
                self._by_name(obj.__module__)
            if not isinstance(reduced, tuple) or len(reduced) < 3:
                return reduced
            make, args, state = reduced[:3]
            if id(obj.__globals__) in self._spaces:
                # What it uses of the namespace is there as the namespace's own variables.
                state = (state[0], dict(state[1], __globals__={}))
            return (make, self._twins.share(obj, args), state, *reduced[3:])

    return Saver()


def _lose(obj):
    raise Lost


_WAYS = {**ways.by_class(), **aliases.by_class()}


def _own_way(obj):
    """Of a class that says itself how it is pickled.

    Raises
    ------
    Lost: as a name in this kernel, which does not bring it into another.
    """
    if not ways.of_a_cell(obj):
        return None
    reduced = obj.__reduce_ex__(_PROTOCOL)
    if isinstance(reduced, str):
        raise Lost
    return reduced


class Trial:
    """What came of pickling variables, be it without keeping anything.

    Attributes
    ----------
    good: the entries that can be saved, in the same order.
    lost: (entry, what it is, why it cannot be saved), both in words.
    size: bytes that they take.
    exact: false where ``size`` may count some more than once.
    views: for the arrays that share memory, see :class:`gpu_share_kernel.snapshot.arrays.Arrays`.
    reach: of the modules that the pickles name.
    """

    def __init__(self):
        self.good = []
        self.lost = []
        self.size = 0
        self.exact = True
        self.views = {}
        self.reach = modules.Reach()

    def _pickled(self, data):
        self.size += len(data)

    def _counted(self, nbytes):
        self.size += nbytes

    def _buffer(self, view):
        self.size += len(view)


def try_all(entries):
    """Try to pickle the ``value`` of each entry, copying nothing that is large."""
    trial = Trial()
    hands = devices.Hands(trial._counted)
    pickler = _saver(_Output(trial._pickled, trial._buffer, hands), hands)
    trial.reach = pickler.reach
    pickler.start()
    with process.quiet():
        for entry in entries:
            interrupts.check()
            if kind_of(entry.value):
                trial.lost.append((entry, *_reasons(entry, None, Lost())))
                continue
            mark, before = [None], trial.size
            pickler.dump(mark)  # for its number in the pickler's memory
            try:
                pickler.dump(entry.value)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                what, why = _reasons(entry, pickler.last, error)
                trial.lost.append((entry, what, why))
                trial.size = before
                if before <= _ROLLBACK:
                    pickler.forget_since(mark)
                else:
                    # The numbers of a large memory take long to go through.
                    pickler.forget()
                    trial.exact = False
            else:
                trial.good.append(entry)
            pickler.last = None
    trial.views = hands.views()
    if trial.views:
        trial.size -= hands.counted_twice(trial.views)
        trial.exact = False
    return trial


def _reasons(entry, culprit, error):
    """What the variable is, and a sentence why it is not saved."""
    value = entry.value
    what = called(value)
    more = " ".join(error.args) if isinstance(error, Lost) else text_of(error)
    more = more and ": " + more
    if culprit is None or culprit is value:
        return what, "%s cannot be saved%s" % (article(what), more)
    inner = article(called(culprit))
    return what, "%s `%s` holds %s, which cannot be saved%s" % (what, entry.name, inner, more)


def text_of(error):
    """An error in one line."""
    try:
        message = " ".join(str(error).split())
    except Exception:
        message = ""
    if isinstance(error, RecursionError) or "deep recursion" in message:
        return "it is nested too deeply"
    name = type(error).__name__
    text = message if name in ("PicklingError", "TypeError") and message else name
    if text == name and message:
        text = "%s: %s" % (name, message)
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"
