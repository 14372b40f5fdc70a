"""How any thread has the relay's thread do something, which polls sockets."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue

__all__ = ["Inbox"]

_log = logging.getLogger(__name__)


class Inbox:
    """Work for one thread, in order. Any thread may add some; it wakes the one that polls.

    Raises
    ------
    OSError: no descriptor is left.
    """

    def __init__(self) -> None:
        self._bell = Bell()
        self._work: SimpleQueue[tuple[Callable[[], None], Callable[[], object]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        """What to poll."""
        return self._bell.fileno()

    def do(self, work: Callable[[], None], closed: Callable[[], object]) -> None:
        """Have the thread do ``work``, or do ``closed`` where it works no more."""
        with self._lock:
            if not self._closed:
                self._work.put((work, closed))
                self._bell.ring()
                return
        closed()

    def work_off(self) -> None:
        """Do what is there. To be called by the one thread."""
        self._bell.clear()
        for work, _ in self._taken():
            try:
                work()
            except Exception:  # what is behind it must not wait for another ring
                _log.exception("The relay met an error and goes on")

    def refuse(self) -> None:
        """From now on nothing more is taken."""
        with self._lock:
            self._closed = True

    def close(self) -> None:
        """Answer what is there still, and free the descriptors."""
        self.refuse()
        self._bell.close()
        for _, closed in self._taken():
            closed()

    def _taken(self) -> Iterator[tuple[Callable[[], None], Callable[[], object]]]:
        while True:
            try:
                yield self._work.get_nowait()
            except Empty:
                return


class Bell:
    """Wakes a thread that polls. Any thread may ring; the polling one clears.

    Raises
    ------
    OSError: no descriptor is left.
    """

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._ends: tuple[int, ...] = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK),)
        else:
            self._ends = os.pipe()
            for end in self._ends:
                os.set_blocking(end, False)

    def fileno(self) -> int:
        """What to poll."""
        return self._ends[0]

    def ring(self) -> None:
        """Wake the thread; as good as rung where it has not cleared yet."""
        with suppress(BlockingIOError):
            os.write(self._ends[-1], (1).to_bytes(8, sys.byteorder))

    def clear(self) -> None:
        """From now on only new rings wake. Work is to be looked for after this."""
        with suppress(BlockingIOError):
            while os.read(self._ends[0], 4096):
                pass

    def close(self) -> None:
        """Nobody may ring any more."""
        for end in self._ends:
            os.close(end)
