"""A kernel that has its share keeps it at a restart, whatever became of the limits meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from brokers import People, account, open_store
from moments import Clock

from jupyter_gpu_share.broker.limits import Limits
from jupyter_gpu_share.broker.store import Refused
from jupyter_gpu_share.size import Size

EVERYBODY = {"user": ["*"]}
HOUR = {"resource": "gpu_hours", "limit": 1, "window": 7, "scope": EVERYBODY}


async def change(people: People, name: str, size: str) -> dict[str, Any] | None:
    return await people.store.change(account(1), name, Size.parse(size), None, dry=False)


async def check(people: People) -> None:
    """Two kernels of 1/2 are held, which is more than may be."""
    assert await people.ask(1, "a", "1/2"), "a restart"
    with pytest.raises(Refused):
        await people.ask(1, "new", "1/8")
    with pytest.raises(Refused):
        await change(people, "a", "3/4")
    with pytest.raises(Refused):
        await people.ask(1, "a", "3/4")
    assert await change(people, "a", "1/4"), "less of it"
    with pytest.raises(Refused):
        await change(people, "a", "1/2")
    assert await people.holding() == {"1/a", "1/b"}
    await people.end(1, "a")
    with pytest.raises(Refused):
        await people.ask(1, "a", "1/8")


async def test_hours_that_were_used_up_since(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock, limits=Limits([HOUR])) as people:
        assert await people.ask(1, "a", "1/2")
        assert await people.ask(1, "b", "1/2")
        clock.wait(61)
        await check(people)


@pytest.mark.parametrize(
    ("resource", "limit"), [("gpus", "1/4"), ("memory_bytes", "20GiB"), ("kernels", 1)]
)
async def test_a_limit_that_was_lowered_since(
    tmp_path: Path, resource: str, limit: str | int
) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        assert await people.ask(1, "a", "1/2")
        assert await people.ask(1, "b", "1/2")
    lowered = Limits([{"resource": resource, "limit": limit, "scope": EVERYBODY}])
    async with open_store(tmp_path, clock, limits=lowered) as people:
        await check(people)


async def test_fewer_kernels_may_be_had_since(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        assert await people.ask(1, "a", "1/4")
        assert await people.ask(1, "b", "1/4")
    async with open_store(tmp_path, clock, claims_per_user=1) as people:
        assert await people.ask(1, "a", "1/4")
        with pytest.raises(Refused):
            await people.ask(1, "new", "1/8")
