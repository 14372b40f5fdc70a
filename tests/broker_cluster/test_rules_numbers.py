"""What one process asked for keeps its order, whenever it arrives; nobody else's is another one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from fake_objects import KEY
from homes import FakeHome, User, held
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import MINUTE, START, Clock
from ruled import FakeSight, key, wish
from waiting import eventually

from jupyter_gpu_share.broker.claim import Claim
from jupyter_gpu_share.broker.cluster.owners import found_on, number_of, owner_of
from jupyter_gpu_share.broker.cluster.presence import Process
from jupyter_gpu_share.broker.cluster.rules import Rules, Settings
from jupyter_gpu_share.broker.cluster.ruling import Key, Wish
from jupyter_gpu_share.broker.cluster.turns import SETTLES
from jupyter_gpu_share.broker.order import line
from jupyter_gpu_share.engines.kubernetes._objects import KernelPlan, Keys
from jupyter_gpu_share.engines.kubernetes._pods import Labels
from jupyter_gpu_share.size import Size

SHARE = Size.parse("1/4")
#: User, process, number, seconds, minutes for which others have passed it.
ROWS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from("xy"),
        st.one_of(st.none(), st.integers(0, 20)),
        st.integers(0, 5),
        st.one_of(st.none(), st.integers(0, 20)),
    ),
    max_size=14,
)


def order(claims: list[Claim]) -> list[Claim]:
    held = {"a": 0.5, "b": 0.0}
    return [turn.claim for turn in line(claims, held, lambda user: 0.0, START + MINUTE)]


@settings(max_examples=300)
@given(ROWS, st.integers(0, 20), st.integers(0, 100))
def test_a_number_orders_what_its_process_has_and_moves_nobody_else(
    rows: list[tuple[str, str, int | None, int, int | None]], lie: int, which: int
) -> None:
    claims = [
        Claim(
            user,
            f"{place}",
            SHARE,
            Fraction(1, 4),
            0,
            START + timedelta(seconds=second),
            process=process,
            number=number,
        )
        for place, (user, process, number, second, _) in enumerate(rows)
    ]
    found = order(claims)
    for own in {(each.user, each.process) for each in claims}:
        numbers = [each.number for each in found if (each.user, each.process) == own]
        told = [number for number in numbers if number is not None]
        assert told == sorted(told)
    # Whatever somebody tells, all others stand where they stood; those passed for long, too.
    claims = [
        replace(each, passed_since=None if row[4] is None else START - row[4] * MINUTE)
        for each, row in zip(claims, rows, strict=True)
    ]
    if claims:
        liar = claims[which % len(claims)].user
        lied = [replace(c, number=(c.number or 0) ^ lie) if c.user == liar else c for c in claims]
        before, after = order(claims), order(lied)
        assert [c.user for c in before] == [c.user for c in after]
        others = [(n, c.kernel_id) for n, c in enumerate(before) if c.user != liar]
        assert others == [(n, c.kernel_id) for n, c in enumerate(after) if c.user != liar]


async def test_who_asks_again_after_a_restart_has_the_place_of_then(tmp_path: Path) -> None:
    """Those that are on pods are known at once; of the others their servers tell in any order."""
    clock = Clock()
    rules = Rules(Settings(tmp_path), FakeSight(1), clock)
    await rules.open()
    assert isinstance(rules.sight, FakeSight)
    rules.sight.rules = rules

    def asked(number: int, since: float | None = None) -> Wish:
        at = None if since is None else clock() - since * MINUTE
        return replace(wish("ann", f"k{number}", "1"), asked_at=at, process="p", number=number)

    for each in (asked(3, 1.0), asked(1, 3.0)):
        rules.reserve(each)
        rules.kept_back(each.key)
    rules.begin()
    await rules.turns.decide()
    assert not rules.turns.sees(key("ann", "k3").text), "others may be about to ask again"
    rules.drop(key("ann", "k1"))
    assert rules.reserve(asked(4)) is None
    assert rules.reserve(asked(2)) is None
    await rules.turns.decide()
    assert not any(rules.turns.sees(key("ann", f"k{n}").text) for n in (2, 3, 4))
    clock.now += SETTLES
    await rules.turns.decide()
    assert [turn.claim.name for turn in rules.turns.in_line()] == ["k2", "k3", "k4"]
    assert rules.turns.sees(key("ann", "k2").text)
    assert not rules.turns.sees(key("ann", "k3").text)


@pytest.mark.parametrize("then", [SETTLES, -60 * MINUTE])
async def test_the_only_one_that_waits_after_a_restart_may_be_followed_by_an_earlier_one(
    tmp_path: Path, then: timedelta
) -> None:
    """A clock that is set back holds nobody up."""
    clock = Clock()
    rules = Rules(Settings(tmp_path), FakeSight(1), clock)
    await rules.open()
    assert isinstance(rules.sight, FakeSight)
    rules.sight.rules = rules
    rules.reserve(wish("ann", "k"))
    rules.kept_back(key("ann", "k"))
    rules.begin()
    waits = asyncio.create_task(rules.admitted(key("ann", "k")))
    try:
        await asyncio.sleep(0)
        assert not waits.done()
        clock.now += then
        await rules.turns.decide()
        await asyncio.wait_for(waits, 5)
    finally:
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)


async def test_a_broker_that_found_nobody_waiting_lets_the_first_at_once(tmp_path: Path) -> None:
    rules = Rules(Settings(tmp_path), FakeSight(1), Clock())
    await rules.open()
    rules.reserve(wish("ann", "seen"))
    rules.begin()
    rules.holds(key("ann", "seen"))
    assert rules.reserve(wish("ann", "k")) is None
    await asyncio.wait_for(rules.admitted(key("ann", "k")), 5)


def test_the_number_is_on_the_pod() -> None:
    ann = Process("ann", "lab", "a" * 32)
    for number in (None, 0, 7, 10**15 - 1):
        owner = owner_of(ann, "b" * 32, frozenset(), START, number)
        words = {"size": "1/4", "kernel_name": "python3", "path": "", "instance": owner.instance}
        pod = {
            "metadata": Labels(owner.server, "k", "x", owner.notes).metadata("p", "kernel", **words)
        }
        found = found_on(pod)
        assert found is not None and found.owner == owner and number_of(found.owner) == number
    for odd in ("", "-1", "x", "1" * 17, "\N{FULLWIDTH DIGIT ONE}"):
        pod["metadata"]["annotations"]["gpu-share.jupyter.org/number"] = odd
        found = found_on(pod)
        assert found is not None and number_of(found.owner) is None


async def test_the_number_goes_into_the_line_and_is_known_after_a_restart(
    home: FakeHome, ann: User
) -> None:
    home.cluster.room.clear()
    await ann.ok("PUT", "/v1/shares/k", ann.plan(number=7))
    await ann.ok("PUT", "/v1/shares/old", ann.plan())
    for bad in (-1, 10**15, True, "7", 1.5):
        assert (await ann.refused("PUT", "/v1/shares/x", ann.plan(number=bad)))[0] == 400
    assert home.rules.numbers == {
        ("ann", "", "k"): (ann.instance, 7),
        ("ann", "", "old"): (ann.instance, None),
    }
    await eventually(lambda: len(held(home)) == 2, "both are made")
    old = list(home.registry)
    await home.registry.close()
    home.rules = type(home.rules)()
    second = home._registry()
    for each in old:
        owner = each.objects.owner  # type: ignore[attr-defined]
        second.restore(each.key, each.attempt, each.plan, owner, each.groups, each.objects.name)
    assert home.rules.numbers[Key("ann", "", "k")] == (ann.instance, 7)
    await asyncio.gather(*(each.begun.wait() for each in second))
    await second.close()


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_start_whose_keys_are_lost_keeps_its_place_until_it_is_asked_for_anew(
    home: FakeHome, ann: User, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.starts.RETURN", 0.2)
    home.cluster.room.clear()
    await ann.ok("PUT", "/v1/shares/k", ann.plan(number=1))
    await eventually(lambda: len(held(home)) == 1, "it is made")
    (old,) = home.registry
    await home.registry.close()
    home.cluster.pods.clear()
    second = home._registry()
    owner = old.objects.owner  # type: ignore[attr-defined]
    second.restore(old.key, old.attempt, old.plan, owner, old.groups, old.objects.name)
    await eventually(lambda: second.rows("ann", "")[0]["failed"], "its keys are lost")
    assert old.key in home.rules.held and home.order.hidden == [old.key]
    if comes_back:
        plan = KernelPlan("k", "python3", SHARE, keys=Keys(KEY.encode()))
        again, _ = await second.start(old.process, frozenset(), "c" * 32, plan, 1)
        assert again.asked == old.asked and home.rules.numbers[old.key] == (ann.instance, 1)
        home.cluster.room.set()
        await eventually(lambda: again.phase.value == "ready", "it is up")
        await asyncio.sleep(0.3)  # longer than its place was kept
        assert old.key in home.rules.held
    else:
        await eventually(lambda: old.key not in home.rules.held, "nobody waits for ever for it")
    await second.close()
