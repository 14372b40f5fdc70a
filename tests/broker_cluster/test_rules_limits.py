"""Limits of all users of a cluster: never passed, whatever is asked for at once."""

from __future__ import annotations

import asyncio
import random
import sys
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moments import START, Clock
from ruled import GIB, FakeSight, hold, key, ruled, wish

from jupyter_gpu_share.broker.cluster.names import key_of, prefix_of
from jupyter_gpu_share.broker.cluster.rules import Rules, Settings
from jupyter_gpu_share.broker.cluster.ruling import Key, Wish
from jupyter_gpu_share.broker.limits import Limits
from jupyter_gpu_share.broker.meters import Meter, Use, covers
from jupyter_gpu_share.engines.base import Capacity
from jupyter_gpu_share.engines.user_limits import UserLimit
from jupyter_gpu_share.size import Size

ALL = {"user": ["*"]}
HOUR = timedelta(hours=1)


def gpus(limit: Any, scope: Any = ALL) -> dict[str, Any]:
    return {"resource": "gpus", "limit": limit, "scope": scope}


# -- names ---------------------------------------------------------------------------------------


@given(st.text(), st.text(), st.text(), st.text(), st.text(), st.text())
def test_no_two_kernels_have_one_name(a: str, b: str, c: str, d: str, e: str, f: str) -> None:
    one, other = Key(a, b, c), Key(d, e, f)
    assert (one.text == other.text) == (one == other)
    assert key_of(one.text) == one
    assert one.text.startswith(prefix_of(a, b))
    assert other.text.startswith(prefix_of(a, b)) == ((a, b) == (d, e))


# -- limits --------------------------------------------------------------------------------------


async def test_a_users_limit_is_over_all_servers_and_the_refusal_names_only_theirs(
    tmp_path: Path,
) -> None:
    async with ruled(tmp_path, Clock(), limits=[gpus(1)]) as (rules, _):
        hold(rules, wish("ann", "a1b2c3d4e5f6", "1/2"))
        hold(rules, wish("ann", "second", "1/2", server="lab"))
        hold(rules, wish("bob", "of-bob", "1"))
        said = rules.reserve(wish("ann", "third", "1/4", server="other"))
        assert said == (
            "ann may have 1 GPU and now has 1 GPU. Yours: a1b2c3d4 (1/2), second (1/2). "
            "1/4 GPU more is too much; give some back first."
        )
        rules.gave_back(key("ann", "second", "lab"))
        assert rules.reserve(wish("ann", "third", "1/4", server="other")) is None
        assert rules.reserve(wish("ann", "second", "1/2", server="lab")) is not None, "take again"
        rules.drop(key("ann", "third", "other"))
        assert rules.reserve(wish("ann", "second", "1/2", server="lab")) is None


async def test_a_kernel_without_a_gpu_counts_in_no_limit(tmp_path: Path) -> None:
    kernels = {"resource": "kernels", "limit": 1, "scope": ALL}
    hours = {"resource": "gpu_hours", "limit": 1, "window": 7, "scope": ALL}
    clock = Clock()
    async with ruled(tmp_path, clock, limits=[kernels, hours, gpus(1)]) as (rules, _):
        hold(rules, wish("ann", "plain", "0"))
        hold(rules, wish("ann", "a", "1"))
        clock.wait(61)
        assert rules.reserve(wish("ann", "b", "1/4")) is not None
        assert rules.reserve(wish("ann", "second", "0")) is None


async def test_a_kernel_keeps_at_a_restart_what_it_has(tmp_path: Path) -> None:
    clock = Clock()
    hours = {"resource": "gpu_hours", "limit": 1, "window": 7, "scope": ALL}
    async with ruled(tmp_path, clock, limits=[hours]) as (rules, _):
        hold(rules, wish("ann", "a", "1"))
        clock.wait(61)
        assert rules.reserve(wish("ann", "b", "1/4")) is not None, "the hour is over"
        assert rules.reserve(wish("ann", "a", "2x1"), anew=True) is not None
        assert rules.reserve(wish("ann", "a", "1"), anew=True) is None
        assert rules.reserve(wish("ann", "a", "1/2")) is None, "less of it"
        rules.gave_back(key("ann", "a"))
        assert rules.reserve(wish("ann", "a", "1/2")) is not None, "it has none any more"


