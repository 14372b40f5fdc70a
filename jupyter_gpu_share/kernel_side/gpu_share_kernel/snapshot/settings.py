"""Settings of a session that the user has changed: of IPython, pandas, NumPy, logging and decimal.

What is plain data goes with the surroundings and is there before the variables. Functions, such as
the user's own magics, are pickled with the variables, so that those that cannot be are named
before. Nothing is imported that is not there already when a session is looked at.
"""

import __future__

import functools
import importlib
import logging
import operator
import sys
import types

from gpu_share_kernel.snapshot import hooks, libraries, process

__all__ = ["functions", "look", "put", "restore"]

#: Of what begins with the kernel itself: its files, ports and tables.
_OTHERS = frozenset(["CommManager", "HistoryManager", "MagicsManager", "ProfileDir"])
_NOT_OURS = frozenset(["ipython_dir", "lazy_magics"])
_NUMPY = {
    "edgeitems": 3,
    "floatmode": "maxprec",
    "formatter": None,
    "infstr": "inf",
    "legacy": False,
    "linewidth": 75,
    "nanstr": "nan",
    "override_repr": None,
    "precision": 8,
    "sign": "-",
    "suppress": False,
    "threshold": 1000,
}
_NUMPY_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
_FUTURE = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
_DECIMAL = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
_RELOADER = ("enabled", "check_all", "autoload_obj", "hide_errors")


def look(shell):
    """What was changed, as plain data by name of a part; what cannot be looked at is left out."""
    found = {}
    for part, (read, _) in _PARTS.items():
        try:
            with process.quiet():
                value = read(shell)
        except Exception:  # noqa: S112 - another version, or not imported
            continue
        if value:
            found[part] = value
    return found


def restore(found, shell):
    """Bring back what :func:`look` has found; what could not be, as (name, why)."""
    failed = []
    for part, (_, write) in _PARTS.items():
        if part not in found:
            continue
        try:
            with process.quiet():
                write(shell, found[part])
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failed.append(("settings of %s" % part, "%s: %s" % (type(error).__name__, error)))
    return failed


def _plain(value):
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(each) for key, each in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


def _listed(value):
    """The same for JSON."""
    if isinstance(value, dict):
        return {key: _listed(each) for key, each in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(_listed, value), key=repr)
    if isinstance(value, (list, tuple)):
        return list(map(_listed, value))
    return value


# -- IPython ---------------------------------------------------------------------------------------


def _configurables(shell):
    """Objects with traits for ``%config``, by name of their class."""
    found = {}
    for each in [*shell.configurables, *shell.display_formatter.formatters.values()]:
        name = type(each).__name__
        if name not in _OTHERS and not hasattr(each, "launch_instance"):  # no application
            found[name] = each
    return found


def _config(shell):
    found = {}
    first = getattr(shell.parent, "config", None) or {}
    for section, values in shell.config.items():
        # Of classes that are not there yet, too.
        changed = {
            name: _listed(value)
            for name, value in dict(values).items()
            if _plain(value) and (section not in first or first[section].get(name) != value)
        }
        if changed and section not in _OTHERS:
            found[section] = changed
    for section, each in _configurables(shell).items():
        for name in each.traits(config=True):
            try:
                value, usual = getattr(each, name), each.trait_defaults(name)
            except Exception:  # noqa: S112 - made when it is first needed
                continue
            if name not in _NOT_OURS and _plain(value):
                if value != usual:
                    found.setdefault(section, {})[name] = _listed(value)
                elif name in found.get(section, {}):
                    found[section][name] = _listed(value)  # changed, and changed back
    return found


def _put_config(shell, found):
    there = _configurables(shell)
    later = {section: values for section, values in found.items() if section not in there}
    if later:
        shell.update_config(type(shell.config)(later))
    for section, each in there.items():
        for name, value in found.get(section, {}).items():
            if not each.has_trait(name):
                continue
            now = getattr(each, name)
            if isinstance(now, (set, tuple)) and isinstance(value, list):
                value = type(now)(value)
            if value != now:
                setattr(each, name, value)


def _autoreload(shell):
    reloader = shell.magics_manager.registry["AutoreloadMagics"]._reloader
    found = {name: getattr(reloader, name) for name in _RELOADER if hasattr(reloader, name)}
    found["modules"] = sorted(reloader.modules)
    found["skip_modules"] = sorted(reloader.skip_modules)
    if hasattr(reloader, "deduper_reloader"):
        found["deduper"] = bool(reloader.deduper_reloader.enabled)
    return found


