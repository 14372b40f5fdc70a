"""A thousand kernels of two hundred users: what a change costs does not grow with them."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from homes import FakeHome, User, fake_home
from waiting import eventually

from jupyter_gpu_share.broker.cluster import table
from jupyter_gpu_share.broker.cluster.ruling import Key
from jupyter_gpu_share.engines.base import Exit

USERS, EACH = 200, 5
#: Bytes that the registry, its tasks and its events may take for one kernel, beside its pod.
MOST_EACH = 60_000


async def started(home: FakeHome) -> list[User]:
    users = [home.user(f"user-{n}") for n in range(USERS)]
    gate = asyncio.Semaphore(20)

    async def start(user: User, name: str) -> None:
        async with gate:
            await user.ok("PUT", f"/v1/shares/{name}", user.plan())

    await asyncio.gather(*(start(u, f"{u.name}-{n}") for u in users for n in range(EACH)))
    await eventually(
        lambda: all(kernel.phase == "ready" for kernel in home.registry), "all of them run"
    )
    return users


async def test_a_change_is_told_once_and_looks_at_no_other_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fake_home() as home:
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        users = await started(home)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(home.registry) == USERS * EACH
        assert (after - before) / (USERS * EACH) < MOST_EACH

        looked = 0
        row_of = table.row_of

        def counted(view: table.View) -> dict[str, object]:
            nonlocal looked
            looked += 1
            return row_of(view)

        async with users[7].events(instance=True) as heard:
            _, kind, data = await anext(heard)
            assert (kind, len(data["shares"])) == ("reset", EACH)
            number = home.events.number
            monkeypatch.setattr(table, "row_of", counted)
            kernel = home.registry.get(Key("user-7", "", "user-7-3"))
            assert kernel is not None
            kernel.objects.end(Exit(1, "over"))  # type: ignore[attr-defined]
            _, kind, data = await anext(heard)
            assert (kind, data["row"]["state"]) == ("row", "ended")
        assert home.events.number == number + 1
        assert looked <= 3
