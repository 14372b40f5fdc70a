"""What kernels cost that wait for a share: one server of the engine `local` with 100 of them.

Processor time is measured, so that other programs on the machine do not matter.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time

from jupyter_gpu_share.engines.base import KernelRequest, Starting, Waiting
from jupyter_gpu_share.engines.local import LocalEngine
from jupyter_gpu_share.kernels.reclaim import chosen
from jupyter_gpu_share.size import Size

from .rows import Row

_WAITING = 100
_HOLDING = 20
_SECONDS = 10.0
_LOOKS = 21
_PATIENCE = 60.0
_ARGV = (sys.executable, "-c", "import time; time.sleep(3600)")


def rows() -> list[Row]:
    """Waiting, looking at those that wait, and choosing whose idle share goes for them."""
    with tempfile.TemporaryDirectory(prefix="gpu-share-bench-") as folder:
        return asyncio.run(_measure(LocalEngine(directory=folder, simulate="5xA100-80GB")))


async def _measure(engine: LocalEngine) -> list[Row]:
    idle = [f"holds-{number}" for number in range(_HOLDING)]
    waiting: set[str] = set()
    all_wait = asyncio.Event()

    async def start(kernel: str) -> None:
        def report(news: Waiting | Starting) -> None:
            waiting.add(kernel)
            if len(waiting) == _WAITING:
                all_wait.set()

        await engine.start(_request(kernel), report)

    tasks: list[asyncio.Task[None]] = []
    try:
        for kernel in idle:
            await engine.start(_request(kernel), lambda news: None)
        tasks += [asyncio.create_task(start(f"waits-{number}")) for number in range(_WAITING)]
        await asyncio.wait_for(all_wait.wait(), _PATIENCE)
        share = 100 * await _rest() / _SECONDS
        looks = [await _look(engine) for _ in range(_LOOKS)]
        snapshot = await engine.snapshot()
        assert snapshot is not None
        begun = time.process_time()
        found = chosen(snapshot, idle)
        choice = 1000 * (time.process_time() - begun)
        assert len(found) == _HOLDING
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await engine.close()
    who = f"{_WAITING} waiting kernels"
    return [
        Row(f"{who}: processor time while nothing changes", "%", share, None, 5.0, "below 5 %"),
        Row(
            f"the same beside {_HOLDING} that run: a look at GPUs and allocations",
            "ms",
            1000 * statistics.median(looks),
            None,
            100.0,
            "below 100 ms",
        ),
        Row("the same: whose idle share goes for them", "ms", choice, None, 50.0, "below 50 ms"),
    ]


async def _rest() -> float:
    """Seconds of processor time that waiting takes."""
    await asyncio.sleep(1.0)
    begun = time.process_time()
    await asyncio.sleep(_SECONDS)
    return time.process_time() - begun


async def _look(engine: LocalEngine) -> float:
    begun = time.process_time()
    await engine.capacity()
    await engine.allocations()
    return time.process_time() - begun


def _request(kernel: str) -> KernelRequest:
    return KernelRequest(kernel, "python3", Size.parse("1/4"), _ARGV, {}, b"key")
