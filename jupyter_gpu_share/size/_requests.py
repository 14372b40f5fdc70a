"""Sizes asked for before their kernel starts, by the id the kernel will have."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from ._grammar import Size

__all__ = ["SIZE_VARIABLE", "Request", "RequestStore"]

#: Names the size in the environment of a server, a papermill run, a console.
SIZE_VARIABLE = "JUPYTER_GPU_SHARE_SIZE"


@dataclass(frozen=True)
class Request:
    """A size, and the notebook or console that the kernel is for where the client said so."""

    size: Size
    path: str | None = None


class RequestStore:
    """Requests that wait for their kernel. Safe to use from any thread.

    A request is used once. Those that nobody fetches expire after ``lifetime`` seconds, and the
    oldest give way beyond ``limit``, so that a client cannot fill the server's memory.
    """

    def __init__(self, *, limit: int = 1000, lifetime: float = 600.0) -> None:
        self._lock = threading.Lock()
        self._limit = limit
        self._lifetime = lifetime
        self._requests: OrderedDict[str, tuple[float, Request]] = OrderedDict()

    def put(self, kernel_id: str, request: Request) -> None:
        """Remember what a kernel shall have; a later request replaces an earlier one."""
        with self._lock:
            self._requests.pop(kernel_id, None)
            self._requests[kernel_id] = (time.monotonic() + self._lifetime, request)
            while len(self._requests) > self._limit:
                self._requests.popitem(last=False)

    def get(self, kernel_id: str) -> Request | None:
        """What was asked for, or None; it stays."""
        with self._lock:
            expires, request = self._requests.get(kernel_id, (0.0, None))
            return request if expires > time.monotonic() else None

    def take(self, kernel_id: str) -> Request | None:
        """What was asked for, or None; it is gone then."""
        request = self.get(kernel_id)
        with self._lock:
            self._requests.pop(kernel_id, None)
        return request