def _put_autoreload(shell, found):
    # The extension has been loaded again by now.
    reloader = shell.magics_manager.registry["AutoreloadMagics"]._reloader
    for name in _RELOADER:
        if name in found:
            setattr(reloader, name, found[name])
    reloader.modules.update(dict.fromkeys(found["modules"], True))
    reloader.skip_modules.update(dict.fromkeys(found["skip_modules"], True))
    if "deduper" in found and hasattr(reloader, "deduper_reloader"):
        reloader.deduper_reloader.enabled = found["deduper"]


def _aliases(shell):
    usual = set(map(tuple, shell.alias_manager.default_aliases))
    return [list(each) for each in shell.alias_manager.aliases if tuple(each) not in usual]


def _put_aliases(shell, found):
    there = set(map(tuple, shell.alias_manager.aliases))
    for name, command in found:
        if (name, command) not in there:
            shell.alias_manager.define_alias(name, command)


def _mode(shell):
    return shell.InteractiveTB.mode


def _put_mode(shell, found):
    if shell.InteractiveTB.mode != found:
        shell.InteractiveTB.set_mode(mode=found)


# -- Python ----------------------------------------------------------------------------------------


def _recursion(shell):
    return sys.getrecursionlimit()


def _put_recursion(shell, found):
    if found != sys.getrecursionlimit():
        sys.setrecursionlimit(found)


def _future(shell):
    return shell.compile.flags & _FUTURE


def _put_future(shell, found):
    shell.compile.flags |= found


def _decimal(shell):
    decimal = sys.modules["decimal"]
    context, usual = decimal.getcontext(), decimal.DefaultContext
    traps = sorted(signal.__name__ for signal, on in context.traps.items() if on)
    if context.traps == usual.traps and all(
        getattr(context, name) == getattr(usual, name) for name in _DECIMAL
    ):
        return None
    return {"traps": traps, "values": {name: getattr(context, name) for name in _DECIMAL}}


def _put_decimal(shell, found):
    decimal = importlib.import_module("decimal")
    context = decimal.getcontext()
    for name, value in found["values"].items():
        setattr(context, name, value)
    for signal in context.traps:
        context.traps[signal] = signal.__name__ in found["traps"]


def _logging(shell):
    levels = {name: logger.level for name, logger in _loggers() if logger.level}
    own = {name: _rows(logger) for name, logger in _loggers() if _is_own(name)}
    return {
        "level": logging.root.level,
        "disable": logging.root.manager.disable,
        "raise": logging.raiseExceptions,
        "warnings": getattr(logging, "_warnings_showwarning", None) is not None,
        "levels": levels,
        "handlers": _rows(logging.root),
        "own": {name: rows for name, rows in own.items() if rows},
    }


def _loggers():
    return [
        (name, logger)
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger)
    ]


def _is_own(name):
    """Whether a logger is no package's, which would get its handlers with its import."""
    top = name.partition(".")[0]
    return top == "__main__" or top not in sys.modules


def _rows(logger):
    rows = [_row(handler) for handler in logger.handlers]
    return [row for row in rows if row is not None]


def _row(handler):
    """A handler that writes to the output of cells, as plain data; None for any other."""
    form = handler.formatter
    if type(handler) is not logging.StreamHandler or handler.filters:
        return None
    if form is not None and (type(form) is not logging.Formatter or _defaults(form)):
        return None
    streams = [name for name in ("stdout", "stderr") if handler.stream is getattr(sys, name)]
    if not streams:
        return None
    return {
        "stream": streams[0],
        "level": handler.level,
        "form": None if form is None else [form._fmt, form.datefmt, _style(form)],
    }


def _defaults(form):
    return getattr(form._style, "_defaults", None)


def _style(form):
    style = type(form._style)  # type: object
    return next(key for key, row in logging._STYLES.items() if style is row[0])


def _put_logging(shell, found):
    logging.root.setLevel(found["level"])
    logging.disable(found["disable"])
    logging.raiseExceptions = found["raise"]
    logging.captureWarnings(found["warnings"])
    for name, level in found["levels"].items():
        logging.getLogger(name).setLevel(level)
    _put_handlers(logging.root, found["handlers"])
    for name, rows in found.get("own", {}).items():
        _put_handlers(logging.getLogger(name), rows)


def _put_handlers(logger, rows):
    there = _rows(logger)
    for row in rows:
        if row in there:
            continue
        handler = logging.StreamHandler(getattr(sys, row["stream"]))
        handler.setLevel(row["level"])
        if row["form"] is not None:
            fmt, datefmt, style = row["form"]
            handler.setFormatter(logging.Formatter(fmt, datefmt, style))
        logger.addHandler(handler)


# -- NumPy and pandas ------------------------------------------------------------------------------


def _numpy_options():
    numpy = sys.modules["numpy"]
    options = numpy.get_printoptions().items()
    return {name: value for name, value in options if _NUMPY.get(name) != value}


