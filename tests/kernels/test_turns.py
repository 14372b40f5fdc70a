"""When those who wait may have a share, by what is known of idle ones."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any

from stand_ins import bench
from test_reclaim import machine

from jupyter_gpu_share.allocations import AllocationTable
from jupyter_gpu_share.idle import IdlePolicy
from jupyter_gpu_share.kernels._turns import turns
from jupyter_gpu_share.kernels.registry import Registry
from jupyter_gpu_share.relay import Activity

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


def at(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def test_the_first_idle_share_that_makes_room_tells_the_moment() -> None:
    snapshot = machine(1, [("a", "1/4"), ("b", "1/2"), ("c", "1/4")], ["1/2"])
    assert turns(snapshot, [(at(9), "b"), (at(4), "a")]) == {"w0": at(9)}


def test_fragments_of_two_gpus_are_no_room() -> None:
    snapshot = machine(2, [("a", "3/4"), ("b", "3/4"), ("c", "1/4"), ("d", "1/4")], ["1/2"])
    assert turns(snapshot, [(at(1), "c"), (at(2), "d")]) == {}


def test_those_in_front_are_served_first() -> None:
    snapshot = machine(1, [("a", "1/2"), ("b", "1/2")], ["1/2", "1/2"])
    assert turns(snapshot, [(at(3), "a")]) == {"w0": at(3)}
    assert turns(snapshot, [(at(3), "a"), (at(7), "b")]) == {"w0": at(3), "w1": at(7)}


def test_nothing_is_said_of_whom_there_is_room_for_and_whom_nothing_helps() -> None:
    assert turns(machine(1, [("a", "1/4")], ["1/4"]), [(at(3), "a")]) == {}
    assert turns(machine(1, [("a", "1/4"), ("b", "3/4")], ["1"]), [(at(3), "a")]) == {}
    assert turns(machine(1, [("a", "1")], ["1"]), []) == {}


class Idle:
    """A kernel whose share goes back at a moment, if at one."""

    def __init__(self, engine: Any, leaves_at: datetime | None) -> None:
        self.engine, self.leaves_at = engine, leaves_at


class Waits:
    """An engine whose GPU is taken by ``a`` and ``b``; ``w0`` waits for half."""

    async def snapshot(self) -> Any:
        return machine(1, [("a", "1/2"), ("b", "1/2")], ["1/2"])


async def outlook(**kernels: Any) -> tuple[datetime | None, dict[str, datetime]]:
    loop = asyncio.get_running_loop()
    registry = Registry(AllocationTable(), IdlePolicy(), loop, lambda _: None)
    engine: Any = Waits()
    own: Any = registry._kernels
    own.update({key: Idle(engine, moment) for key, moment in kernels.items()})
    own["elsewhere"] = Idle(object(), at(1))
    return await registry.outlook(engine)


async def test_only_kernels_of_this_process_are_told_of() -> None:
    assert await outlook(a=at(5), b=at(3), w0=None) == (at(3), {"w0": at(3)})
    assert await outlook(a=at(5), b=None) == (at(5), {})


async def test_without_an_idle_share_no_moment_is_told() -> None:
    assert await outlook(a=None, b=None, w0=None) == (None, {})


async def test_a_controller_says_when_its_idle_share_goes_back() -> None:
    async with bench() as made:
        made.policy.rule = "fixed"
        made.policy.idle_after = 0.0
        made.policy.timeout = 600.0
        await made.launch()
        goes = made.controller.leaves_at
        assert goes is not None
        left = goes - datetime.now(timezone.utc)
        assert timedelta(seconds=500) < left <= timedelta(seconds=600)
        made.policy.rule = "never"
        made.controller._decide()
        assert made.controller.leaves_at is None, "it stays"
        made.policy.rule = "fixed"
        made.relay.activity = Activity(cells_sent=1, pending_cells=1)
        made.controller._used(made.relay.activity)
        assert made.controller.leaves_at is None, "a cell runs"
