"""Idle shares of all users of a cluster: asked back for those who wait, and taken at last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from moments import Clock
from ruled import FakeKernels, FakeSight, hold, key, ruled, wish
from waiting import eventually

from jupyter_gpu_share.broker.cluster.admin import Administration
from jupyter_gpu_share.broker.cluster.reclaims import Reclaims
from jupyter_gpu_share.broker.cluster.rules import Rules
from jupyter_gpu_share.broker.idle import GRACE, LIFETIME
from jupyter_gpu_share.engines.idle_shares import IdleShare
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.idle import IdlePolicy
from jupyter_gpu_share.size import Size

A, B = "a" * 32, "b" * 32


class Office:
    def __init__(self, rules: Rules, sight: FakeSight, clock: Clock) -> None:
        self.rules, self.sight, self.clock = rules, sight, clock
        self.kernels = FakeKernels(rules)
        self.reclaims = Reclaims(rules, self.kernels)
        self.pace = 0.05

    async def say(
        self, user: str, server: str = "", instance: str = A, /, **idle: float
    ) -> dict[str, float | None]:
        """A server names its idle kernels, with the minutes; what it is asked back.

        That is some time after anybody spoke last.
        """
        self.clock.wait(self.pace)
        words = {
            name: IdleShare(self.clock() - timedelta(minutes=minutes))
            for name, minutes in idle.items()
        }
        answer = await self.reclaims.hear(user, server, instance, words)
        return dict(answer.wanted)

    async def later(self, minutes: float) -> None:
        """Time goes on, and it is decided anew."""
        self.clock.wait(minutes)
        await self.reclaims.decide()


@asynccontextmanager
async def office(folder: Path, count: int = 1, **more: Any) -> AsyncIterator[Office]:
    clock = Clock()
    policy = IdlePolicy(rule="demand", demand_after=300.0, warn_before=0.0)
    async with ruled(folder, clock, count=count, policy=policy, **more) as (rules, sight):
        yield Office(rules, sight, clock)


async def test_the_longest_idle_share_of_all_users_is_asked_back_for_who_waits(
    tmp_path: Path,
) -> None:
    async with office(tmp_path) as at:
        hold(at.rules, wish("ann", "a", "1/2"))
        hold(at.rules, wish("bob", "b", "1/2", server="lab"))
        assert await at.say("ann", a=6) == {}, "nobody waits"
        assert await at.say("bob", "lab", b=20) == {}
        assert at.rules.reserve(wish("eve", "w", "1/2")) is None
        await at.later(0.1)
        assert await at.say("bob", "lab", b=20.1) == {"b": 0.0}
        assert await at.say("ann", a=6.1) == {}, "one is enough"
        promise = at.rules.idle.promises[key("bob", "b", "lab").text]
        assert promise.to == {key("eve", "w").text}
        at.rules.gave_back(key("bob", "b", "lab"))
        at.rules.holds(key("eve", "w"))
        await at.later(0.1)
        assert at.rules.idle.promises == {}


async def test_who_finds_a_place_by_itself_costs_nobody_anything(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        hold(at.rules, wish("ann", "a", "1/2"))
        await at.say("ann", a=20)
        assert at.rules.reserve(wish("eve", "w", "1/2")) is None
        await at.later(1)
        assert await at.say("ann", a=21) == {}
        assert at.rules.reserve(wish("eve", "too large", "2x1")) is None
        await at.later(1)
        assert await at.say("ann", a=22) == {}, "it would not be enough"


async def test_who_may_be_on_the_way_to_a_free_place_costs_nobody_anything(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        hold(at.rules, wish("ann", "a", "1"))
        assert await at.say("ann", a=20) == {}
        assert at.rules.reserve(wish("eve", "w", "1")) is None
        await at.later(1 / 60)
        assert at.rules.idle.promises == {}
        await at.later(1 / 60)
        assert set(at.rules.idle.promises) == {key("ann", "a").text}


async def test_users_hear_for_whom_only_where_it_is_their_own(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        hold(at.rules, wish("ann", "a", "1"))
        assert at.rules.reserve(wish("eve", "secret", "1/2", server="secret")) is None
        assert at.rules.reserve(wish("ann", "own", "1/2", server="lab")) is None
        at.clock.wait(0.1)
        await at.say("ann", a=20)
        seen = Administration(at.rules, at.kernels)
        rows = {row["kernel_id"]: row for row in seen.everything()}
        waiting = {(each["user"], each["server"]) for each in rows["a"]["promise"]["for"]}
        assert waiting == {("eve", "secret"), ("ann", "lab")}
        assert rows["secret"]["room_at"] == rows["a"]["promise"]["due"]
        own = {row["kernel_id"]: row for row in seen.everything("ann")}
        assert "eve" not in str(own)
        assert "secret" not in str(own)
        told = own["a"]["promise"]["for"]
        assert sorted((each["kernel_id"] or "", each["size"]) for each in told) == [
            ("", "1/2"),
            ("own", "1/2"),
        ]


async def test_a_share_whose_server_does_not_give_it_back_is_taken(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        hold(at.rules, wish("ann", "a", "1"))
        assert at.rules.reserve(wish("eve", "w", "1")) is None
        at.clock.wait(0.1)
        assert await at.say("ann", a=20) == {"a": 0.0}
        at.clock.now += GRACE - timedelta(seconds=1)
        await at.reclaims.take()
        assert at.kernels.given_back == []
        at.clock.wait(1)
        await at.reclaims.take()
        assert at.kernels.given_back == [key("ann", "a")]


async def test_a_share_that_is_used_again_is_not_taken(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        hold(at.rules, wish("ann", "a", "1"))
        assert at.rules.reserve(wish("eve", "w", "1")) is None
        at.clock.wait(0.1)
        assert await at.say("ann", a=20) == {"a": 0.0}
        assert await at.say("ann") == {}
        at.clock.wait(5)
        await at.reclaims.take()
        assert at.kernels.given_back == []


async def test_a_share_that_nobody_needs_any_more_is_not_taken(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        hold(at.rules, wish("ann", "a", "1"))
        assert at.rules.reserve(wish("eve", "w", "1")) is None
        at.clock.wait(0.1)
        assert await at.say("ann", a=20) == {"a": 0.0}
        at.rules.drop(key("eve", "w"))
        at.clock.wait(5)
        await at.reclaims.take()
        assert at.kernels.given_back == []


async def test_what_cannot_be_taken_is_tried_once(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        at.kernels.refuses = True
        hold(at.rules, wish("ann", "a", "1"))
        assert at.rules.reserve(wish("eve", "w", "1")) is None
        at.clock.wait(0.1)
        await at.say("ann", a=20)
        at.clock.wait(5)
        await at.reclaims.take()
        assert at.rules.holdings.known[key("ann", "a").text].held_since is not None
        assert not at.rules.idle.overdue(at.clock())


async def test_one_servers_word_is_not_about_anothers_kernels(tmp_path: Path) -> None:
    """Not even where names begin alike, and not of the same user."""
    async with office(tmp_path, count=4) as at:
        hold(at.rules, wish("ann", "a", "1", server="lab"))
        hold(at.rules, wish("ann", "b", "1"))
        hold(at.rules, wish('ann", "lab', "c", "1"))
        at.pace = 0
        await at.say("ann", "lab", a=20, b=20, c=20)
        now = at.clock()
        assert set(at.rules.idle.since(now)) == {key("ann", "a", "lab").text}
        await at.say('ann", "lab', c=20)
        await at.say("ann", "la")
        await at.say("ann", "")
        assert len(at.rules.idle.since(now)) == 2, "none of them has spoken of it"
        await at.say("ann", "lab", B)
        assert len(at.rules.idle.since(now)) == 2, "another process of the server"
        await at.say("ann", "lab")
        assert len(at.rules.idle.since(now)) == 1


async def test_idle_time_is_counted_and_a_word_counts_for_a_while(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        hold(at.rules, wish("ann", "a", "1"))
        at.clock.wait(1)
        at.pace = 0
        await at.say("ann", a=0)
        at.clock.wait(1)
        at.rules.count_idle()  # the word is over: it counts as used from here on
        at.clock.wait(1)
        (row,) = await at.rules.usage("ann")
        assert (row["used"], row["idle"]) == (120, 60)
        assert timedelta(minutes=1) > LIFETIME


async def test_a_server_hears_what_was_taken_and_nothing_of_what_is_not_known_yet(
    tmp_path: Path,
) -> None:
    async with office(tmp_path, count=4) as at:
        for name in ("same", "lent", "smaller"):
            hold(at.rules, wish("ann", name, "1/2"))
        at.rules.gave_back(key("ann", "lent"))
        at.rules.holds(key("ann", "smaller"), Size.parse("1/4"))
        assert at.rules.reserve(wish("ann", "waiting", "1/2")) is None
        names = ("same", "lent", "smaller", "waiting", "unknown")
        words = {name: IdleShare(at.clock(), size=Size.parse("1/2")) for name in names}
        answer = await at.reclaims.hear("ann", "", A, words)
        assert set(answer.taken) == {"lent", "smaller"}
        words = {name: IdleShare(at.clock()) for name in names}
        assert (await at.reclaims.hear("ann", "", A, words)).taken == []


async def test_an_administrators_order_needs_nobody_who_waits(tmp_path: Path) -> None:
    async with office(tmp_path, count=2) as at:
        hold(at.rules, wish("ann", "a", "1"))
        at.rules.orders.ask_back(key("ann", "a").text)
        assert await at.say("ann", a=20) == {"a": 0.0}


async def test_those_whose_hours_are_used_up_go_first(tmp_path: Path) -> None:
    limit = {"resource": "gpu_hours", "limit": 1, "window": 7, "scope": {"user": ["ann"]}}
    async with office(tmp_path, limits=[limit]) as at:
        hold(at.rules, wish("ann", "a", "1/2"))
        hold(at.rules, wish("bob", "b", "1/2"))
        at.clock.wait(121)
        await at.say("bob", b=40)
        await at.say("ann", a=30)
        assert at.rules.reserve(wish("eve", "w", "1/2")) is None
        await at.later(0.1)
        assert set(at.rules.idle.promises) == {key("ann", "a").text}


async def test_a_cluster_that_is_away_takes_no_promise_and_ends_nothing(tmp_path: Path) -> None:
    async with office(tmp_path) as at:
        hold(at.rules, wish("ann", "a", "1"))
        assert at.rules.reserve(wish("eve", "w", "1")) is None
        at.clock.wait(0.1)
        assert await at.say("ann", a=20) == {"a": 0.0}
        at.sight.away = True
        assert await at.say("ann", a=20.1) == {"a": 0.0}, "its word is heard, and answered"
        at.clock.wait(5)
        with pytest.raises(EngineError):
            await at.reclaims.take()
        assert at.kernels.given_back == []
        following = asyncio.create_task(at.reclaims.follow())
        try:
            at.rules.changed()
            await eventually(lambda: at.sight.looks > 2, "it looks again")
            assert not following.done()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_many_servers_that_speak_at_once_are_decided_about_once(tmp_path: Path) -> None:
    async with office(tmp_path, count=40) as at:
        for number in range(40):
            hold(at.rules, wish(f"u{number}", "k", "1"))
        assert at.rules.reserve(wish("eve", "w", "1")) is None
        at.clock.wait(0.1)
        at.pace = 0
        for number in range(40):
            await at.say(f"u{number}", k=20)
        assert at.sight.looks == 1
        at.clock.wait(0.1)
        told = [await at.say(f"u{number}", k=20.1) for number in range(40)]
        assert sum(bool(each) for each in told) == 1
