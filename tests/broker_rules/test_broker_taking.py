"""What becomes of a share whose server does not give it back. In simulated time."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from brokers import People, account, open_store
from moments import MINUTE, Clock

from jupyter_gpu_share.broker.idle import GRACE
from jupyter_gpu_share.broker.reclaims import Answer, Reclaims
from jupyter_gpu_share.broker.taking import left_of
from jupyter_gpu_share.engines._places import here
from jupyter_gpu_share.engines._processes import Holder, this_process
from jupyter_gpu_share.engines.idle_shares import IdleShare
from jupyter_gpu_share.engines.local._contents import Claim
from jupyter_gpu_share.engines.local._placement import Piece
from jupyter_gpu_share.idle import IdlePolicy
from jupyter_gpu_share.size import Size

GIB, MIB = 2**30, 2**20
WARNED = IdlePolicy().warn_before / 60
LATE = WARNED + GRACE / MINUTE


def claim(size: str, *pieces: Piece, **info: str) -> Claim:
    return Claim("t", "1/a", Size.parse(size), this_process(), here(), pieces, info=info)


@pytest.mark.parametrize(
    ("size", "used", "left"),
    [
        ("1/2", {"G0": 0, "G1": 0}, "0"),
        ("1/2", {}, "0"),
        ("1/2", {"other": GIB}, "0"),
        ("1/2", {"G0": 1}, "2x1MiB"),
        ("1/2", {"G0": 300 * MIB + 1, "G1": GIB}, "2x1GiB"),
        ("1/2", {"G0": 40 * GIB}, None),
        ("1/2", {"G0": 40 * GIB - MIB // 2}, None),
        ("1/2", None, None),
        ("mig-3g.40gb", {"G0": 1}, None),
        ("mig-3g.40gb", {"G0": 0}, "0"),
    ],
)
def test_what_is_in_use_is_left_to_a_kernel(
    size: str, used: Mapping[str, int] | None, left: str | None
) -> None:
    held = claim(size, Piece("G0", 40 * GIB), Piece("G1", 40 * GIB))
    assert left_of(held, used) == (None if left is None else Size.parse(left))


def test_what_mps_hides_is_not_taken() -> None:
    assert left_of(claim("1/2", Piece("G0", GIB), isolation="mps"), {"G0": 0}) is None


class Machine:
    """One user's idle kernel, which another waits for, and whose server has fallen silent."""

    def __init__(self, people: People) -> None:
        self.people = people
        self.reclaims = Reclaims(people.store)
        self.since = people.clock() - 30 * MINUTE
        self.used: Mapping[str, int] | None = {}
        self.asked: list[Collection[int]] = []

    async def begin(self, size: str = "1", **others: str) -> None:
        assert await self.people.ask(1, "a", size)
        for name, part in others.items():
            assert await self.people.ask(3, name, part)
        await self.people.store.note(account(1), "a", process=this_process(), info=None)
        assert not await self.people.ask(2, "new", "1/4")
        assert (await self.tell()).wanted == {"a": pytest.approx(WARNED * 60)}

    async def tell(self, *, used: bool = False, size: str | None = None) -> Answer:
        if used:
            self.since = self.people.clock() - 10 * MINUTE
        share = IdleShare(self.since, size=None if size is None else Size.parse(size))
        return await self.reclaims.hear(account(1), this_process(), {} if used else {"a": share})

    async def other(self, name: str) -> set[str]:
        """Another user tells of a kernel that is idle for less long; whether it is asked back."""
        share = IdleShare(self.people.clock() - 9 * MINUTE)
        answer = await self.reclaims.hear(account(3), this_process(), {name: share})
        return set(answer.wanted)

    async def take(self, minutes: float = LATE) -> set[str]:
        """Who holds a share some minutes later."""
        self.people.clock.wait(minutes)
        await self.reclaims.take(self.use)
        return await self.people.holding()

    async def use(self, roots: Collection[int]) -> Mapping[str, int] | None:
        self.asked.append(roots)
        return self.used


