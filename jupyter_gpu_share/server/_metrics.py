"""Prometheus metrics. No label names a user, a kernel or a path."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, ClassVar

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from ..allocations import Allocation, AllocationTable, State

_PREFIX = "jupyter_gpu_share_"
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)


class _Instruments:
    """Registered once in a process, however many servers it makes."""

    _made: ClassVar[_Instruments | None] = None

    def __init__(self) -> None:
        self.allocations = Gauge(_PREFIX + "allocations", "Kernels by state", ["state"])
        self.granted = Gauge(_PREFIX + "granted_bytes", "GPU memory that kernels hold")
        self.used = Gauge(_PREFIX + "used_bytes", "GPU memory that kernels use")
        self.starts = Counter(_PREFIX + "starts", "Kernels that came up on their share")
        self.failures = Counter(_PREFIX + "failures", "Kernels that did not start, or died")
        self.releases = Counter(_PREFIX + "releases", "Shares given back under a living notebook")
        self.queued = Histogram(
            _PREFIX + "queued_seconds",
            "Time from the wish for a share to the share",
            buckets=_SECONDS,
        )
        self.started = Histogram(
            _PREFIX + "start_seconds",
            "Time from the share to the kernel's answer",
            buckets=_SECONDS,
        )

    @classmethod
    def get(cls) -> _Instruments:
        if cls._made is None:
            cls._made = cls()
        return cls._made


class Metrics:
    """Follows a table of allocations."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop: Callable[[], None] | None = None
        self._table: AllocationTable | None = None
        self._states: dict[str, tuple[State, float]] = {}

    def follow(self, table: AllocationTable) -> None:
        """Count from now on. Gauges are read from the table when they are asked for."""
        made = _Instruments.get()
        self._table = table
        for state in State:
            made.allocations.labels(state.value).set_function(partial(self._count, state))
        made.granted.set_function(self._granted)
        made.used.set_function(self._used)
        self._stop = table.listen(self._note)

    def close(self) -> None:
        """Stop counting."""
        if self._stop is not None:
            self._stop()
        self._table = None

    def _rows(self) -> list[Allocation]:
        return self._table.all() if self._table is not None else []

    def _count(self, state: State) -> float:
        return sum(row.state is state for row in self._rows())

    def _granted(self) -> float:
        shares = [row.share for row in self._rows() if row.share]
        return sum(share.memory_bytes * len(share.devices) for share in shares)

    def _used(self) -> float:
        return sum(row.used_bytes or 0 for row in self._rows())

    def _note(self, row: Allocation) -> None:
        made, now = _Instruments.get(), monotonic()
        with self._lock:
            old, since = self._states.get(row.kernel_id, (None, now))
            if row.state is old:
                return
            self._states[row.kernel_id] = (row.state, now)
            if row.state is State.ENDED:
                del self._states[row.kernel_id]
        if row.state is State.STARTING and old in (State.QUEUED, State.WAKING):
            made.queued.observe(now - since)
        elif row.state is State.ACTIVE and old is State.STARTING:
            made.starts.inc()
            made.started.observe(now - since)
        elif row.state is State.FAILED:
            made.failures.inc()
        elif row.state is State.RELEASED and old is State.RELEASING:
            made.releases.inc()


def unregister() -> None:
    """Take the instruments out of the registry again, for tests."""
    made, _Instruments._made = _Instruments._made, None
    instruments: list[Any] = list(vars(made).values()) if made else []
    for instrument in instruments:
        REGISTRY.unregister(instrument)