async def test_a_user_is_told_what_is_taken_of_each_limit(tmp_path: Path) -> None:
    kernels = {"resource": "kernels", "limit": 3, "scope": ALL}
    hours = {"resource": "gpu_hours", "limit": 40, "window": 7, "scope": ALL}
    course = gpus(4, {"group": ["course"]})
    clock = Clock()
    async with ruled(tmp_path, clock, limits=[kernels, gpus(1), hours, course]) as (rules, _):
        groups = frozenset({"course"})
        hold(rules, wish("ann", "a", "1/2", "course"))
        hold(rules, wish("bob", "of-bob", "1", "course"))
        assert rules.reserve(wish("ann", "b", "1/4", server="lab")) is None
        clock.wait(120)
        assert rules.user_limits("ann", groups) == [
            UserLimit("kernels", "user", None, None, 3, 2),
            UserLimit("gpus", "user", None, None, 1, 0.75),
            UserLimit("gpu_hours", "user", None, 7, 40, 1),
            UserLimit("gpus", "group", "course", None, 4, 1.5),
        ]
        assert [each.held for each in rules.user_limits("cat", frozenset())] == [0, 0, 0]
    async with ruled(tmp_path / "other", Clock()) as (rules, _):
        assert rules.user_limits("ann", groups) == []


async def test_what_is_reserved_counts_until_it_is_dropped(tmp_path: Path) -> None:
    async with ruled(tmp_path, Clock(), limits=[gpus(1)]) as (rules, _):
        assert rules.reserve(wish("ann", "a", "3/4")) is None
        assert rules.why_not(wish("ann", "b", "1/2")) is not None
        assert rules.why_not(wish("ann", "b", "1/2")) is not None, "to look changes nothing"
        rules.drop(key("ann", "a"))
        rules.drop(key("ann", "a"))
        assert rules.reserve(wish("ann", "b", "1")) is None


async def test_while_a_size_is_changed_the_larger_one_counts(tmp_path: Path) -> None:
    async with ruled(tmp_path, Clock(), limits=[gpus(1)]) as (rules, _):
        hold(rules, wish("ann", "a", "1/2"))
        assert rules.reserve(wish("ann", "a", "2x1")) is not None, "instead of what it has"
        assert rules.reserve(wish("ann", "a", "1/4")) is None
        assert rules.why_not(wish("ann", "b", "3/4")) is not None, "the half may stay"
        rules.holds(key("ann", "a"), Size.parse("1/2"))  # it was not possible
        assert rules.why_not(wish("ann", "b", "1/2")) is None
        assert rules.why_not(wish("ann", "b", "3/4")) is not None
        assert rules.reserve(wish("ann", "a", "1/4")) is None
        rules.holds(key("ann", "a"), Size.parse("1/4"))
        assert rules.reserve(wish("ann", "b", "3/4")) is None
        assert rules.reserve(wish("ann", "a", "1/2")) is not None
        assert rules.why_not(wish("ann", "a", "1/4")) is None, "a refusal changes nothing"


async def test_launches_at_once_never_pass_a_limit_together(tmp_path: Path) -> None:
    async with ruled(tmp_path, Clock(), limits=[gpus(1)], ordered=True) as (rules, _):
        gate = asyncio.Event()
        allowed = []

        async def launch(number: int) -> None:
            await gate.wait()
            asked = wish("ann", f"k{number}", "1/4")
            if rules.reserve(asked) is None:
                allowed.append(number)
                await asyncio.sleep(0)
                await rules.admitted(asked.key)
                rules.holds(asked.key)

        launches = [asyncio.create_task(launch(number)) for number in range(30)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*launches)
        assert len(allowed) == 4
        assert rules.holdings.held("gpus", ("user", "ann"), "") == 1


