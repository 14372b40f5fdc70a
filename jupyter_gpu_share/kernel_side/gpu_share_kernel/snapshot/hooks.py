"""What a session has besides its variables: functions that are called, and work that would stop.

Functions are pickled with the variables, so that those that cannot be are named before. What cannot
be made anew in another process is told.
"""

import copyreg
import gc
import importlib
import logging
import signal
import sys
import types
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel.snapshot.ways import of_a_cell

__all__ = ["PICKLING", "functions", "put", "stopping"]

#: Begins the names of functions that say how objects of a class are pickled.
PICKLING = "pickling of "
_HOOKS = (("sys", "excepthook"), ("sys", "unraisablehook"), ("threading", "excepthook"))
#: Of ``builtins``, besides what C defines.
_USUAL = frozenset(
    [
        "_",
        "copyright",
        "credits",
        "display",
        "exit",
        "get_ipython",
        "help",
        "license",
        "open",
        "quit",
    ]
)
_TRANSFORMERS = ("input_transformers_cleanup", "input_transformers_post", "ast_transformers")


def _mine(function):
    owner = getattr(function, "__self__", None)
    return of_a_cell(function) or of_a_cell(type(function)) or of_a_cell(type(owner))


def functions(shell):
    """Pairs of a name for the user, and a value to pickle."""
    found = []  # type: list[tuple[str, object]]
    for collect in (
        _signals,
        _hooks,
        _builtins,
        _collector,
        _filters,
        _loggers,
        _formatters,
        _transformers,
        _colors,
        _pickling,
    ):
        try:
            found += collect(shell)
        except Exception:  # noqa: S112 - another version, or not imported
            continue
    return found


def put(name, value, shell):
    """Bring back what :func:`functions` gave; false where the name is none of theirs."""
    kind, _, rest = name.partition(" ")
    if name.startswith("handler of exceptions"):
        shell.set_custom_exc(*value)
    elif name.startswith("handler of SIG"):
        signal.signal(getattr(signal, name.rpartition(" ")[2]), value)
    elif kind == "hook" and rest.partition(".")[0] in ("sys", "threading"):
        module, _, attribute = rest.partition(".")
        setattr(importlib.import_module(module), attribute, value)
    elif kind == "collector":
        gc.callbacks.append(value)
    elif name == "class of loggers":
        logging.setLoggerClass(value)
    elif name == "factory of log records":
        logging.setLogRecordFactory(value)
    elif kind == "logger":
        logger, (cls, own) = logging.getLogger(rest), value
        if cls is not None:
            logger.__class__ = cls
        vars(logger).update(own)
    elif name.startswith("builtins."):
        setattr(sys.modules["builtins"], name.partition(".")[2], value)
    elif kind == "filter":
        logging.getLogger(rest.partition(" ")[2]).addFilter(value)
    elif kind == "formatter":
        formatter = shell.display_formatter.formatters[rest.partition(" ")[0]]
        cls, function = value
        if isinstance(cls, type):
            formatter.for_type(cls, function)
        else:
            formatter.for_type_by_name(*cls, function)
    elif kind == "transformer":
        getattr(shell, rest.partition(" ")[0]).append(value)
    elif name.startswith("color map "):
        colormaps = importlib.import_module("matplotlib").colormaps
        colormaps.register(value, name=name[len("color map ") :], force=True)
    elif name.startswith(PICKLING):
        copyreg.pickle(*value)
    elif kind == "figure":
        _number(value, int(rest))
    else:
        return False
    return True


def _number(figure, number):
    """Give a figure its number in pyplot: as it is loaded, it gets the next one."""
    figures = sys.modules["matplotlib._pylab_helpers"].Gcf.figs
    manager = figure.canvas.manager
    other = figures.get(number)
    for key in [key for key, each in figures.items() if each is manager]:
        del figures[key]
    if other is not None and other is not manager:  # its own is still to come
        del figures[number]
        other.num = max([number, *figures]) + 1
        figures[other.num] = other
    manager.num = number
    figures[number] = manager


def _signals(shell):
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and _mine(handler):
            yield "handler of %s" % signal.Signals(number).name, handler


def _hooks(shell):
    for module, name in _HOOKS:
        function = getattr(sys.modules.get(module), name, None)
        if function is not None and _mine(function):
            yield "hook %s.%s" % (module, name), function
    custom = shell.custom_exceptions
    if custom:
        wrapped = shell.CustomTB.__func__
        place = wrapped.__code__.co_freevars.index("handler")
        yield "handler of exceptions", (custom, wrapped.__closure__[place].cell_contents)


def _pickling(shell):
    for cls, function in list(copyreg.dispatch_table.items()):
        if _mine(function):
            yield PICKLING + cls.__qualname__, (cls, function)


def _builtins(shell):
    for name, value in list(vars(sys.modules["builtins"]).items()):
        if name in _USUAL or name[:2] == "__":
            continue
        # Functions that are no cell's came with Python, or with a package.
        of_others = isinstance(value, (type, types.FunctionType)) or (
            isinstance(value, types.BuiltinFunctionType) and value.__name__ == name
        )
        if value is None or isinstance(value, (bool, type(...), type(NotImplemented))):
            continue
        if of_a_cell(value) or not of_others:
            yield "builtins.%s" % name, value


