"""IPython's shell where none runs: over ``__main__``, without files, and for a moment only.

A script, or Python's own prompt, has no shell; what saves variables and brings them back works on
one.
"""

import atexit
import builtins
import contextlib
import os
import sys

from gpu_share_kernel.snapshot import process
from gpu_share_kernel.snapshot.words import Refused

__all__ = ["lent", "running", "without_files"]

#: What IPython adds to ``builtins`` and to ``sys`` for good.
_ADDED = (
    *((builtins, name) for name in ("__IPYTHON__", "display")),
    *((sys, name) for name in ("ps1", "ps2", "ps3")),
)
_NONE = object()


def running():
    """The shell that runs here, or None."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def without_files(module=None):
    """A new shell of IPython that neither reads nor writes files.

    Parameters
    ----------
    module: whose variables are the user's; None: of a new ``__main__``.

    Raises
    ------
    Refused: IPython is not installed.
    """
    try:
        from IPython.core.interactiveshell import InteractiveShell
        from IPython.core.profiledir import ProfileDir
        from traitlets.config import Config
    except ImportError as error:
        raise Refused("IPython is not installed here, and is needed for it.") from error
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    places = {}
    # Older versions open a database in that folder at once.
    if isinstance(vars(InteractiveShell).get("db"), property):
        places = {"ipython_dir": os.sep, "profile_dir": ProfileDir()}
    return InteractiveShell.instance(config=config, user_module=module, **places)


@contextlib.contextmanager
def lent():
    """Within the block there is a shell; nothing is left of one that was made for it.

    Raises
    ------
    Refused: IPython is not installed.
    """
    if running() is not None:
        yield
        return
    module = sys.modules["__main__"]
    space = vars(module)
    before, path, filters = dict(space), list(sys.path), process.filters()
    others = [(of, name, vars(of).get(name, _NONE)) for of, name in _ADDED]
    here = without_files(module)
    try:
        own = {name: value for name, value in space.items() if before.get(name, here) is not value}
        space.update(before)
        sys.path[:] = path
        process.put_filters(filters)
        _take_back(others)
        file = before.get("__file__")
        if isinstance(file, str):  # its modules are the user's own
            here.history_manager.dir_hist.append(os.path.dirname(os.path.abspath(file)))
        yield
    finally:
        type(here).clear_instance()
        atexit.unregister(here.atexit_operations)
        _take_back(others)
        hidden = here.user_ns_hidden
        own.update((name, hidden[name]) for name in hidden if name[:1] == "_")  # what was typed
        for name, value in own.items():
            if space.get(name, here) is value and name not in before:
                del space[name]


def _take_back(others):
    for of, name, value in others:
        if value is not _NONE:
            setattr(of, name, value)
        elif name in vars(of):
            delattr(of, name)