async def test_what_is_there_when_the_broker_begins_is_there(tmp_path: Path) -> None:
    there = [wish("ann", f"k{number}", "1") for number in range(3)]
    async with ruled(tmp_path, Clock(), limits=[gpus(1)], there=there) as (rules, _):
        assert rules.holdings.held("gpus", ("user", "ann"), "") == 3
        assert rules.reserve(wish("ann", "more", "1/8")) is not None
        assert rules.waits.cumulative[-1] == 0, "nobody has waited for what was there"


async def test_the_most_kernels_of_one_user(tmp_path: Path) -> None:
    async with ruled(tmp_path, Clock(), kernels_per_user=2) as (rules, _):
        hold(rules, wish("ann", "a", "0"))
        hold(rules, wish("ann", "b", server="lab"))
        said = rules.reserve(wish("ann", "c"))
        assert said is not None
        assert said.startswith("You have 2 kernels that hold or wait for a share")
        assert rules.reserve(wish("ann", "b", "1/2", server="lab")) is None, "it is one of them"
        assert rules.reserve(wish("bob", "c")) is None


async def test_a_pause_is_for_new_shares_and_kept_over_restarts(tmp_path: Path) -> None:
    async with ruled(tmp_path, Clock()) as (rules, _):
        hold(rules, wish("ann", "a"))
        hold(rules, wish("ann", "lent"))
        rules.gave_back(key("ann", "lent"))
        await rules.pause(True)
    async with ruled(tmp_path, Clock(), there=[wish("ann", "a")]) as (rules, _):
        said = rules.reserve(wish("bob", "b"))
        assert said is not None
        assert said.startswith("The administrator gives out no new shares for now.")
        assert rules.reserve(wish("ann", "lent")) is not None
        assert rules.reserve(wish("ann", "a", "1/2")) is None
        assert rules.reserve(wish("bob", "none", "0")) is None
        await rules.pause(False)
        assert rules.reserve(wish("bob", "b")) is None
        assert not rules.paused


async def test_a_pause_is_not_passed_by_another_start_of_a_kernel(tmp_path: Path) -> None:
    async with ruled(tmp_path, Clock()) as (rules, _):
        await rules.pause(True)
        hold(rules, wish("ann", "none", "0"))
        assert rules.reserve(wish("ann", "none", "1"), anew=True) is not None
        assert rules.reserve(wish("ann", "none", "1")) is not None
        assert rules.why_not(wish("ann", "none", "1")) is not None
        await rules.pause(False)
        hold(rules, wish("ann", "a", "1/8"))
        await rules.pause(True)
        assert rules.reserve(wish("ann", "a", "1/8"), anew=True) is None, "it is what it has"
        assert rules.reserve(wish("ann", "a", "1"), anew=True) is not None


async def test_sizes_count_by_the_gpus_that_there_are_or_were(tmp_path: Path) -> None:
    async with ruled(tmp_path, Clock(), limits=[gpus("1/2")]) as (rules, sight):
        assert rules.why_not(wish("ann", "a", "40GiB")) is None
        assert rules.why_not(wish("ann", "a", "60GiB")) is not None
        sight.count = 0
        rules.see_gpus(await sight.gpus())
        assert rules.why_not(wish("ann", "a", "40GiB")) is None, "they may come again"
    async with ruled(tmp_path, Clock(), count=0, limits=[gpus("1/2")]) as (rules, _):
        assert rules.why_not(wish("ann", "a", "1/2")) is None, "that is known without any"
        assert rules.why_not(wish("ann", "a", "10GiB")) is not None
    coming = [Capacity("", "H100", "", 80 * GIB, 80 * GIB)]
    memory = {"resource": "memory_bytes", "limit": "20GiB", "scope": ALL}
    limits = [gpus("1/2"), memory]
    async with ruled(tmp_path, Clock(), count=0, limits=limits, coming=coming) as (rules, _):
        assert rules.why_not(wish("ann", "a", "10GiB")) is None, "its node may come"
        assert rules.why_not(wish("ann", "a", "1/4")) is None
        assert rules.why_not(wish("ann", "a", "1/2")) is not None, "it is 40 GiB of that"


