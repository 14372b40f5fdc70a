"""Settings of the process that cells may change: plain data, back before the variables."""

import gc
import importlib
import logging
import os
import sys
import threading
import warnings

__all__ = ["PARTS", "filters", "parents", "put_filters", "quiet"]

_CATEGORIES = ("LC_COLLATE", "LC_CTYPE", "LC_MONETARY", "LC_NUMERIC", "LC_TIME")


def parents(shell):
    """What the shell is a part of: the kernel, and its program."""
    found, each = [], shell.parent
    while each is not None:
        found.append(each)
        each = each.parent
    return found


def _process(shell):
    found = {
        "collector": [gc.isenabled(), list(gc.get_threshold())],
        "switch": sys.getswitchinterval(),
        "umask": _umask(),
    }
    if hasattr(sys, "get_int_max_str_digits"):
        found["digits"] = sys.get_int_max_str_digits()
    if "locale" in sys.modules:
        locale = sys.modules["locale"]
        found["locale"] = {name: locale.setlocale(getattr(locale, name)) for name in _CATEGORIES}
    found["stack"] = _stack()
    if "socket" in sys.modules:
        found["timeout"] = sys.modules["socket"].getdefaulttimeout()
    workers = sys.modules.get("multiprocessing")
    if workers is not None:
        found["workers"] = workers.get_start_method(allow_none=True)
    argv = _arguments(shell)
    if argv is not None:
        found["arguments"] = argv
    return found


def _put_process(shell, found):
    enabled, threshold = found["collector"]
    (gc.enable if enabled else gc.disable)()
    gc.set_threshold(*threshold)
    sys.setswitchinterval(found["switch"])
    if found["umask"] is not None:
        os.umask(found["umask"])
    threading.stack_size(found["stack"])
    if found.get("timeout") is not None:
        importlib.import_module("socket").setdefaulttimeout(found["timeout"])
    if found.get("workers"):
        workers = importlib.import_module("multiprocessing")
        if workers.get_start_method(allow_none=True) != found["workers"]:
            workers.set_start_method(found["workers"], force=True)
    if "digits" in found:
        sys.set_int_max_str_digits(found["digits"])
    for name, value in found.get("locale", {}).items():
        locale = importlib.import_module("locale")
        if locale.setlocale(getattr(locale, name)) != value:
            locale.setlocale(getattr(locale, name), value)
    if "arguments" in found:
        sys.argv[:] = found["arguments"]


def _stack():
    """Bytes of the stack of new threads; whoever asks Python sets it to its usual size."""
    size = threading.stack_size()
    threading.stack_size(size)
    return size


def _umask():
    """The mask of new files; asking in the usual way would change it for a moment."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))
    except (OSError, StopIteration):
        return None


def _arguments(shell):
    """``sys.argv`` where it is the user's; None where it says how this kernel was started."""
    argv = [each for each in sys.argv if isinstance(each, str)]
    files = [getattr(each, "connection_file", "") for each in parents(shell)]
    if any(files):
        names = set(filter(None, map(os.path.basename, files)))
        return None if any(name in each for name in names for each in argv) else argv
    try:
        with open("/proc/self/cmdline", "rb") as line:
            started = os.fsdecode(line.read()).split("\0")[:-1]
    except OSError:
        return None
    return None if started[-len(argv) :][1:] == argv[1:] else argv


def _levels(shell):
    """Names of levels that the user gave, and loggers that say less than usual."""
    programs = [type(each).__name__ for each in parents(shell)]
    usual = {"CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET"}
    found = {
        "names": {
            str(level): name
            for level, name in logging._levelToName.items()
            if name not in usual and isinstance(level, int)
        },
        "quiet": {
            name: [logger.propagate, logger.disabled]
            for name, logger in list(logging.root.manager.loggerDict.items())
            if isinstance(logger, logging.Logger)
            and name not in programs
            and not (logger.propagate and not logger.disabled)
        },
    }
    return found if any(found.values()) else None


def _put_levels(shell, found):
    for level, name in found["names"].items():
        logging.addLevelName(int(level), name)
    for name, (propagate, disabled) in found["quiet"].items():
        logger = logging.getLogger(name)
        logger.propagate, logger.disabled = bool(propagate), bool(disabled)


PARTS = {"process": (_process, _put_process), "levels": (_levels, _put_levels)}


# -- filters of warnings ---------------------------------------------------------------------------


def filters():
    """The filters of warnings, to be pickled: their classes may be the notebook's.

    They come back after the variables: what these import adds filters of its own.
    """
    return [tuple(each) for each in sys.modules["warnings"].filters]


def put_filters(found):
    """Bring back what :func:`filters` gave."""
    warnings = sys.modules["warnings"]
    if found != filters():
        warnings.filters[:] = found
        for name in ("_filters_mutated", "_filters_mutated_lock_held"):
            changed = getattr(warnings, name, None)
            if changed is not None:
                lock = getattr(warnings, "_lock", None) if name.endswith("held") else None
                if lock is None:
                    changed()
                else:
                    with lock:
                        changed()
                break


class quiet:  # noqa: N801 - used as a statement
    """Keeps warnings of what is pickled, or set, from the user: nobody asked for it."""

    def __enter__(self):
        # Python's own way would have all that was warned of once warned of again.
        self._filters = warnings.filters
        warnings.filters = [("ignore", None, Warning, None, 0)]

    def __exit__(self, *exception):
        warnings.filters = self._filters
