"""The ends of processes: told by the system at once, and brought about."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress

from ..engines._processes import Holder

__all__ = ["Ends", "kill"]


def kill(process: Holder, number: int = signal.SIGKILL) -> None:
    """Signal this very process: by a descriptor, as its number may be another's at any time."""
    with suppress(OSError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if process.alive:
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


class Ends:
    """Calls ``ended`` when one of the processes that are watched ends. For one event loop.

    Where no descriptor is to be had for a process, its end is left to who looks now and then.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._watched: dict[Holder, int] = {}

    def watch(self, processes: Collection[Holder]) -> None:
        """Watch these processes, and no others any more."""
        for gone in self._watched.keys() - set(processes):
            self._forget(gone)
        for process in set(processes) - self._watched.keys():
            self._begin(process)

    def close(self) -> None:
        """Watch nobody any more."""
        self.watch(())

    def _begin(self, process: Holder) -> None:
        try:
            descriptor = os.pidfd_open(process.pid)
        except OSError:
            if not process.alive:
                self._ended()
            return
        # Only now is it certain that the descriptor is of this process, not of a later one.
        if not process.alive:
            os.close(descriptor)
            self._ended()
            return
        self._watched[process] = descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._over, process)

    def _over(self, process: Holder) -> None:
        self._forget(process)
        self._ended()

    def _forget(self, process: Holder) -> None:
        descriptor = self._watched.pop(process, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
