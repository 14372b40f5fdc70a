"""What goes wrong around a kernel that waits: its node, and the registry of its image.

``make test`` does each once, ``make faults`` many times at random instants from a fixed seed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from cluster.build import PARTS
from cluster.fixtures import CLUSTER_MARKS
from faults import ROUNDS, START, STYLES, TURNS, Log, World
from notebooks import LONG, Notebook
from registry import Registry
from waiting import eventually

from jupyter_gpu_share.runtime import Runtime

pytestmark = [*CLUSTER_MARKS, pytest.mark.fault]


@contextmanager
def cordoned(world: World) -> Iterator[None]:
    """An administrator lets nothing new come to the node."""
    node = f"/api/v1/nodes/{world.cluster.node}"
    world.cluster.api.patch(node, {"spec": {"unschedulable": True}})
    try:
        yield
    finally:
        world.cluster.api.patch(node, {"spec": {"unschedulable": None}})


async def crowd(world: World) -> tuple[Notebook, Notebook, Notebook]:
    """Two kernels that have all GPUs, and one that waits for a share."""
    first, second = [await world.make("1").start() for _ in range(2)]
    await first.run("x = 1")
    for one in (first, second):  # else they give way to who waits, after a minute
        until = datetime.now(timezone.utc) + timedelta(hours=1)
        await Runtime.instance().keep(one.kernel_id, until)
    waits = world.make()
    waits.config.GpuShareProvisioner.queue_patience = 0.5
    await waits.start()
    await eventually(lambda: waits.allocation.queue is not None, "it is in the queue", LONG)
    return first, second, waits


async def comes_up(world: World, first: Notebook, waits: Notebook, log: Log) -> None:
    """The one that waited has its share, and the one that ran was not touched."""
    assert await waits.run("print('came up')") == "came up"
    assert await first.run("print(x)") == "1"
    world.never_too_much()
    await first.close()
    await waits.close()
    await world.nothing_left(log)


@pytest.mark.parametrize("turn", TURNS)
async def test_a_node_that_is_cordoned_is_told_and_waited_for(turn: int, world: World) -> None:
    log = world.round("node cordoned while a kernel waits", turn, STYLES[turn % 2])
    first, second, waits = await crowd(world)
    await world.instant(log, START)
    with cordoned(world):
        await second.close()  # now there is room, and the scheduler looks again
        await eventually(lambda: "unschedulable" in waits.allocation.reason, "it is told", LONG)
        log.told = waits.allocation.reason
        assert await first.run("print(x)") == "1"
    await comes_up(world, first, waits, log)


@pytest.fixture
async def registry(cluster: Any) -> AsyncIterator[Registry]:
    """One that has the kernels' image, which was built for the cluster."""
    found = await Registry(PARTS["kernel"].folder / "image.tar").start()
    yield found
    await found.close()


def reason(one: Notebook) -> str:
    """What the table says of a kernel, which may not be there yet."""
    row = Runtime.instance(one.config).table.get(one.kernel_id)
    return row.reason if row is not None else ""


@pytest.mark.parametrize("turn", range(ROUNDS))
async def test_a_registry_that_is_overloaded_for_a_while_is_waited_for(
    turn: int, world: World, registry: Registry
) -> None:
    log = world.round("registry answers 503 three times", turn)
    one = world.make(image=registry.image, image_pull_policy="IfNotPresent")
    registry.overloaded = True
    starting = asyncio.ensure_future(one.start())
    try:
        await eventually(lambda: "The node tries again" in reason(one), "it is told", LONG)
        log.told = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1", reason(one))
        await eventually(lambda: registry.refused >= 3, "the node has tried again", LONG)
        registry.overloaded = False
        await starting
    finally:
        starting.cancel()
    assert await one.run("print('came up')") == "came up"
    await one.close()
    await world.nothing_left(log)
