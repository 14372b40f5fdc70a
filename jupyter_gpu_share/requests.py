"""Sizes asked for before their kernel starts, by the id the kernel will have."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from .size import Size

__all__ = ["RequestStore"]


class RequestStore:
    """Requests that wait for their kernel. Safe to use from any thread.

    A request is used once. Those that nobody fetches expire after ``lifetime`` seconds, and the
    oldest give way beyond ``limit``, so that a client cannot fill the server's memory.
    """

    def __init__(self, *, limit: int = 1000, lifetime: float = 600.0) -> None:
        self._lock = threading.Lock()
        self._limit = limit
        self._lifetime = lifetime
        self._sizes: OrderedDict[str, tuple[float, Size]] = OrderedDict()

    def put(self, kernel_id: str, size: Size) -> None:
        """Remember the size for a kernel; a later request replaces an earlier one."""
        with self._lock:
            self._sizes.pop(kernel_id, None)
            self._sizes[kernel_id] = (time.monotonic() + self._lifetime, size)
            while len(self._sizes) > self._limit:
                self._sizes.popitem(last=False)

    def get(self, kernel_id: str) -> Size | None:
        """The size asked for, or None; it stays."""
        with self._lock:
            expires, size = self._sizes.get(kernel_id, (0.0, None))
            return size if expires > time.monotonic() else None

    def take(self, kernel_id: str) -> Size | None:
        """The size asked for, or None; it is gone then."""
        size = self.get(kernel_id)
        with self._lock:
            self._sizes.pop(kernel_id, None)
        return size
