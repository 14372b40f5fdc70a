"""The one table of allocations that this process knows, and who is told of its changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from ._model import Allocation

Listener = Callable[[Allocation], None]

_log = logging.getLogger(__name__)


#: Readings change all the time; they are polled, not announced.
def _without_readings(allocation: Allocation) -> Allocation:
    return replace(allocation, used_bytes=None, utilization=None)


class AllocationTable:
    """Allocations by kernel id, safe to use from any thread.

    Listeners are called outside the lock, in the thread that made the change, and must not block.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, Allocation] = {}
        self._listeners: list[Listener] = []

    def get(self, kernel_id: str) -> Allocation | None:
        """The allocation of a kernel, or None."""
        with self._lock:
            return self._rows.get(kernel_id)

    def all(self) -> list[Allocation]:
        """All allocations, in the order in which their kernels came."""
        with self._lock:
            return list(self._rows.values())

    def put(self, allocation: Allocation) -> None:
        """Set a kernel's allocation. Announced unless nothing but readings changed."""
        with self._lock:
            old = self._rows.get(allocation.kernel_id)
            self._rows[allocation.kernel_id] = allocation
        if old is None or _without_readings(allocation) != _without_readings(old):
            self._announce(allocation)

    def remove(self, kernel_id: str) -> None:
        """Forget a kernel. Announce its end with :meth:`put` first."""
        with self._lock:
            self._rows.pop(kernel_id, None)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with every announced allocation; the result undoes it."""
        with self._lock:
            self._listeners.append(listener)

        def stop() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def _announce(self, allocation: Allocation) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            try:
                listener(allocation)
            except Exception:
                _log.exception("A listener to allocations failed")