def _collector(shell):
    for each in gc.callbacks:
        if _mine(each):
            yield "collector calls %s" % getattr(each, "__name__", type(each).__name__), each


def _loggers(shell):
    if of_a_cell(logging.getLoggerClass()):
        yield "class of loggers", logging.getLoggerClass()
    if _mine(logging.getLogRecordFactory()):
        yield "factory of log records", logging.getLogRecordFactory()
    usual = {"manager", "parent", *vars(logging.Logger("")), "_cache"}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] in sys.modules:
            continue  # a package sets its own up
        cls = type(logger) if of_a_cell(type(logger)) else None
        if cls is not None or type(logger) is logging.Logger:
            own = {key: value for key, value in vars(logger).items() if key not in usual}
            if own or cls is not None:
                yield "logger %s" % name, (cls, own)


def _filters(shell):
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            mine = [each for each in logger.filters if _mine(each)]
            for number, each in enumerate(mine):
                yield "filter %d %s" % (number + 1, logger.name), each


def _formatters(shell):
    for mime, formatter in shell.display_formatter.formatters.items():
        rows = [*formatter.type_printers.items(), *formatter.deferred_printers.items()]
        for cls, function in rows:
            if _mine(function) or of_a_cell(cls):
                name = getattr(cls, "__name__", None) or ".".join(cls)
                yield "formatter %s %s" % (mime, name), (cls, function)


def _transformers(shell):
    for name in _TRANSFORMERS:
        for each in getattr(shell, name, ()):
            if _mine(each):
                called = getattr(each, "__name__", type(each).__name__)
                yield "transformer %s %s" % (name, called), each


def _colors(shell):
    matplotlib = sys.modules.get("matplotlib")
    maps = getattr(matplotlib, "colormaps", {})  # type: Any
    for name in set(maps) - set(getattr(maps, "_builtin_cmaps", maps)):
        yield "color map %s" % name, maps[name]
    pylab = sys.modules.get("matplotlib._pylab_helpers")
    managers = pylab.Gcf.figs if pylab is not None else {}
    for number, manager in list(managers.items()):
        yield "figure %s" % number, manager.canvas.figure


# -- what would stop -------------------------------------------------------------------------------


def stopping(shell):
    """What would stop with the process: rows of a name, what it is, and why, in words."""
    found = []  # type: list[tuple[str, str, str]]
    for collect in (_at_exit, _timers, _log_of_cells, _tracing, _tables, _widgets):
        try:
            found += collect(shell)
        except Exception:  # noqa: S112 - another version, or not imported
            continue
    return found


class _Probe:
    """Is equal to nothing, and notes what it was compared with."""

    def __init__(self):
        self.seen = []

    def __eq__(self, other):
        self.seen.append(other)
        return False

    __hash__ = object.__hash__


def _at_exit(shell):
    probe = _Probe()
    # There is no list of them: to remove one, Python compares it with all.
    sys.modules["atexit"].unregister(probe)
    for function in probe.seen:
        if _mine(function):
            name = getattr(function, "__name__", type(function).__name__)
            yield (
                "function at exit %s" % name,
                "function",
                "it would not be called at the end of the new process",
            )


def _timers(shell):
    for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"):
        if any(signal.getitimer(getattr(signal, name))):
            yield "timer %s" % name, "timer", "it would not go off in the new process"


def _log_of_cells(shell):
    if getattr(shell.logger, "logfile", None) is not None:
        yield "%logstart", "log of cells", "cells would not be written to its file any more"


def _tracing(shell):
    tracemalloc = sys.modules.get("tracemalloc")
    if tracemalloc is not None and tracemalloc.is_tracing():
        yield "tracemalloc", "trace of memory", "what it has seen is of this process"


def _tables(shell):
    """Of DuckDB's connection that nobody has opened: what is in it is in no variable."""
    duckdb = sys.modules.get("duckdb")
    if duckdb is None:
        return
    rows = duckdb.cursor().execute(
        "select table_name from duckdb_tables() where database_name in ('memory', 'temp')"
    )
    for (table,) in rows.fetchall():
        yield "duckdb.%s" % table, "table", "it is in the memory of this process only"


def _widgets(shell):
    """Those of no variable that call functions of cells; the others are only shown."""
    module = sys.modules.get("ipywidgets.widgets.widget")
    named = set(map(id, shell.user_ns.values()))
    for widget in list(getattr(module, "_instances", {}).values()):
        if id(widget) not in named and any(map(_mine, _called(widget))):
            name = type(widget).__name__
            yield "widget %s" % name, "widget", "the page could not reach its functions any more"
    manager = getattr(getattr(shell, "kernel", None), "comm_manager", None)
    for comm in list(getattr(manager, "comms", {}).values()):
        if id(comm) not in named and _mine(getattr(comm, "_msg_callback", None)):
            yield (
                "comm %s" % comm.target_name,
                "connection to the page",
                "the page could not reach its function any more",
            )


def _called(widget):
    """Functions that a widget calls."""
    for kinds in widget._trait_notifiers.values():
        for functions in kinds.values():
            yield from functions
    for value in vars(widget).values():
        yield from (
            getattr(value, "callbacks", ()) if type(value).__name__ == "CallbackDispatcher" else ()
        )
    yield getattr(widget, "f", None)  # of interact
