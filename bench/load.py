"""What many kernels cost the process that runs them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from statistics import median
from time import perf_counter
from typing import Any

from .kernels import OURS, PEER, isolate, make_async_manager
from .rows import Row, plus

KERNELS = 10
ROUNDS = 3
_TICK = 0.001


def rows() -> list[Row]:
    """Lag of the event loop while ten kernels launch at once, and memory for each of them."""
    isolate()
    found: dict[str, list[dict[str, float]]] = {OURS: [], PEER: []}
    for _ in range(ROUNDS):
        for provisioner, results in found.items():
            # A process of its own each time: memory is not given back to the system.
            command = [sys.executable, "-m", "bench.load", provisioner]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            results.append(json.loads(done.stdout.splitlines()[-1]))

    def figure(name: str) -> tuple[float, float]:
        ours, peer = (median(row[name] for row in found[key]) for key in (OURS, PEER))
        return ours, peer

    lag = figure("median_lag_ms")
    worst = figure("p99_lag_ms")
    memory = figure("mib_per_kernel")
    limit, goal = plus(2, memory[1], "MiB")
    return [
        Row("event-loop lag, ten launches", "ms", *lag, 1.0, "median below 1 ms"),
        Row("99th percentile of that lag", "ms", *worst, worst[1] + 5, "at most 5 ms above peer"),
        Row("server memory for each kernel", "MiB", *memory, limit, goal),
    ]


async def _measure(provisioner: str) -> dict[str, float]:
    # One kernel first: what is loaded once is not counted to each.
    managers = [await _started(provisioner)]
    before = resident()
    lags: list[float] = []
    watching = asyncio.create_task(watch_lag(lags))
    managers += await asyncio.gather(*(_started(provisioner) for _ in range(KERNELS)))
    watching.cancel()
    after = resident()
    await asyncio.gather(*(manager.shutdown_kernel(now=True) for manager in managers))
    lags.sort()
    return {
        "median_lag_ms": median(lags) * 1000,
        "p99_lag_ms": lags[int(len(lags) * 0.99)] * 1000,
        "mib_per_kernel": (after - before) / KERNELS / 2**20,
    }


async def _started(provisioner: str) -> Any:
    manager = make_async_manager(provisioner)
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=120)
    client.stop_channels()
    return manager


async def watch_lag(lags: list[float]) -> None:
    """Note, a thousand times a second, by how many seconds the event loop is late."""
    while True:
        due = perf_counter() + _TICK
        await asyncio.sleep(_TICK)
        lags.append(max(0.0, perf_counter() - due))


def resident() -> int:
    """Bytes of memory that only this process has."""
    total = 0
    with open("/proc/self/smaps_rollup") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(("Private_Clean", "Private_Dirty")):
                total += int(line.split()[1]) * 1024
    return total


if __name__ == "__main__":
    os.environ.setdefault("JUPYTER_GPU_SHARE_SIZE", "1/32")
    print(json.dumps(asyncio.run(_measure(sys.argv[1]))))
