"""Who is next of all users, and whose idle shares go. With simulated time only."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moments import MINUTE, START
from simulated_line import Floor, SimulatedLine, at, claim

from jupyter_gpu_share.broker.claim import Claim
from jupyter_gpu_share.broker.limits import Limits, Use
from jupyter_gpu_share.broker.order import PATIENCE, Turn, asked_back, gpus_by_user, line, serve
from jupyter_gpu_share.broker.standing import HALF_LIFE, Standing
from jupyter_gpu_share.engines.base import Waiter
from jupyter_gpu_share.idle import IdlePolicy
from jupyter_gpu_share.idle.replay import Gpus
from jupyter_gpu_share.size import Size


def held(user: str, kernel: str, size: str = "1/4", idle: float | None = None) -> Claim:
    since = None if idle is None else at(idle)
    return claim(user, kernel, size, held_since=at(-600), idle_since=since)


def nothing(user: str) -> float:
    return 0.0


def order(waiting: Sequence[Claim], have: Sequence[Claim] = (), minute: float = 0) -> list[str]:
    return [turn.claim.kernel_id for turn in line(waiting, gpus_by_user(have), nothing, at(minute))]


# -- the line --------------------------------------------------------------------------------------


def test_of_those_passed_at_one_moment_who_came_first_is_first() -> None:
    """A kernel's id is its client's choice."""
    early = claim("bob", "z", "1", minute=-30, passed_since=at(-20))
    late = claim("ann", "a", "1", minute=-25, passed_since=at(-20))
    assert order([late, early]) == ["z", "a"]


def test_who_has_least_comes_first() -> None:
    waiting = [
        claim("ann", "a", minute=0),
        claim("bob", "b", minute=1),
        claim("eve", "e", minute=2),
    ]
    assert order(waiting) == ["a", "b", "e"]
    assert order(waiting, [held("ann", "x", "1/2"), held("bob", "y", "1/4")]) == ["e", "b", "a"]


def test_what_was_held_of_late_counts_and_fades() -> None:
    standing = Standing()
    standing.change("ann", 2.0, at(0))
    standing.change("ann", -2.0, at(0) + HALF_LIFE)
    assert standing.mean("ann", at(0) + HALF_LIFE) == pytest.approx(1.0)
    assert standing.mean("ann", at(0) + 2 * HALF_LIFE) == pytest.approx(0.5)
    assert standing.mean("ann", at(0) - HALF_LIFE) == pytest.approx(1.0), "a clock that goes back"
    now = at(0) + HALF_LIFE
    waiting = [claim("ann", "a", minute=0), claim("bob", "b", minute=1)]
    turns = line(waiting, {}, lambda user: standing.mean(user, now), now)
    assert [turn.claim.kernel_id for turn in turns] == ["b", "a"]


def test_a_standing_is_the_same_after_a_restart() -> None:
    standing, used = Standing(), []
    chance = random.Random(3)
    for number in range(30):
        begin = chance.randint(0, 3000)
        end = begin + chance.randint(1, 900) if number % 3 else None
        part = Fraction(chance.randint(1, 8), 8)
        used.append(Use("ann", frozenset(), part, at(begin), None if end is None else at(end)))
    moments = [(use.begin, float(use.gpus)) for use in used]
    moments += [(use.end, -float(use.gpus)) for use in used if use.end is not None]
    for moment, gpus in sorted(moments):
        standing.change("ann", gpus, moment)
    other = Standing.of(used, at(5000))
    for minute in (5000, 6000):
        assert other.mean("ann", at(minute)) == pytest.approx(standing.mean("ann", at(minute)))
    with pytest.raises(ValueError, match="half-life"):
        Standing(timedelta(0))


def test_one_who_asks_for_many_is_no_further_ahead() -> None:
    many = [claim("ann", f"a{n}", minute=0) for n in range(4)]
    others = [claim("bob", "b0", minute=1), claim("bob", "b1", minute=1)]
    assert order([*many, *others]) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_claims_of_one_user_keep_their_order() -> None:
    mine = [claim("ann", "late", "1/8", minute=5), claim("ann", "early", "1", minute=1)]
    assert order(mine) == ["early", "late"]


# -- served ----------------------------------------------------------------------------------------


def test_small_ones_pass_a_large_one_for_its_patience() -> None:
    gpus = Gpus(2)
    assert gpus.take(Size.parse("1/2"))
    assert gpus.take(Size.parse("3/4"))
    large, small = claim("ann", "large", "2x1"), claim("bob", "small", "1/4", minute=1)
    turns = line([large, small], {}, nothing, at(1))
    found = serve(turns, [], Floor(gpus.copy()))
    assert [each.kernel_id for each in found.granted] == ["small"]
    assert found.passed == {"large"}
    passed = replace(large, passed_since=at(1))
    early = line([passed, small], {}, nothing, at(1) + PATIENCE - MINUTE)
    assert not any(turn.overdue for turn in early)
    late = line([passed, small], {}, nothing, at(1) + PATIENCE)
    assert late[0] == Turn(passed, overdue=True)
    assert serve(late, [], Floor(gpus.copy())).granted == (), "room is held on both"


def test_one_that_was_passed_for_long_comes_before_those_who_have_less() -> None:
    large = claim("ann", "large", "2x1", passed_since=at(0))
    turns = line([large, claim("bob", "b")], gpus_by_user([held("ann", "x", "1")]), nothing, at(30))
    assert [turn.claim.kernel_id for turn in turns] == ["large", "b"]
    two = [large, claim("ann", "second", "2x1", passed_since=at(1))]
    assert [turn.overdue for turn in line(two, {}, nothing, at(60))] == [True, False]


def test_nobody_is_passed_by_who_needs_no_gpu_or_because_of_a_limit() -> None:
    limits = Limits([{"resource": "gpus", "limit": 1, "scope": {"user": ["*"]}}])
    waiting = [claim("ann", "over", "2x1"), claim("bob", "none", "0", 1), claim("eve", "e", "1", 2)]

    def allowed(asked: Claim, have: Sequence[Claim]) -> bool:
        return limits.check(asked, have, (), at(0)) is None

    found = serve(line(waiting, {}, nothing, at(2)), [], Floor(Gpus(1)), allowed)
    assert [each.kernel_id for each in found.granted] == ["none", "e"]
    assert (found.passed, found.limited) == (frozenset(), {"over"})
    waiting = [claim("eve", "e", "1", 2), claim("bob", "none", "0", 3)]
    full = serve(line(waiting, {}, nothing, at(3)), [], Floor(Gpus(0)), allowed)
    assert [each.kernel_id for each in full.granted] == ["none"]
    assert full.passed == frozenset()


def test_limits_see_what_was_granted_a_moment_ago() -> None:
    limits = Limits([{"resource": "gpus", "limit": "1/2", "scope": {"user": ["*"]}}])
    waiting = [claim("ann", f"a{n}") for n in range(4)]
    found = serve(
        line(waiting, {}, nothing, at(0)),
        [],
        Floor(Gpus(1)),
        lambda asked, have: limits.check(asked, have, (), at(0)) is None,
    )
    assert [each.kernel_id for each in found.granted] == ["a0", "a1"]
    assert found.limited == {"a2", "a3"}


class Served(SimulatedLine):
    """A broker serves them."""

    def serve(self) -> None:
        floor = Floor(self.gpus.copy())
        found = serve(self.turns(), self.held.values(), floor)
        for asked in found.granted:
            places = floor.places[asked.kernel_id]
            self.gpus.use(asked.size, places)
            self.give(asked, places)
        for name in found.passed:
            self.mark_passed(name)


@pytest.mark.parametrize("seed", range(5))
def test_ten_users_with_five_against_one_with_fifty(seed: int) -> None:
    chance = random.Random(seed)
    run = Served(Gpus(2))
    for number in range(50):
        run.ask(0, claim("ann", f"ann{number}", "1/2"), chance.uniform(20, 60))
    for user in range(10):
        for number in range(5):
            asked = claim(f"u{user}", f"u{user}-{number}", "1/2", minute=1)
            run.ask(1, asked, chance.uniform(20, 60))
    run.run()
    assert len(run.started) == 100
    firsts = [run.start_of(f"u{user}-0") for user in range(10)]
    last = max(when for when in firsts if when is not None)
    of_ann = [when for when, each in run.started if each.user == "ann" and 1 < when <= last]
    assert len(of_ann) <= 1, "nobody's first waits for more than one of hers"
    # While others wait she gets no more than her part, one of eleven.
    until = max(when for when, each in run.started if each.user != "ann")
    hers = sum(1 for when, each in run.started if each.user == "ann" and 1 < when < until)
    assert hers <= 8


def test_a_large_one_is_not_starved_by_a_stream_of_small_ones() -> None:
    chance = random.Random(1)
    run = Served(Gpus(2))
    for number in range(2000):
        asked = claim(f"u{number % 40}", f"s{number}", "1/4", minute=number)
        run.ask(number, asked, chance.uniform(5, 12))
    run.ask(100, claim("ann", "large", "2x1", minute=100), 30)
    run.run(1000)
    start = run.start_of("large")
    assert start is not None
    # Passed at once, by a minute's guest; then its patience; then the longest of those that run.
    assert start - 100 <= 2 + PATIENCE / MINUTE + 12


# -- asked back ------------------------------------------------------------------------------------


@dataclass
class Machine:
    """One GPU; who waits gets in by the parts that are freed of it."""

    free: Fraction
    sizes: dict[str, Fraction]
    wants: Sequence[str]

    @property
    def waiting(self) -> Sequence[Waiter]:
        return [Waiter(None, Size.parse(text)) for text in self.wants]

    def served(self, freed: Collection[str]) -> frozenset[int]:
        room = self.free + sum(
            (self.sizes.get(kernel, Fraction(0)) for kernel in set(freed)), Fraction(0)
        )
        found = set()
        for number, text in enumerate(self.wants):
            if Fraction(text) <= room:
                room -= Fraction(text)
                found.add(number)
        return frozenset(found)


def back(
    have: Sequence[Claim],
    wants: Sequence[str],
    minute: float = 0,
    *,
    policy: IdlePolicy | None = None,
    **more: Any,
) -> dict[str, float]:
    machine = Machine(Fraction(0), {each.kernel_id: each.gpus for each in have}, wants)
    more.setdefault("asked", {})
    found = asked_back(machine, have, policy or IdlePolicy(), at(minute), **more)
    return {kernel: (when - START) / MINUTE for kernel, when in found.items()}


def test_the_least_recently_used_of_all_users_go_in_sets_that_suffice() -> None:
    have = [
        held("ann", "a", "1/2", -30),
        held("bob", "b", "1/2", -20),
        held("eve", "e", "1/2", -40),
    ]
    assert set(back(have, ["1/2"])) == {"e"}
    assert set(back(have, ["1"])) == {"a", "e"}
    assert back([have[0], held("bob", "b", "1/2")], ["1"]) == {}, "not even all would do"


def test_a_share_is_taken_when_its_warning_is_over() -> None:
    have = [held("ann", "a", "1/2", -30)]
    assert back(have, ["1/2"]) == {"a": 2.0}
    assert back(have, ["1/2"], 1, asked={"a": at(0)}) == {"a": 2.0}
    assert back(have, ["1/2"], 5, asked={"a": at(0)}) == {"a": 5.0}, "not in the past"


def test_what_is_used_kept_or_not_needed_any_more_stays() -> None:
    asked = {"a": at(0)}
    assert back([held("ann", "a", "1/2")], ["1/2"], 1, asked=asked) == {}
    idle = held("ann", "a", "1/2", -30)
    assert back([idle], [], 1, asked=asked) == {}
    assert back([replace(idle, keep_until=at(60))], ["1/2"], 1, asked=asked) == {}
    assert back([replace(idle, keep_until=at(60))], ["1/2"], 61, asked=asked) == {"a": 61.0}
    assert back([replace(idle, kept=False)], ["1/2"], 1, asked=asked) == {}
    assert back([replace(idle, held_since=None)], ["1/2"], 1, asked=asked) == {}
    assert back([held("ann", "a", "1/2", -4)], ["1/2"]) == {}, "idle for less than demand_after"


def test_who_was_asked_goes_before_who_has_become_idle_longer() -> None:
    have = [held("ann", "a", "1/2", -30), held("bob", "b", "1/2", -60)]
    assert set(back(have, ["1/2"], 1, asked={"a": at(0)})) == {"a"}


def test_those_whose_hours_are_used_up_go_first() -> None:
    have = [held("ann", "a", "1/2", -10), held("bob", "b", "1/2", -60)]
    assert set(back(have, ["1/2"], spent=frozenset({"a"}))) == {"a"}


def test_the_administrators_rules_win() -> None:
    have = [held("ann", "a", "1/2", -60), held("bob", "b", "1/2", -30)]
    policy = IdlePolicy(groups={"ann": "staff"}, rules=[{"group": "staff", "rule": "never"}])
    assert set(back(have, ["1/2"], policy=policy)) == {"b"}
    policy = IdlePolicy(rules=[{"size": "1/2", "warn_before": 600}])
    assert back(have, ["1/2"], policy=policy) == {"a": 10.0}
    assert back(have, ["1/2"], policy=IdlePolicy(rule="never")) == {}
    # The adaptive rule would have it go at once; who was promised two minutes has them.
    assert back(have, ["1/2"], policy=IdlePolicy(aim=0.5)) == {"a": 2.0}


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["1/4", "1/2", "1"])), max_size=9)
)
def test_everybody_is_in_line_once(asks: list[tuple[str, str]]) -> None:
    waiting = [claim(user, f"{user}{n}", size, n) for n, (user, size) in enumerate(asks)]
    turns = line(waiting, {}, nothing, at(60))
    assert sorted(turn.claim.kernel_id for turn in turns) == sorted(c.kernel_id for c in waiting)
    gpus = Gpus(2)
    found = serve(turns, [], Floor(gpus))
    assert sum(each.gpus for each in found.granted) <= 2
    assert found.passed.isdisjoint(each.kernel_id for each in found.granted)
