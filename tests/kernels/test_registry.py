"""Whose share the kernels of one process give to somebody who waits."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any

from jupyter_gpu_share.allocations import AllocationTable
from jupyter_gpu_share.idle import IdlePolicy, Situation
from jupyter_gpu_share.kernels.registry import Registry
from jupyter_gpu_share.size import Size


class Room:
    """One waits, for what any one of the kernels holds."""

    waiting = (object(),)

    def served(self, freed: Any) -> frozenset[int]:
        return frozenset({0} if freed else ())


class OneEngine:
    async def usage(self, busy: frozenset[str]) -> dict[str, Any]:
        return {}

    def __init__(self, wanted: frozenset[str] | None = None) -> None:
        self.answer = wanted
        self.told: dict[str, float] = {}

    async def wanted(self, idle: dict[str, float]) -> frozenset[str] | None:
        self.told = idle
        return self.answer

    async def snapshot(self) -> Room:
        assert self.answer is None, "somebody else decides"
        return Room()


class Kernel:
    busy = False

    def __init__(self, engine: OneEngine, *, leaving: bool) -> None:
        self.engine = engine
        self.leaving, self.unused = leaving, not leaving
        self.wanted = False
        now = datetime.now(timezone.utc)
        self.situation = Situation(
            now=now,
            idle_since=now - timedelta(hours=5),
            size=Size.parse("1/2"),
            group="",
            keep_until=None,
            waiting_since=None,
            kept=True,
            released_at=None,
        )

    def wanted_by_others(self, wanted: bool) -> None:
        self.wanted = wanted


async def taken(*, leaving: bool, own: OneEngine | None = None) -> bool:
    """Whether an idle kernel's share is taken, beside one that may be on its way."""
    engine: Any = own or OneEngine()
    idle, other = Kernel(engine, leaving=False), Kernel(engine, leaving=leaving)
    loop = asyncio.get_running_loop()
    registry = Registry(AllocationTable(), IdlePolicy(), loop, lambda _: None)
    kernels: Any = registry._kernels
    kernels["idle"] = idle
    if leaving:
        kernels["other"] = other
    await registry.look(engine)
    return idle.wanted


async def test_no_second_share_goes_while_one_is_on_its_way() -> None:
    assert await taken(leaving=False)
    assert not await taken(leaving=True)


async def test_where_somebody_decides_for_all_users_that_is_done() -> None:
    for answer in (frozenset({"idle"}), frozenset[str]()):
        engine = OneEngine(answer)
        assert await taken(leaving=True, own=engine) == bool(answer)
        assert engine.told["idle"] == 5 * 3600
        assert engine.told["other"] > engine.told["idle"], "what is on its way goes first"
