"""Which of those who wait the scheduler sees, and when. With simulated time."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import simulated_line
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import MINUTE, Clock
from ruled import FakeKernels, FakeSight, hold, key, ruled, wish
from simulated_line import Floor, SimulatedLine
from waiting import eventually

from jupyter_gpu_share.broker.claim import Claim
from jupyter_gpu_share.broker.cluster import home
from jupyter_gpu_share.broker.cluster.reclaims import Reclaims
from jupyter_gpu_share.broker.cluster.rules import Rules, Settings
from jupyter_gpu_share.broker.cluster.turns import NoRoom, turns
from jupyter_gpu_share.broker.order import PATIENCE, Turn
from jupyter_gpu_share.engines.base import Waiting
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.idle.replay import Gpus
from jupyter_gpu_share.size import Size


def claim(user: str, kernel: str, size: str = "1/2", minute: float = 0) -> Claim:
    return simulated_line.claim(user, kernel, size, minute)


def in_line(*claims: Claim, overdue: str = "") -> list[Turn]:
    return [Turn(each, overdue=each.kernel_id == overdue) for each in claims]


# -- pure ----------------------------------------------------------------------------------------


def test_those_for_whom_there_is_room_go_in_their_order() -> None:
    waiting = in_line(*(claim("ann", f"a{n}") for n in range(5)))
    found = turns(waiting, (), Floor(Gpus(1)))
    assert found.let == ("a0", "a1"), "a third one might be placed before them"
    assert found.passed == frozenset()
    found = turns(in_line(*(claim("ann", f"a{n}") for n in range(1, 5))), {"a1"}, Floor(Gpus(1)))
    assert found.let == ("a2",)
    waiting = in_line(claim("ann", "a0"), claim("ann", "a1"), claim("bob", "b"), claim("bob", "c"))
    assert turns(waiting, (), Floor(Gpus(1))).let == ("a0", "a1", "b"), "one is to be heard of"
    assert turns(waiting[2:], {"b"}, NoRoom()).let == ()


def test_what_the_scheduler_sees_has_room_before_everybody_else() -> None:
    waiting = in_line(claim("bob", "b"), claim("ann", "a0"), claim("ann", "a1"))
    found = turns(waiting, {"a0", "a1"}, Floor(Gpus(1)))
    assert found.let == ("b",), "it has none, but no other one of its size is without"
    assert found.passed == {"b"}
    found = turns(in_line(claim("bob", "b"), claim("ann", "a0")), {"a0"}, Floor(Gpus(1)))
    assert found.let == ("b",)


def test_one_of_each_size_without_room_is_seen_and_one_of_a_user() -> None:
    waiting = [
        claim("ann", "a-half"),
        claim("ann", "a-whole", "1"),
        claim("bob", "b-half"),
        claim("bob", "b-whole", "1"),
        claim("bob", "b-two", "2x1"),
        claim("eve", "e-two", "2x1"),
    ]
    assert turns(in_line(*waiting), (), NoRoom()).let == ("a-half", "b-whole", "e-two")
    alone = in_line(*waiting[:2], claim("ann", "again"))
    assert turns(alone, (), NoRoom()).let == ("a-half", "a-whole")


def test_room_is_held_for_one_that_was_passed_for_long() -> None:
    gpus = Gpus(2)
    assert gpus.take(Size.parse("1/2"))
    large, small = claim("ann", "large", "2x1"), claim("bob", "small", "1/4")
    early = turns(in_line(large, small), (), Floor(gpus.copy()))
    assert early.let == ("small", "large")
    assert early.passed == {"large"}
    for seen in ((), {"large"}):
        late = turns(in_line(large, small, overdue="large"), seen, Floor(gpus.copy()))
        assert "small" not in late.let, "the scheduler would give it what is held"
    assert turns(in_line(large, small, overdue="large"), (), NoRoom()).let == ("large",)


def test_of_several_that_were_passed_for_long_the_first_alone_is_seen_without_room() -> None:
    large, small = claim("ann", "large", "2x1"), claim("bob", "small", "1/4")
    both = [Turn(large, overdue=True), Turn(small, overdue=True), Turn(claim("eve", "e"))]
    assert turns(both, (), NoRoom()).let == ("large",)
    assert turns(both, {"large"}, NoRoom()).let == ()
    assert turns(both, {"large"}, Floor(Gpus(2))).let == (), "it may still be on its way there"
    assert turns(both[::-1][1:], (), Floor(Gpus(1))).let == ("small",)


def test_one_that_needs_no_gpu_passes_nobody() -> None:
    found = turns(in_line(claim("ann", "a"), claim("bob", "none", "0")), (), NoRoom())
    assert set(found.let) == {"a", "none"}
    assert found.passed == frozenset()


SIZES = st.sampled_from(["1/4", "1/2", "1", "2x1", "4x1"])


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), SIZES, st.booleans()), max_size=12),
    st.integers(0, 3),
    st.booleans(),
)
def test_whoever_waits_is_never_all_kept_back(
    rows: list[tuple[str, str, bool]], count: int, late: bool
) -> None:
    claims = [claim(user, f"{n}", size) for n, (user, size, _) in enumerate(rows)]
    seen = {f"{n}" for n, row in enumerate(rows) if row[2]}
    found = turns(in_line(*claims, overdue="0" if late else ""), seen, Floor(Gpus(count)))
    assert not set(found.let) & seen
    assert len(set(found.let)) == len(found.let)
    if claims:
        assert seen or found.let
    # What was let and has room takes no more than there is.
    floor = Floor(Gpus(count))
    for each in sorted(claims, key=lambda each: each.kernel_id not in seen):
        if each.kernel_id in seen:
            floor.take(each)
    fit = [each for each in claims if each.kernel_id in found.let and floor.take(each)]
    without = [each for each in claims if each.kernel_id in found.let and each not in fit]
    overdue = 1 if late else 0
    assert len(without) <= len({each.size for each in claims}) + overdue


# -- with a scheduler that knows no users ---------------------------------------------------------


@dataclass
class Scheduled(SimulatedLine):
    """A scheduler places those that the broker lets it see."""

    chance: random.Random = field(kw_only=True)
    seen: set[str] = field(default_factory=set)

    def serve(self) -> None:
        # Either may be faster: the scheduler with what it sees, or the broker.
        if self.chance.random() < 0.5:
            self.schedule()
        self.decide()
        self.schedule()
        self.decide()

    def decide(self) -> None:
        found = turns(self.turns(), self.seen, Floor(self.gpus.copy()))
        for name in found.passed:
            self.mark_passed(name)
        self.seen.update(found.let)

    def schedule(self) -> None:
        """Place whom it sees, in whatever order it likes."""
        order = sorted(self.seen)
        self.chance.shuffle(order)
        for name in order:
            asked = self.waiting[name]
            places = self.gpus.take(asked.size)
            if places is None:
                continue
            for turn in self.turns():
                if turn.claim.kernel_id == name:
                    break
                self.mark_passed(turn.claim.kernel_id)
            self.seen.discard(name)
            self.give(asked, places)


@pytest.mark.parametrize("seed", range(6))
def test_nobodys_first_waits_for_more_than_one_of_a_user_who_has_fifty(seed: int) -> None:
    chance = random.Random(seed)
    run = Scheduled(Gpus(2), chance=chance)
    for number in range(50):
        run.ask(0, claim("ann", f"ann{number}"), chance.uniform(20, 60))
    for user in range(10):
        for number in range(5):
            asked = claim(f"u{user}", f"u{user}-{number}", minute=1)
            run.ask(1, asked, chance.uniform(20, 60))
    run.run()
    assert len(run.started) == 100, "everybody is served in the end"
    firsts = [
        min(when for when, each in run.started if each.user == f"u{user}") for user in range(10)
    ]
    for first in firsts:
        assert sum(1 for when, each in run.started if each.user == "ann" and 1 < when < first) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_a_large_one_is_not_starved_by_a_stream_of_small_ones(seed: int) -> None:
    chance = random.Random(seed)
    run = Scheduled(Gpus(2), chance=chance)
    for number in range(300):
        asked = claim(f"u{number % 40}", f"s{number}", "1/4", minute=number)
        run.ask(number, asked, chance.uniform(5, 12))
    run.ask(100, claim("zoe", "large", "2x1", minute=100), 30)
    run.run(250)
    start = run.start_of("large")
    assert start is not None
    # Passed in some minutes; then its patience; then the longest of those that run, and of the one
    # without room that the scheduler saw before that.
    assert start - 100 <= 5 + PATIENCE / MINUTE + 2 * 12


# -- awaited by starts -----------------------------------------------------------------------------


async def test_one_goes_at_once_and_others_at_their_turn(tmp_path: Path) -> None:
    clock = Clock()
    async with ruled(tmp_path, clock) as (rules, sight):
        hold(rules, wish("ann", "held", "3/4"))
        asked = wish("ann", "first", "1/2")
        assert rules.reserve(asked) is None
        await asyncio.wait_for(rules.admitted(asked.key), 5)
        assert sight.looks == 0, "nobody else waits: nothing has to be known"
        later = [wish("ann", f"k{n}", "1/2") for n in range(3)]
        small = wish("bob", "small", "1/4")
        for each in [*later, small]:
            assert rules.reserve(each) is None
        tasks = {
            each.key.kernel_id: asyncio.create_task(rules.admitted(each.key))
            for each in [*later, small]
        }
        try:
            await rules.turns.decide()
            await asyncio.wait_for(tasks["small"], 5)
            assert [name for name, task in tasks.items() if task.done()] == ["small"]
            rules.holds(small.key)
            rules.drop(key("ann", "held"))
            rules.holds(asked.key)
            await rules.turns.decide()
            await asyncio.wait_for(tasks["k0"], 5)
            assert [name for name, task in tasks.items() if task.done()] == ["k0", "small"]
            rules.drop(key("ann", "k1"))
            with pytest.raises(EngineError, match="ended while it waited"):
                await asyncio.wait_for(tasks["k1"], 5)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)


async def test_turns_come_by_themselves_and_where_the_cluster_is_away_one_is_seen(
    tmp_path: Path,
) -> None:
    async with ruled(tmp_path, Clock()) as (rules, sight):
        following = asyncio.create_task(rules.turns.follow())
        try:
            hold(rules, wish("ann", "held", "1"))
            sight.away = True
            wishes = [wish(f"u{n}", "k", "1/2") for n in range(3)]
            for each in wishes:
                assert rules.reserve(each) is None
            waits = [asyncio.create_task(rules.admitted(each.key)) for each in wishes]
            await eventually(lambda: any(task.done() for task in waits), "one is seen")
            assert sum(task.done() for task in waits) == 1
            sight.away = False
            rules.drop(key("ann", "held"))
            await eventually(lambda: sum(task.done() for task in waits) >= 2, "room for two")
        finally:
            following.cancel()
            for task in waits:
                task.cancel()
            await asyncio.gather(following, *waits, return_exceptions=True)


@pytest.mark.parametrize("steps", range(5))
async def test_what_follows_ends_when_it_is_told_to_whatever_happens_then(
    tmp_path: Path, steps: int
) -> None:
    """Else the account was not saved at the end: the broker waits only so long for it."""
    async with ruled(tmp_path, Clock()) as (rules, _):
        reclaims = Reclaims(rules, FakeKernels(rules))
        assert rules.reserve(wish("ann", "a", "2x1")) is None
        rules.turns._wake.clear()
        tasks = [asyncio.create_task(each.follow()) for each in (rules.turns, reclaims)]
        for _ in range(3):
            await asyncio.sleep(0)
        rules.turns.changed()
        rules.changed()
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        _, left = await asyncio.wait(tasks, timeout=5)
        for task in left:
            task.cancel()
        assert not left


async def test_another_start_of_another_size_waits_like_all_others(tmp_path: Path) -> None:
    async with ruled(tmp_path, Clock()) as (rules, _):
        hold(rules, wish("mallory", "m", "1/8"))
        hold(rules, wish("bob", "b", "7/8"))
        assert rules.reserve(wish("ann", "a", "1")) is None
        assert rules.reserve(wish("mallory", "m", "1"), anew=True) is None
        admitted = asyncio.create_task(rules.admitted(key("mallory", "m")))
        await rules.turns.decide()
        assert [turn.claim.user for turn in rules.turns.in_line()] == ["ann", "mallory"]
        assert not admitted.done() and not rules.turns.sees(key("mallory", "m").text)
        admitted.cancel()
        assert rules.holdings.held("gpus", ("user", "mallory"), "") == 1
        hold(rules, wish("ann", "same", "1/8"))
        assert rules.reserve(wish("ann", "same", "1/8"), anew=True) is None
        assert len(rules.turns.in_line()) == 2, "what it has it need not wait for"


async def test_where_others_order_nobody_is_kept_back(tmp_path: Path) -> None:
    async with ruled(tmp_path, Clock(), ordered=True) as (rules, sight):
        for number in range(20):
            asked = wish("ann", f"k{number}", "1")
            assert rules.reserve(asked) is None
            await asyncio.wait_for(rules.admitted(asked.key), 5)
        assert sight.looks == 0


async def test_whom_an_earlier_broker_kept_back_is_kept_back(tmp_path: Path) -> None:
    rules = Rules(Settings(tmp_path), FakeSight(0), Clock())
    await rules.open()
    for name in ("seen", "hidden", "gone"):
        rules.reserve(wish("ann", name))
    rules.kept_back(key("ann", "hidden"))
    rules.begin()
    await asyncio.wait_for(rules.admitted(key("ann", "seen")), 5)
    waits = asyncio.create_task(rules.admitted(key("ann", "hidden")))
    await asyncio.sleep(0)
    assert not waits.done()
    rules.drop(key("ann", "hidden"))
    with pytest.raises(EngineError):
        await asyncio.wait_for(waits, 5)


async def test_who_is_placed_has_passed_those_before_them(tmp_path: Path) -> None:
    """Though no decision has seen that there was room."""
    clock = Clock()
    async with ruled(tmp_path, clock, count=2) as (rules, _):
        hold(rules, wish("ann", "held", "2x1"))
        large, small = wish("eve", "large", "2x1"), wish("ann", "small", "1/4")
        for each in (large, small):
            assert rules.reserve(each) is None
        await rules.turns.decide()
        assert rules.turns.sees(large.key.text)
        assert rules.turns.sees(small.key.text)
        rules.holds(small.key)
        clock.wait(PATIENCE / MINUTE)
        assert rules.turns.in_line()[0].overdue


async def test_who_has_waited_before_has_the_place_of_then(tmp_path: Path) -> None:
    """As a start that an earlier broker could not finish; nobody has waited since tomorrow."""
    clock = Clock()
    async with ruled(tmp_path, clock, count=1) as (rules, _):
        hold(rules, wish("zoe", "held", "1"))
        now = clock()
        asked = {"last": now + 2 * MINUTE, "second": None, "first": now - MINUTE}
        for name, since in asked.items():
            assert rules.reserve(replace(wish("ann", name, "1"), asked_at=since)) is None
        await rules.turns.decide()
        order = [turn.claim.name for turn in rules.turns.in_line()]
        assert order[0] == "first" and set(order) == set(asked)


async def test_the_line_is_made_once_for_all_who_ask_in_a_second(tmp_path: Path) -> None:
    """With a thousand kernels that wait each start would sort all of them."""
    clock = Clock()
    async with ruled(tmp_path, clock, count=1) as (rules, _):
        wishes = [wish(f"user-{n % 10}", f"k{n}", "1") for n in range(50)]
        for each in wishes:
            assert rules.reserve(each) is None
        made = 0
        in_line = rules.turns.in_line

        def counted() -> list[Turn]:
            nonlocal made
            made += 1
            return in_line()

        rules.turns.in_line = counted  # type: ignore[method-assign]
        places = [rules.turns.place(each.key.text) for each in wishes]
        assert {place[1] for place in places if place} == {50}
        assert sorted(place[0] for place in places if place) == list(range(1, 51))
        for each in wishes[:25]:
            rules.holds(each.key)
        assert made == 1
        clock.wait(1)
        assert rules.turns.place(wishes[0].key.text) is None
        place = rules.turns.place(wishes[-1].key.text)
        assert place is not None and place[1] == 25
        assert made == 2


async def test_who_asked_last_is_in_the_line_at_once(tmp_path: Path) -> None:
    async with ruled(tmp_path, Clock(), count=1) as (rules, _):
        for name in ("first", "second"):
            one = wish("ann", name, "1")
            assert rules.reserve(one) is None
            assert rules.turns.place(one.key.text) is not None
        assert rules.turns.place(one.key.text) == (2, 2)


async def test_who_waits_for_a_turn_is_told_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "_TOLD_FIRST", 0.01)
    monkeypatch.setattr(home, "_TOLD_AGAIN", 0.01)
    clock = Clock()
    async with ruled(tmp_path, clock, count=1) as (rules, _):
        order = home._Order(rules)
        first, second = wish("ann", "first", "1"), wish("bob", "second", "1")
        for each in (first, second):
            assert rules.reserve(each) is None
        told: list[Waiting] = []
        waits = asyncio.create_task(order.wait(second.key, told.append))  # type: ignore[arg-type]
        await eventually(lambda: told, "the place is told")
        assert (told[0].queue.position, told[0].queue.of) == (2, 2)
        rules.drop(first.key)
        await rules.turns.decide()
        await asyncio.wait_for(waits, 5)
        order_of_one = len(told)
        await asyncio.wait_for(order.wait(second.key, told.append), 5)  # type: ignore[arg-type]
        assert len(told) == order_of_one, "its turn has come"
