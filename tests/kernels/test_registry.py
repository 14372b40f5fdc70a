"""Whose share the kernels of one process give to somebody who waits."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any

from jupyter_gpu_share.allocations import AllocationTable
from jupyter_gpu_share.engines.idle_shares import AskedBack, IdleShare
from jupyter_gpu_share.idle import IdlePolicy, Situation
from jupyter_gpu_share.kernels.registry import Registry
from jupyter_gpu_share.size import Size

UNTIL = datetime(2100, 1, 1, tzinfo=timezone.utc)


class Room:
    """One waits, for what any one of the kernels holds."""

    waiting = (object(),)

    def served(self, freed: Any) -> frozenset[int]:
        return frozenset({0} if freed else ())


class OneEngine:
    async def usage(self, busy: frozenset[str]) -> dict[str, Any]:
        return {}

    def __init__(self, wanted: dict[str, AskedBack] | None = None) -> None:
        self.answer = wanted
        self.told: dict[str, IdleShare] = {}

    async def wanted(self, idle: dict[str, IdleShare]) -> dict[str, AskedBack] | None:
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
        self.asked: AskedBack | None = None
        now = datetime.now(timezone.utc)
        self.situation = Situation(
            now=now,
            idle_since=now - timedelta(hours=5),
            size=Size.parse("1/2"),
            group="",
            keep_until=UNTIL if self.engine.answer is not None else None,
            waiting_since=None,
            kept=self.engine.answer is None,
            released_at=None,
        )

    def wanted_by_others(self, asked: AskedBack | None) -> None:
        self.asked = asked


async def taken(
    *, leaving: bool, own: OneEngine | None = None, rule: str = "adaptive"
) -> AskedBack | None:
    """How an idle kernel's share is asked back, beside one that may be on its way."""
    engine: Any = own or OneEngine()
    idle, other = Kernel(engine, leaving=False), Kernel(engine, leaving=leaving)
    loop = asyncio.get_running_loop()
    registry = Registry(AllocationTable(), IdlePolicy(rule=rule), loop, lambda _: None)
    kernels: Any = registry._kernels
    kernels["idle"] = idle
    if leaving:
        kernels["other"] = other
    await registry.look(engine)
    return idle.asked


async def test_no_second_share_goes_while_one_is_on_its_way() -> None:
    assert await taken(leaving=False) == AskedBack()
    assert await taken(leaving=True) is None
    assert await taken(leaving=False, rule="never") is None


async def test_where_somebody_decides_for_all_users_that_is_done() -> None:
    """All idle kernels are named, whatever the user's own rule."""
    due = AskedBack(datetime.now(timezone.utc))
    for answer in ({"idle": due}, {}):
        engine = OneEngine(answer)
        assert await taken(leaving=True, own=engine, rule="never") == answer.get("idle")
        since = engine.told["idle"].since
        assert engine.told["idle"] == IdleShare(since, UNTIL, kept=False)
        assert engine.told["other"] == IdleShare(engine.told["other"].since, UNTIL, False, True)