async def test_a_change_costs_the_same_whatever_the_number_of_kernels(tmp_path: Path) -> None:
    """In calls of functions, which no busy machine changes."""
    limits = [
        gpus(1000, "total"),
        gpus(8),
        {"resource": "kernels", "limit": 5000, "scope": {"group": ["g"]}},
        {"resource": "gpu_hours", "limit": 10**6, "window": 7, "scope": "total"},
    ]
    calls = {}
    for number in (10, 1000):
        clock = Clock()
        async with ruled(tmp_path / f"{number}", clock, limits=limits) as (rules, _):
            for each in range(number):
                hold(rules, wish(f"u{each % 200}", f"k{each}", "1/4", "g"))
            clock.wait(1)
            count = 0

            def seen(frame: Any, event: str, argument: Any) -> None:
                nonlocal count
                count += 1

            sys.setprofile(seen)
            try:
                rules.gave_back(key("u1", "k1"))
                hold(rules, wish("u1", "k1", "1/4", "g"))
            finally:
                sys.setprofile(None)
            calls[number] = count
    assert calls[1000] < 1.5 * calls[10]


# -- hours ---------------------------------------------------------------------------------------


def naive_hours(uses: list[Use], subject: tuple[str, str], days: int, now: float) -> Fraction:
    first, found = now - days * 1440, Fraction(0)
    for use in uses:
        if covers(subject, use.user, use.groups):
            begin = max((use.begin - START) / timedelta(minutes=1), first)
            end = now if use.end is None else min((use.end - START) / timedelta(minutes=1), now)
            found += use.gpus * Fraction(max(end - begin, 0.0)) / 60
    return found


@pytest.mark.parametrize("back", [1, 90])
def test_a_clock_that_was_set_back_leaves_nothing_behind(back: int) -> None:
    """A meter that is made then goes on as one that was there before."""
    minute, subject, window = timedelta(minutes=1), ("user", "ann"), timedelta(days=1)
    meter, ended, groups = Meter(window, START), START + 60 * minute, frozenset[str]()
    meter.change(Fraction(1), START)
    meter.change(Fraction(-1), ended)
    meter.change(Fraction(1, 2), ended)
    uses = [
        Use("ann", groups, Fraction(1), START, ended),
        Use("ann", groups, Fraction(1, 2), ended),
    ]
    now = ended - back * minute
    late = Meter.of(uses, subject, window, now)
    missing = meter.hours(now) - late.hours(now)
    assert missing == Fraction(min(back, 60), 60), "what it takes for not yet held"
    for each in (meter, late):
        each.change(Fraction(-1, 2), ended + 60 * minute)
    later = ended + 120 * minute
    assert meter.hours(later) == Fraction(3, 2)
    assert late.hours(later) - meter.hours(later) == Fraction(back, 120) - missing
    assert late.hours(later + window) == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_meter_agrees_with_what_was_held(seed: int) -> None:
    """At each of many moments, and whether it was there from the start or is made then."""
    chance = random.Random(seed)
    window = timedelta(days=1)
    subject = chance.choice([("user", "ann"), ("group", "g"), ("total", "")])
    meter = Meter(window, START)
    uses: list[Use] = []
    held: dict[int, Use] = {}
    now = 0.0
    for number in range(200):
        now += chance.choice([0, 1, 30, 400])
        moment = START + now * timedelta(minutes=1)
        if held and chance.random() < 0.5:
            name = chance.choice(list(held))
            use = held.pop(name)
            uses.append(Use(use.user, use.groups, use.gpus, use.begin, moment))
            sign = -1
        else:
            groups = frozenset(["g"] if chance.random() < 0.5 else [])
            use = held[number] = Use(
                chance.choice(["ann", "bob"]), groups, Fraction(chance.randint(1, 8), 8), moment
            )
            sign = 1
        if covers(subject, use.user, use.groups):
            meter.change(sign * use.gpus, moment)
        everything = [*uses, *held.values()]
        expected = naive_hours(everything, subject, 1, now)
        assert meter.hours(moment) == expected
        late = Meter.of(everything, subject, window, moment)
        assert late.hours(moment) == expected
        limit = expected * Fraction(chance.randint(1, 4), 4)
        at = meter.free_at(limit, moment)
        assert at == late.free_at(limit, moment)
        if at is not None:
            ended = [
                *uses,
                *(Use(u.user, u.groups, u.gpus, u.begin, moment) for u in held.values()),
            ]
            minutes = (at - START) / timedelta(minutes=1)
            assert naive_hours(ended, subject, 1, minutes + 0.001) < limit
            if at > moment:
                assert naive_hours(ended, subject, 1, minutes - 0.001) >= limit


