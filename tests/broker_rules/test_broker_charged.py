"""What is used without a share, as a store charges it, in simulated time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from time import monotonic

import pytest
from brokers import People, account, open_store
from moments import Clock

from jupyter_gpu_share.broker import counting
from jupyter_gpu_share.broker.given_back import Held
from jupyter_gpu_share.broker.limits import Limits
from jupyter_gpu_share.broker.store import Refused

USER = account(1).user
HALF = {"process 7 1": Held(USER, frozenset(), Fraction(1, 2), idle=False)}
HOUR = {"resource": "gpu_hours", "limit": 1, "window": 7, "scope": {"user": ["*"]}}


async def used(people: People) -> float:
    """GPU-minutes."""
    return sum(row["used"] for row in await people.store.usage(account(1))) / 60


async def test_it_counts_while_it_is_seen(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        await people.store.charge(HALF)
        clock.wait(10)
        await people.store.charge(HALF)
        clock.wait(10)
        await people.store.charge({})
        clock.wait(100)
        assert await used(people) == 10
        assert await people.holding() == set(), "nothing is held by it"


async def test_it_ends_where_nobody_can_look_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        await people.store.charge(HALF)
        clock.wait(10)
        await people.store.sweep()
        monkeypatch.setattr(counting, "monotonic", lambda: monotonic() + 31)
        await people.store.sweep()
        clock.wait(100)
        await people.store.sweep()
        assert await used(people) == 5


async def test_limits_of_hours_know_it(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock, limits=Limits([HOUR])) as people:
        await people.store.charge(HALF)
        clock.wait(119)
        assert await people.ask(1, "a", "1/8"), "the hour is not over"
        await people.end(1, "a")
        clock.wait(2)
        with pytest.raises(Refused, match="GPU-hours"):
            await people.ask(1, "a", "1/8")
        assert await people.ask(2, "b", "1"), "others' hours are not over"


async def test_who_has_used_it_comes_after_who_has_not(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        await people.store.charge(HALF)
        clock.wait(60)
        await people.store.charge({})
        assert await people.ask(2, "b", "1")
        assert not await people.ask(1, "a", "1")
        assert not await people.ask(3, "c", "1")
        await people.end(2, "b")
        assert await people.holding() == {"3/c"}