def _numpy(shell):
    errors = sys.modules["numpy"].geterr()
    options = {name: value for name, value in _numpy_options().items() if _plain(value)}
    if not options and errors == _NUMPY_ERRORS:
        return None
    return {"options": options, "errors": errors}


def _put_numpy(shell, found):
    numpy = importlib.import_module("numpy")
    numpy.set_printoptions(**found["options"])
    numpy.seterr(**found["errors"])


def _pandas_options():
    pandas = sys.modules["pandas"]
    rows = pandas._config.config._registered_options.values()
    options = {row.key: (pandas.get_option(row.key), row.defval) for row in rows}
    return {key: value for key, (value, usual) in options.items() if value != usual}


def _pandas(shell):
    return {key: _listed(each) for key, each in _pandas_options().items() if _plain(each)}


def _put_pandas(shell, found):
    pandas = importlib.import_module("pandas")
    for key, value in found.items():
        if pandas.get_option(key) != value:
            pandas.set_option(key, value)


#: In the order in which they are brought back. ``%precision`` changes NumPy's, too.
_PARTS = {
    "recursion": (_recursion, _put_recursion),
    "future": (_future, _put_future),
    "autoreload": (_autoreload, _put_autoreload),
    "config": (_config, _put_config),
    "alias": (_aliases, _put_aliases),
    "xmode": (_mode, _put_mode),
    "decimal": (_decimal, _put_decimal),
    "numpy": (_numpy, _put_numpy),
    "pandas": (_pandas, _put_pandas),
    "logging": (_logging, _put_logging),
    **process.PARTS,
    **libraries.PARTS,
}


# -- functions -------------------------------------------------------------------------------------


def functions(shell):
    """Settings that are no plain data, as pairs of a name for the user, and a value to pickle."""
    found = []  # type: list[tuple[str, object]]
    for collect in (_magics, _hooks, _handlers, _options):
        try:
            with process.quiet():
                found += collect(shell)
        except Exception:  # noqa: S112 - another version, or not imported
            continue
    return found + hooks.functions(shell)


def put(name, value, shell):
    """Bring back what :func:`functions` gave."""
    kind, _, rest = name.partition(" ")
    if hooks.put(name, value, shell):
        return
    if kind == "magics":
        shell.register_magics(value)
    elif kind == "hook":
        shell.events.register(rest.partition(" ")[0], value)
    elif kind == "pandas":
        importlib.import_module("pandas").set_option(rest, value)
    elif kind == "numpy":
        importlib.import_module("numpy").set_printoptions(**{rest: value})
    else:
        way = "cell" if name.startswith("%%") else "line"
        shell.register_magic_function(value, way, name.lstrip("%"))


def _magics(shell):
    # Those of extensions come with their extensions.
    loaded = {name.partition(".")[0] for name in shell.extension_manager.loaded}
    for mark, way in (("%", "line"), ("%%", "cell")):
        for name, function in shell.magics_manager.magics[way].items():
            if not isinstance(function, types.FunctionType):  # it belongs to an object
                continue
            if str(function.__module__).partition(".")[0] not in loaded:
                yield mark + name, function
    for name, value in shell.magics_manager.registry.items():
        if type(value).__module__ == "__main__":
            yield "magics %s" % name, value


def _hooks(shell):
    for event, callbacks in shell.events.callbacks.items():
        mine = [each for each in callbacks if _of_a_cell(each)]
        for number, each in enumerate(mine):
            name = getattr(each, "__qualname__", type(each).__name__)
            yield "hook %s %s%s" % (event, name, " %d" % number if number else ""), each


def _of_a_cell(function):
    owner = getattr(function, "__self__", function)
    return "__main__" in (getattr(function, "__module__", ""), type(owner).__module__)


def _handlers(shell):
    # Those of packages come with their packages.
    # The kernel's own program writes to where it was started.
    programs = [type(each).__name__ for each in process.parents(shell)]
    for name, logger in [("", logging.root), *_loggers()]:
        if name in programs:
            continue
        for handler in logger.handlers:
            cls = type(handler)
            known = cls.__module__ in ("logging", "logging.handlers", "__main__")
            own = not name or _is_own(name) or isinstance(handler, logging.FileHandler)
            if known and own and cls is not logging.NullHandler and _row(handler) is None:
                yield "handler %s%s" % (cls.__name__, name and " of " + name), handler


def _options(shell):
    if "pandas" in sys.modules:
        for key, value in _pandas_options().items():
            if not _plain(value):
                yield "pandas %s" % key, value
    if "numpy" in sys.modules:
        for name, value in _numpy_options().items():
            if not _plain(value):
                yield "numpy %s" % name, value
