"""Subshells with the ids that pages know from an earlier process of the same kernel.

A page keeps the id of a subshell for as long as it sees no restart, and sends to it what concerns
its widgets.
"""

import sys
import threading
from typing import Any  # noqa: F401 - in a comment

__all__ = ["make"]

#: Seconds that the thread of the shell channel has for it.
_PATIENCE = 5.0
#: Every subshell is a thread.
_MOST = 64


def make(kernel, ids):
    """Make the subshells that are not there; never raises.

    Parameters
    ----------
    ids: texts; at most 64 of them.

    Returns
    -------
    list: the ids that were made; empty where this ipykernel has no subshells.
    """
    made = []  # type: list[str]
    try:
        manager = kernel.shell_channel_thread.manager
        wanted = [each for each in ids if isinstance(each, str) and each][:_MOST]
        done = threading.Event()

        def work():
            try:
                _make(manager, wanted, made)
            finally:
                done.set()

        # Only that thread may change what the manager has.
        kernel.shell_channel_thread.io_loop.add_callback(work)
        done.wait(_PATIENCE)
    except Exception:  # another ipykernel: its pages get new subshells
        return []
    return list(made)


class _Ids:
    """Stands for the module ``uuid``, from which the manager takes the id of a new subshell."""

    def __init__(self, value):
        self._value = value

    def uuid4(self):
        return self._value


def _make(manager, ids, made):
    module = sys.modules[type(manager).__module__]  # type: Any
    there = set(manager.list_subshell())
    for each in dict.fromkeys(ids):
        if each in there:
            continue
        own, module.uuid = module.uuid, _Ids(each)
        try:
            if manager._create_subshell() == each:
                made.append(each)
        finally:
            module.uuid = own