async def test_hours_of_a_window_are_counted_over_restarts(tmp_path: Path) -> None:
    limits = [{"resource": "gpu_hours", "limit": 2, "window": 1, "scope": ALL}]
    clock = Clock()
    async with ruled(tmp_path, clock, limits=limits, count=4) as (rules, _):
        hold(rules, wish("ann", "a", "1"))
        clock.wait(60)
        assert rules.why_not(wish("ann", "b", "1/8")) is None
    clock.wait(30)
    async with ruled(tmp_path, clock, limits=limits, there=[wish("ann", "a", "1")]) as (rules, _):
        clock.wait(29)
        assert rules.why_not(wish("ann", "b", "1/8")) is None
        clock.wait(1)
        said = rules.why_not(wish("ann", "b", "1/8"))
        assert said is not None
        assert "ann may use 2 GPU-hours in 1 day and has used 2 GPU-hours" in said
        assert rules.why_not(wish("bob", "b", "1/8")) is None
        rules.drop(key("ann", "a"))
        clock.wait(24 * 60 - 119)
        assert rules.why_not(wish("ann", "b", "1/8")) is None


async def test_an_account_that_could_not_be_saved_is_saved_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, folder = Clock(), tmp_path / "broker"
    async with ruled(folder, clock) as (rules, _):
        hold(rules, wish("ann", "a", "1"))
        folder.rename(tmp_path / "away")
        await rules.save()
        assert "The account cannot be saved" in caplog.text
        (tmp_path / "away").rename(folder)
        clock.wait(60)
        rules.drop(key("ann", "a"))
        await rules.save()
        written = (folder / "account.json").stat().st_mtime_ns
        await rules.save()
        assert (folder / "account.json").stat().st_mtime_ns == written, "nothing is new"
    async with ruled(folder, clock) as (rules, _):
        assert (await rules.usage("ann"))[0]["held"] == 3600


async def test_what_happens_while_it_is_saved_is_not_lost(tmp_path: Path) -> None:
    clock = Clock()
    async with ruled(tmp_path, clock) as (rules, _):
        hold(rules, wish("ann", "a", "1"))
        saving = asyncio.create_task(rules.save())
        await asyncio.sleep(0)
        clock.wait(60)
        rules.drop(key("ann", "a"))
        await saving
    async with ruled(tmp_path, clock) as (rules, _):
        clock.wait(60)
        assert (await rules.usage("ann"))[0]["held"] == 3600


async def test_what_is_not_heard_of_yet_after_a_restart_was_held_all_the_time(
    tmp_path: Path,
) -> None:
    clock = Clock()
    async with ruled(tmp_path, clock) as (rules, _):
        hold(rules, wish("ann", "a", "1"))
    clock.wait(60)
    async with ruled(tmp_path, clock) as (rules, _):
        pass  # it has ended while nobody looked
    async with ruled(tmp_path, clock, there=[]) as (rules, _):
        assert (await rules.usage("ann"))[0]["held"] == 3600
    clock = Clock()
    folder = tmp_path / "other"
    async with ruled(folder, clock) as (rules, _):
        hold(rules, wish("ann", "a", "1"))
        began = rules.held_since()[key("ann", "a").text]
    clock.wait(60)
    rules = Rules(Settings(folder), FakeSight(), clock)
    await rules.open()
    assert rules.reserve(wish("ann", "a", "1")) is None
    rules.begin()  # its pod is looked at meanwhile
    clock.wait(1)
    rules.holds(key("ann", "a"))
    assert rules.held_since() == {key("ann", "a").text: began}
    assert rules.waits.cumulative[-1] == 0


