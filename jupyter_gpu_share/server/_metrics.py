"""Prometheus metrics. No label names a user, a kernel or a path."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter as Tally
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from prometheus_client import Counter, Gauge, Histogram

from ..allocations import Allocation, AllocationTable, State
from ..errors import GpuShareError

if TYPE_CHECKING:
    from ..engines.base import Capacity

_PREFIX = "jupyter_gpu_share_"
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)


class _Instruments:
    """Registered once in a process, however many servers it makes."""

    _made: ClassVar[_Instruments | None] = None

    def __init__(self) -> None:
        self.allocations = Gauge(_PREFIX + "allocations", "Kernels by state", ["state"])
        self.queue = Gauge(_PREFIX + "queue_length", "Kernels that wait for a share")
        self.memory = Gauge(
            _PREFIX + "gpu_memory_bytes",
            "Memory of the GPUs, known from the first start of a kernel on",
            ["model"],
        )
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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gpus: Callable[[], Coroutine[Any, Any, list[Capacity]]] | None = None
        self._measuring: Future[None] | None = None

    def follow(
        self,
        table: AllocationTable,
        gpus: Callable[[], Coroutine[Any, Any, list[Capacity]]],
    ) -> None:
        """Count from now on. Gauges are read from the table when they are asked for.

        Called on the server's event loop, on which ``gpus`` is asked for what is known of the GPUs
        whenever a kernel starts: not earlier, as that would import the engine.
        """
        made = _Instruments.get()
        self._table = table
        self._loop = asyncio.get_running_loop()
        self._gpus = gpus
        for state in State:
            made.allocations.labels(state.value).set_function(partial(self._count, state))
        made.queue.set_function(self._queue)
        made.granted.set_function(self._granted)
        made.used.set_function(self._used)
        self._stop = table.listen(self._note)

    def close(self) -> None:
        """Stop counting."""
        if self._stop is not None:
            self._stop()
        if self._measuring is not None:
            self._measuring.cancel()
        self._table = None

    def _rows(self) -> list[Allocation]:
        return self._table.all() if self._table is not None else []

    def _count(self, state: State) -> float:
        return sum(row.state is state for row in self._rows())

    def _queue(self) -> float:
        return sum(row.queue is not None for row in self._rows())

    def _granted(self) -> float:
        shares = [row.share for row in self._rows() if row.share]
        return sum(share.memory_bytes * len(share.devices) for share in shares)

    def _used(self) -> float:
        return sum(row.used_bytes or 0 for row in self._rows())

    async def _measure(self) -> None:
        assert self._gpus is not None
        total: Tally[str] = Tally()
        with suppress(GpuShareError):  # told where it matters: to the kernel that starts
            for gpu in await self._gpus():
                total[gpu.model] += gpu.memory_bytes
        for model, amount in total.items():
            _Instruments.get().memory.labels(model).set(amount)

    def _measure_soon(self) -> None:
        """On the server's loop, from any thread; once at a time."""
        if self._loop is None or (self._measuring is not None and not self._measuring.done()):
            return
        work = self._measure()
        try:
            self._measuring = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the server has ended
            work.close()

    def _note(self, row: Allocation) -> None:
        made, now = _Instruments.get(), monotonic()
        with self._lock:
            old, since = self._states.get(row.kernel_id, (None, now))
            if row.state is old:
                return
            self._states[row.kernel_id] = (row.state, now)
            if row.state is State.ENDED:
                del self._states[row.kernel_id]
        if row.state is State.STARTING:
            self._measure_soon()
        if row.state is State.STARTING and old in (State.QUEUED, State.WAKING):
            made.queued.observe(now - since)
        elif row.state is State.ACTIVE and old is State.STARTING:
            made.starts.inc()
            made.started.observe(now - since)
        elif row.state is State.FAILED:
            made.failures.inc()
        elif row.state is State.RELEASED and old is State.RELEASING:
            made.releases.inc()
