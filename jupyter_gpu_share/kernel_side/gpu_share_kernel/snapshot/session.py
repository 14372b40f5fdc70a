"""What a session is besides its variables, and which variables are the user's.

Everything here works on the kernel that it runs in; nothing is imported that is not there already
when a session is looked at.
"""

import importlib
import os
import platform
import random
import re
import sys
import typing

from gpu_share_kernel import limits
from gpu_share_kernel.snapshot import hooks, modules, owned, process, settings, shells

__all__ = [
    "Entry",
    "entries",
    "extend",
    "put",
    "shell",
    "stopping",
    "surround",
    "surroundings",
    "versions",
]

#: Something that is pickled on its own. ``group`` is ``user`` for a user's variable, ``start`` for
#: what the kernel's start defined, ``output`` for an entry of Out (``name`` is its number),
#: ``hidden`` for IPython's own names of results and ``named`` for
#: such a name that the user took, ``state`` for what :func:`put` knows (``first``: before all
#: others), ``setting`` for a function that :mod:`~gpu_share_kernel.snapshot.settings` knows,
#: ``module`` for what :mod:`~gpu_share_kernel.snapshot.owned` knows.
Entry = typing.NamedTuple("Entry", [("group", str), ("name", typing.Any), ("value", typing.Any)])

#: IPython makes these anew, as long as they are what it made.
_OWN = re.compile(
    "In|Out|get_ipython|exit|quit|open|_ih|_oh|_dh|_i|_ii|_iii|_exit_code|__name__|__doc__"
    "|__package__|__loader__|__spec__|__cached__|__builtin__|__builtins__|__annotations__|__session__"
    "|__conditional_annotations__|__file__|__vsc_ipynb_file__"
)
#: Of those below and these.
_FIRST_LETTERS = frozenset("_IOgeqo")
_INPUT = re.compile(r"_i\d+")
_RESULT = re.compile(r"_{1,3}|_\d+")
#: Of the environment: given anew to every kernel.
_GIVEN = re.compile(
    "JUPYTER_GPU_SHARE_.*|CUDA_VISIBLE_DEVICES|NVIDIA_VISIBLE_DEVICES|CUDA_MPS_.*"
    "|JPY_(PARENT_PID|SESSION_NAME|INTERRUPT_EVENT|API_TOKEN)"
)


def shell():
    """The shell of IPython that runs here.

    Raises
    ------
    RuntimeError: there is none.
    """
    found = shells.running()
    if found is None:
        raise RuntimeError("There is no shell of IPython here.")
    return found


def entries():
    """All that is to be pickled, what others need first."""
    here = shell()
    hidden = here.user_ns_hidden
    imported, definitions, others, quiet = [], [], [], []
    module, function = type(sys), type(shell)
    nothing = object()
    for name, value in list(here.user_ns.items()):
        if not isinstance(name, str):
            continue
        own = hidden.get(name, nothing) is value
        if name[:1] not in _FIRST_LETTERS:
            pass  # it is none of them
        elif _INPUT.fullmatch(name) or (_OWN.fullmatch(name) and (own or name[:2] == "__")):
            continue
        elif _RESULT.fullmatch(name):
            quiet.append(Entry("hidden" if own else "named", name, value))
            continue
        entry = Entry("start" if own else "user", name, value)
        cls = type(value)
        if issubclass(cls, module):
            imported.append(entry)
        elif issubclass(cls, (function, type)):
            definitions.append(entry)
        else:
            others.append(entry)
    quiet += [Entry("output", n, v) for n, v in list(here.history_manager.output_hist.items())]
    quiet += [Entry("setting", name, value) for name, value in settings.functions(here)]
    folders = here.history_manager.dir_hist
    quiet += [Entry("module", name, value) for name, value in owned.values(folders)]
    quiet += [Entry("state", name, value) for name, value in _states(here)]
    return _first() + imported + definitions + others + quiet


def stopping():
    """What no variable is and would stop: rows of a name, what it is, and why, in words."""
    return hooks.stopping(shell())


def _first():
    """What variables need when they are loaded."""
    try:
        return [Entry("first", "matplotlib", _matplotlib_state(sys.modules["matplotlib"]))]
    except Exception:  # not imported, or half imported
        return []


def _states(here):
    history = here.history_manager
    last = {name: getattr(history, name, "") for name in _LAST}
    yield (
        "history",
        (
            list(history.input_hist_parsed),
            list(history.input_hist_raw),
            [str(folder) for folder in history.dir_hist],
            dict(history.output_hist_reprs),
            last,
        ),
    )
    yield "warnings", process.filters()
    yield "random", random.getstate()
    there = sys.modules
    for name, get in (
        ("numpy.random", lambda: there["numpy.random"].get_state()),
        ("torch.random", lambda: _torch_states(there["torch"])),
    ):
        try:
            value = get()
        except Exception:  # noqa: S112 - not imported, or half imported
            continue
        yield name, value


#: Names of the attributes of the history that hold the last inputs.
_LAST = ("_i00", "_i", "_ii", "_iii")