# -- beside a naive model ------------------------------------------------------------------------


def random_limits(chance: random.Random) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for _ in range(chance.randint(1, 4)):
        scope: Any = chance.choice(
            [ALL, {"user": ["ann"]}, {"group": ["g", "h"]}, {"members_of": ["g"]}, "total"]
        )
        resource = chance.choice(["gpus", "memory_bytes", "kernels", "gpu_hours"])
        amount: Any = {
            "gpus": chance.choice(["1/2", 1, 2]),
            "memory_bytes": chance.choice(["40GiB", "100GiB"]),
            "kernels": chance.randint(1, 4),
            "gpu_hours": chance.choice([1, 5]),
        }[resource]
        rule = {"resource": resource, "limit": amount, "scope": scope}
        found.append({**rule, "window": 1} if resource == "gpu_hours" else rule)
    return found


@pytest.mark.parametrize("seed", range(60))
async def test_random_launches_beside_a_naive_model(seed: int, tmp_path: Path) -> None:
    """What is refused, and in which words, is what lists of all that is held say."""
    chance = random.Random(seed)
    rules_of = random_limits(chance)
    limits, clock = Limits(rules_of), Clock()
    groups = {"ann": ["g"], "bob": ["g", "h"], "eve": []}
    async with ruled(tmp_path, clock, limits=rules_of, ordered=True) as (rules, _):
        model: dict[str, tuple[Wish, str]] = {}  # waiting, held or lent
        past: list[Use] = []
        since: dict[str, Any] = {}

        def close(name: str) -> None:
            if name in since:
                asked, begin = since.pop(name)
                claim = rules._claim(asked)
                past.append(Use(claim.user, claim.groups, claim.gpus, begin, clock()))

        for _ in range(60):
            clock.wait(chance.choice([0, 0, 5, 90]))
            user = chance.choice(list(groups))
            asked = wish(
                user,
                f"k{chance.randint(0, 2)}",
                chance.choice(["1/8", "1/4", "1/2", "2x1/4", "20GiB", "0"]),
                *groups[user],
                server=chance.choice(["", "lab"]),
            )
            name = asked.key.text
            now = clock()
            does = chance.random()
            if does < 0.5 and not (name in model and model[name][1] == "waiting"):
                counted = [rules._claim(each) for each, state in model.values() if state != "lent"]
                uses = past + [
                    Use(claim.user, claim.groups, claim.gpus, begin)
                    for each, begin in since.values()
                    if (claim := rules._claim(each)).gpus
                ]
                before = model.get(name)
                has = rules._claim(before[0]) if before and before[1] == "held" else None
                refusal = limits.check(rules._claim(asked), counted, uses, now)
                if has and not has.size.is_none and rules._claim(asked).is_within(has):
                    refusal = None  # it has that already
                assert rules.reserve(asked) == (refusal.text if refusal else None)
                if refusal is None and name in model and model[name][1] == "held":
                    close(name)
                    rules.holds(asked.key)
                    model[name], since[name] = (asked, "held"), (asked, now)
                elif refusal is None:
                    model[name] = asked, "waiting"
            elif does < 0.75 and name in model and model[name][1] == "waiting":
                rules.holds(asked.key)
                model[name], since[name] = (model[name][0], "held"), (model[name][0], now)
            elif does < 0.85 and name in model:
                close(name)
                rules.gave_back(asked.key)
                model[name] = model[name][0], "lent"
            elif name in model:
                close(name)
                rules.drop(asked.key)
                del model[name]
            every = [each for each, state in model.values() if state != "lent"]
            for who in groups:
                total = sum((rules._claim(e).gpus for e in every if e.key.user == who), Fraction(0))
                assert rules.holdings.held("gpus", ("user", who), "") == total