async def test_a_share_that_is_not_given_back_is_taken_a_minute_after_its_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_store(tmp_path, Clock()) as people:
        machine = Machine(people)
        await machine.begin()
        number = people.store._events.number
        assert await machine.take(LATE - 0.01) == {"1/a"}
        assert machine.asked == []
        with caplog.at_level(logging.WARNING):
            assert await machine.take(0.01) == {"2/new"}
        assert machine.asked == [{this_process().pid}]
        assert "did not give its share of 1 back in time; nothing is left" in caplog.text
        _, events = await people.store._events.after(number, account(1).uid)
        told = {"kernel_id": "a", "left": "0"}
        assert ("taken", told) in [(each.kind, each.data) for each in events or ()]
        assert (await machine.tell(size="1")).taken == ["a"], "its server's next word is answered"
        assert (await machine.tell()).taken == [], "of one that does not say what it believes"


async def test_what_is_in_use_of_it_stays(tmp_path: Path) -> None:
    async with open_store(tmp_path, Clock()) as people:
        machine = Machine(people)
        await machine.begin()
        machine.used = {"SIM-A100-80GB-0": 20 * GIB}
        assert await machine.take() == {"1/a", "2/new"}
        row = (await people.rows())["1/a"]
        assert (row["size"], row["info"]["path"]) == ("20GiB", "n.ipynb")
        assert (await machine.tell(size="1")).taken == ["a"]
        assert (await machine.tell(size="20GiB")).taken == []


@pytest.mark.parametrize("used", [None, {"SIM-A100-80GB-0": 80 * GIB}])
async def test_what_is_not_known_or_all_in_use_is_not_taken_and_others_are_asked(
    tmp_path: Path, used: Mapping[str, int] | None
) -> None:
    async with open_store(tmp_path, Clock()) as people:
        machine = Machine(people)
        await machine.begin("1/2", b="1/4", c="1/4")
        machine.used = used
        held = {"1/a", "3/b", "3/c"}
        assert await machine.take() == held
        assert (await machine.tell()).wanted.keys() == {"a"}, "nobody else is idle"
        assert await machine.other("b") == {"b"}
        assert (await machine.tell()).wanted == {}, "nothing would come of it"
        await machine.tell(used=True)
        await people.end(3, "b")
        assert await people.holding() == {"1/a", "3/c", "2/new"}
        assert not await people.ask(2, "more", "1/4")
        await machine.tell()
        assert await machine.other("c") == set(), "the first was used since"


async def test_a_share_is_not_taken_that_is_used_again_or_that_nobody_needs(tmp_path: Path) -> None:
    async with open_store(tmp_path, Clock()) as people:
        machine = Machine(people)
        await machine.begin()
        await machine.tell(used=True)
        assert await machine.take() == {"1/a"}
        await machine.tell()
        await people.end(2, "new")
        assert await machine.take() == {"1/a"}
        assert machine.asked == []


async def test_what_is_told_while_the_gpu_is_asked_counts(tmp_path: Path) -> None:
    async with open_store(tmp_path, Clock()) as people:
        machine = Machine(people)
        await machine.begin()

        async def use(roots: Collection[int]) -> Mapping[str, int]:
            await machine.tell(used=True)
            return {}

        people.clock.wait(LATE)
        await machine.reclaims.take(use)
        assert await people.holding() == {"1/a"}


@pytest.mark.parametrize("process", [None, Holder(2**30, "1")])
async def test_of_a_kernel_whose_process_is_not_there_nothing_is_known(
    tmp_path: Path, process: Holder | None
) -> None:
    """Its number may be another's at any time."""
    async with open_store(tmp_path, Clock()) as people:
        machine = Machine(people)
        assert await people.ask(1, "a", "1")
        await people.store.note(account(1), "a", process=process, info=None)
        assert not await people.ask(2, "new", "1/4")
        await machine.tell()
        assert await machine.take() == {"1/a"}
        assert machine.asked == []


async def test_a_broker_that_was_away_takes_what_its_last_one_was_promised(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        await Machine(people).begin()
    async with open_store(tmp_path, clock) as people:
        assert await Machine(people).take() == {"2/new"}


async def test_a_share_that_has_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    async with open_store(tmp_path, Clock()) as people:
        machine = Machine(people)
        await machine.begin()
        before = people.store.held("70001/a")
        assert before is not None
        assert await people.store.change(account(1), "a", Size.parse("3/4"), None, dry=False)
        assert not await people.store.take(before, Size(count=0))
        await people.end(1, "a")
        assert not await people.store.take(before, Size(count=0))