def _torch_states(torch):
    cuda = torch.cuda.is_initialized()
    return torch.random.get_rng_state(), torch.cuda.get_rng_state_all() if cuda else None


def _matplotlib_state(matplotlib):
    """The backend, and what differs from the settings that matplotlib came up with."""
    current, first = matplotlib.rcParams, matplotlib.rcParamsOrig
    changed = {}  # type: dict[str, object]
    for name in list(current):
        value = dict.__getitem__(current, name)  # asking in the usual way would choose a backend
        if not name.startswith("backend") and value != dict.get(first, name, changed):
            changed[name] = value
    backend = dict.__getitem__(current, "backend")
    return (backend if isinstance(backend, str) else None), changed


def put(name, value):
    """Bring back what :func:`entries` has given as a ``state``, or ``first``."""
    if name == "history":
        _put_history(shell(), *value)
    elif name == "warnings":
        process.put_filters(value)
    elif name == "random":
        random.setstate(value)
    elif name == "numpy.random":
        importlib.import_module("numpy.random").set_state(value)
    elif name == "torch.random":
        torch = importlib.import_module("torch")
        torch.random.set_rng_state(value[0])
        if value[1] and torch.cuda.device_count() == len(value[1]):
            torch.cuda.set_rng_state_all(value[1])
    elif name == "matplotlib":
        matplotlib = importlib.import_module("matplotlib")
        backend, changed = value
        matplotlib.rcParams.update(changed)
        if backend and backend != dict.__getitem__(matplotlib.rcParams, "backend"):
            matplotlib.use(backend)


def _put_history(here, parsed, raw, folders, texts, last):
    history = here.history_manager
    # The lists are those that IPython, In and _dh are.
    history.input_hist_parsed[:] = parsed
    history.input_hist_raw[:] = raw
    history.dir_hist[:] = folders
    history.output_hist_reprs.update(texts)
    for name, value in last.items():
        setattr(history, name, value)
    inputs = {"_i%d" % number: text for number, text in enumerate(raw) if number}
    inputs.update({name: last[name] for name in _LAST if name != "_i00"})
    here.push(inputs, interactive=False)


# -- around the variables --------------------------------------------------------------------------


def surroundings():
    """What is around the variables, as plain data."""
    here = shell()
    try:
        folder = os.getcwd()
    except OSError:  # it was removed
        folder = None
    return {
        "folder": folder,
        "environment": _changed_environment(),
        "path": [entry for entry in sys.path if isinstance(entry, str)],
        "count": here.execution_count,
        "extensions": sorted(here.extension_manager.loaded),
        "settings": settings.look(here),
    }


def _changed_environment():
    """Variables of the environment that were set since the kernel started; None: removed."""
    first = _first_environment()
    if first is None:
        return {}
    changed = {}
    ours = limits.given
    for name in set(first) | set(os.environ):
        now = os.environ.get(name)
        if name in ours and ours[name] == now:
            continue
        if now != first.get(name) and not _GIVEN.fullmatch(name):
            changed[name] = now
    return changed


def _first_environment():
    """The environment with which the kernel started; None where nobody knows."""
    # A kernel that was forked got its environment from the process that forked it.
    zygote = sys.modules.get("gpu_share_kernel.zygote")
    started = getattr(zygote, "started_with", None)
    if started is not None:
        return dict(started)
    if zygote is not None:
        return None
    try:
        with open("/proc/self/environ", "rb") as file:
            rows = file.read().split(b"\0")
    except OSError:
        return None
    return dict(os.fsdecode(row).split("=", 1) for row in rows if b"=" in row)


def surround(found):
    """Bring back what is around the variables; what could not be, as (name, why)."""
    failed = []
    for name, value in found["environment"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    here = [entry for entry in sys.path if entry not in found["path"]]
    sys.path[:] = found["path"] + here
    if found["folder"] is not None:
        try:
            os.chdir(found["folder"])
        except OSError as error:
            why = "%s: %s" % (found["folder"], (error.strerror or "it cannot be used").lower())
            failed.append(("working folder", why))
    modules.carry(found.get("modules") or {"folders": [], "files": {}})
    return failed


def extend(names):
    """Load IPython's extensions; what could not be, as (name, why)."""
    failed = []
    manager = shell().extension_manager
    for name in names:
        if name in manager.loaded:
            continue
        try:
            if manager.load_extension(name) == "no load function":
                failed.append((name, "it is no extension any more"))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failed.append((name, "%s: %s" % (type(error).__name__, error)))
    return failed


def versions(cloudpickle):
    """Of all that matters to what is pickled."""
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "ipython": getattr(sys.modules.get("IPython"), "__version__", ""),
        "cloudpickle": getattr(cloudpickle, "__version__", ""),
        "hash_seed": _hash_seed(),
    }


def _hash_seed():
    """Of the hashes of texts; empty where each process has its own."""
    first = _first_environment()
    seed = (os.environ if first is None else first).get("PYTHONHASHSEED", "")
    return seed if seed.isdigit() else ""
