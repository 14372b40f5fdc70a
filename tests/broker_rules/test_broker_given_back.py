"""What released kernels do without, as a store counts it: to the second, in simulated time."""

from __future__ import annotations

import subprocess
from pathlib import Path

from brokers import People, account, open_store
from moments import Clock
from waiting import PATIENCE

from jupyter_gpu_share.engines._processes import Holder, this_process


async def release(people: People, *, user: int = 1, lives_on: bool = True) -> bool:
    """A user's kernel ``a`` gives its share back; it has the GPU."""
    server = this_process() if lives_on else None
    return await people.store.release(account(user), "a", server=server)


async def minutes(people: People, user: int = 1) -> float:
    """GPU-minutes that a user's kernels did without."""
    rows = await people.store.usage(account(user))
    return sum(row["given_back"] for row in rows) / 60


async def test_from_the_release_to_the_wish_for_a_wake(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        assert await people.ask(1, "a", "1/2")
        assert await release(people)
        assert not await release(people), "told again, as where the answer was lost"
        clock.wait(10)
        assert await people.ask(2, "b", "1")
        assert not await people.ask(1, "a", "1/2"), "it waits, and does not do without"
        clock.wait(100)
        assert await release(people, lives_on=False), "it is given up, and released again"
        clock.wait(10)
        assert await minutes(people) == 10
        await people.end(2, "b")
        assert await people.ask(1, "a", "1/2")
        clock.wait(100)
        assert await minutes(people) == 10


async def test_to_the_end_of_the_kernel_whoever_ends_it(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        for user in (1, 2):
            assert await people.ask(user, "a", "1/2")
        assert await release(people)
        clock.wait(4)
        await release(people, lives_on=False)
        await people.store.end(account(2).uid, "a")
        clock.wait(100)
        assert (await minutes(people), await minutes(people, 2)) == (2, 0)


async def test_to_the_end_of_the_server(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        with subprocess.Popen(["sleep", "999"]) as server:
            assert await people.ask(1, "a", "1")
            holder = Holder.of(server.pid)
            await people.store.release(account(1), "a", server=holder)
            assert holder in people.store.processes, "its end is watched for"
            clock.wait(3)
            server.kill()
            server.wait(PATIENCE)
        await people.store.sweep()
        clock.wait(100)
        assert await minutes(people) == 3
        assert holder not in people.store.processes


async def test_who_has_held_nothing_gives_nothing_back(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        assert not await release(people)
        assert await people.ask(2, "b", "1")
        assert not await people.ask(1, "a", "1")
        assert await release(people), "it has only waited"
        clock.wait(100)
        assert await minutes(people) == 0


async def test_no_hours_and_no_turn_depend_on_it(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        assert await people.ask(1, "a", "1")
        await release(people)
        clock.wait(60 * 24 * 30)
        assert not await people.store.usage(account(2))
        totals = (await people.store.totals())["user", account(1).user]
        assert (totals.held, totals.given_back) == (0, 60 * 60 * 24 * 30)
        assert people.store._books.mean(account(1).user, clock()) < 1e-6
