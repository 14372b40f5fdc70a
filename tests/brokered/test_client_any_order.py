"""Whatever is lost or restarted in any order: at most one pod for an attempt, and none left."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest
from fake_cluster_broker import FakeClusterBroker
from server_processes import Process
from waiting import PATIENCE, eventually

from jupyter_gpu_share.broker.client import BrokerAway
from jupyter_gpu_share.engines.kubernetes._remote_objects import RemoteObjects
from jupyter_gpu_share.errors import GpuShareError
from jupyter_gpu_share.size import Size

SEEDS = range(40)


async def _live(objects: RemoteObjects, rng: random.Random) -> None:
    """A kernel's life as a server leads it; any of it may be given up."""
    try:
        await _perhaps_cut(objects.start(lambda news: None), rng)
        for _ in range(rng.randrange(4)):
            step = rng.choice(("share", "change", "path"))
            if step == "share":
                await objects.give_back()
                await objects.settled(PATIENCE)
                await _perhaps_cut(objects.take_back(lambda news: None), rng)
            elif step == "change":
                await objects.change(Size.parse(rng.choice(("1/4", "1/2"))))
            else:
                await objects.note_path(f"{rng.random()}.ipynb")
    except (GpuShareError, asyncio.TimeoutError):
        pass
    finally:
        await objects.delete()


async def _perhaps_cut(work: object, rng: random.Random) -> None:
    await asyncio.wait_for(work, rng.choice((0.02, PATIENCE, PATIENCE)))  # type: ignore[arg-type]


async def _trouble(broker: FakeClusterBroker, rng: random.Random) -> None:
    for _ in range(rng.randrange(8)):
        await asyncio.sleep(rng.random() * 0.05)
        trouble = rng.randrange(6)
        if trouble == 0:
            await broker.restart()
        elif trouble == 1:
            await broker.restart(forget=lambda kernel: rng.random() < 0.3)
        elif trouble == 2:
            broker.forget_events()
        elif trouble == 3:
            broker.set_room(rng.choice((0.0, 0.5, 1.0)))
        else:
            broker.lose(rng.choice(("PUT", "DELETE", "take", "release", ".")), rng.choice(
                ("before", "after", "503")
            ), rng.randrange(1, 4))  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_attempt_has_two_pods_and_none_is_left(
    seed: int, broker: FakeClusterBroker, process: Callable[..., Process]
) -> None:
    rng = random.Random(seed)
    one = process(patience=2.0)
    kernels = [one.kernel(f"k{n}", rng.choice(("1/4", "1/2"))) for n in range(3)]
    lives = [asyncio.create_task(_live(objects, rng)) for objects in kernels]
    await _trouble(broker, rng)
    broker.faults.clear()
    broker.set_room(1)
    await asyncio.wait_for(asyncio.gather(*lives), 3 * PATIENCE)
    for objects in kernels:
        assert await objects.settled(PATIENCE)
        assert not objects.made

    async def empty() -> bool:
        try:
            await one.end_unknown()
        except BrokerAway:
            return False
        return not broker.kernels

    await eventually(empty, f"nothing is left of {broker.kernels}")
    assert max(broker.pods.values(), default=0) <= 1 + broker.forgotten, broker.pods


async def test_the_event_loop_is_never_held_up(
    broker: FakeClusterBroker, process: Callable[..., Process]
) -> None:
    turns: list[float] = []

    async def measure() -> None:
        # Of this thread's own time: others may keep it waiting.
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            turns.append(time.thread_time() - before)

    measuring = asyncio.create_task(measure())
    broker.set_room(100)
    one = process()
    kernels = [one.kernel(f"k{n}", "1/4") for n in range(30)]
    for objects in kernels:
        await objects.start(lambda news: None)
    for objects in kernels:
        await objects.delete()
    measuring.cancel()
    await asyncio.wait({measuring})
    assert sorted(turns)[len(turns) // 2] < 0.005, "the broker is on the same loop here"
