"""What was promised of idle shares outlives the broker: it neither starts over nor is shortened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from fake_objects import FakeObjects
from homes import FakeHome, User, held
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import MINUTE, START, Clock
from ruled import FakeKernels, key, ruled, wish

from jupyter_gpu_share.broker.cluster.home import _Kernels
from jupyter_gpu_share.broker.cluster.owners import found_on, owner_of, words_of_promise
from jupyter_gpu_share.broker.cluster.presence import Process
from jupyter_gpu_share.broker.cluster.reclaims import Reclaims
from jupyter_gpu_share.broker.cluster.rules import Rules
from jupyter_gpu_share.broker.idle import GRACE, RECALLED, Promise
from jupyter_gpu_share.engines.idle_shares import IdleShare
from jupyter_gpu_share.engines.kubernetes._pods import Labels
from jupyter_gpu_share.idle import IdlePolicy

A = "a" * 32
ANN, EVE = key("ann", "a"), key("eve", "w")


def on_a_pod(promise: Promise) -> Promise | None:
    """A promise as the next broker reads it."""
    owner = owner_of(Process("ann", "", A), "b" * 32, frozenset())
    meta = Labels(owner.server, "a", "x", owner.notes).metadata("pod", "kernel", size="1")
    meta["annotations"] |= words_of_promise(promise)
    found = found_on({"metadata": meta})
    assert found is not None
    return found.promise


class Broker:
    """One life of the broker. Ann holds the only GPU, and does not use it; eve waits for it."""

    def __init__(self, rules: Rules, clock: Clock, kernels: FakeKernels) -> None:
        self.rules, self.clock, self.kernels = rules, clock, kernels
        self.reclaims = Reclaims(rules, kernels)

    async def say(self, since: datetime | None) -> float | None:
        """Ann's server speaks; seconds until her share is due, None where it is not asked back."""
        self.clock.wait(0.05)
        words = {} if since is None else {"a": IdleShare(since)}
        return (await self.reclaims.hear("ann", "", A, words)).wanted.get("a")


@asynccontextmanager
async def broker(
    folder: Path,
    clock: Clock,
    before: Broker | None = None,
    *,
    warn: float = 180.0,
    eve: bool = True,
) -> AsyncIterator[Broker]:
    """The next broker, by what the one before has left in the cluster."""
    policy = IdlePolicy(rule="demand", demand_after=300.0, warn_before=warn)
    async with ruled(folder, clock, there=[wish("ann", "a", "1")], policy=policy) as (rules, _):
        kernels = FakeKernels(rules)
        this = Broker(rules, clock, kernels)
        if before is not None:
            kernels.remembered = before.kernels.remembered
            there = {name: on_a_pod(each) for name, each in kernels.remembered.items()}
            rules.idle.recall({n: each for n, each in there.items() if each}, clock())
            this.reclaims.begin()
        if eve:
            assert rules.reserve(wish("eve", "w", "1")) is None
        yield this


STEP = st.tuples(
    st.sampled_from(["look", "restart", "restart, and eve comes back later"]),
    st.sampled_from([0.0, 0.1, 0.4, 1.5]),
    st.sampled_from([0.0, 30.0, 180.0, 3600.0]),
)


@given(st.lists(STEP, max_size=15))
@settings(max_examples=60, deadline=None)
def test_a_promise_is_the_same_whatever_restarts_there_are(
    steps: list[tuple[str, float, float]],
) -> None:
    async def run(folder: Path) -> None:
        clock, since = Clock(), START - 20 * MINUTE
        async with broker(folder, clock) as at:
            assert at.rules.idle.promises == {}
            left = await at.say(since)
            assert left == 180
            told, this = at.rules.idle.promises[ANN.text], at
        for what, minutes, warn in steps:
            clock.wait(minutes)
            if what != "look":
                later = what != "restart"
                async with broker(folder, clock, this, warn=warn, eve=not later) as this:
                    await this.reclaims.decide()
                    if later:
                        assert await this.say(since) is None, "nobody waits"
                        assert this.rules.reserve(wish("eve", "w", "1")) is None
                        clock.wait(0.05)
            left = await this.say(since)
            promise = this.rules.idle.promises[ANN.text]
            assert (promise.asked, promise.due) == (told.asked, told.due)
            assert left == max((told.due - clock()) / timedelta(seconds=1), 0)
            overdue = ANN.text in this.rules.idle.overdue(clock())
            assert overdue == (told.due + GRACE <= clock())

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


async def test_a_share_that_was_used_in_between_is_promised_anew(tmp_path: Path) -> None:
    clock = Clock()
    async with broker(tmp_path, clock) as first:
        assert await first.say(START - 20 * MINUTE) == 180
        clock.wait(2)
    async with broker(tmp_path, clock, first) as second:
        assert await second.say(None) is None
        since = clock()
        clock.wait(0.5)
        assert await second.say(since) is None, "it was used a moment ago"
    clock.wait(6)
    async with broker(tmp_path, clock, second) as third:
        assert await third.say(since) == 180


async def test_nothing_is_taken_before_the_server_has_spoken_again(tmp_path: Path) -> None:
    clock = Clock()
    async with broker(tmp_path, clock) as first:
        assert await first.say(START - 20 * MINUTE) == 180
        clock.wait(30)
    async with broker(tmp_path, clock, first) as second:
        await second.reclaims.decide()
        await second.reclaims.take()
        assert second.kernels.given_back == [], "it may be in use"
        assert await second.say(START - 20 * MINUTE) == 0
        await second.reclaims.take()
        assert second.kernels.given_back == [ANN], "its time has been over for long"


async def test_what_is_written_follows_what_is_promised_at_one_write_each(tmp_path: Path) -> None:
    clock = Clock()
    async with broker(tmp_path, clock) as first:
        first.kernels.unwritten = 1
        assert await first.say(START - 20 * MINUTE) == 180, "it is told all the same"
        assert first.kernels.remembered == {}
        for _ in range(3):
            clock.wait(0.1)
            await first.reclaims.decide()
        assert set(first.kernels.remembered) == {ANN.text} and first.kernels.writes == 1
        first.rules.drop(EVE)
        await first.reclaims.decide()
        await first.reclaims.decide()
        assert first.kernels.remembered == {} and first.kernels.writes == 2
        assert first.rules.reserve(wish("eve", "w", "1")) is None
        clock.wait(0.1)
        assert await first.say(START - 20 * MINUTE) == 180
    # What nobody needs any more is forgotten when all have had the time to come back.
    async with broker(tmp_path, clock, first, eve=False) as second:
        await second.say(START - 20 * MINUTE)
        assert set(second.kernels.remembered) == {ANN.text} and second.kernels.writes == 0
        clock.now += RECALLED
        await second.reclaims.decide()
        assert second.kernels.remembered == {} and second.kernels.writes == 1
        assert second.rules.reserve(wish("eve", "w", "1")) is None
        clock.wait(0.1)
        assert await second.say(START - 20 * MINUTE) == 180
        second.rules.gave_back(ANN)
        await second.reclaims.decide()
        assert second.kernels.remembered == {}


def test_what_makes_no_sense_on_a_pod_is_no_promise() -> None:
    assert on_a_pod(Promise(START, START + MINUTE)) == Promise(START, START + MINUTE)
    owner = owner_of(Process("ann", "", A), "b" * 32, frozenset())
    meta = Labels(owner.server, "a", "x", owner.notes).metadata("pod", "kernel", size="1")
    for odd in ("", "x", "2026-01-01T00:00:00Z", "2026-01-01 2026-01-02", "a b"):
        meta["annotations"]["gpu-share.jupyter.org/promise"] = odd
        found = found_on({"metadata": meta})
        assert found is not None and found.promise is None


async def test_it_is_written_on_the_pod_of_the_kernel_alone(home: FakeHome, ann: User) -> None:
    await ann.start("a")
    kernels = _Kernels(home.registry)
    promise = Promise(START, START + MINUTE)
    await kernels.remember(ANN, promise)
    await kernels.remember(EVE, promise)
    (pod,) = held(home)
    assert isinstance(pod, FakeObjects) and pod.annotations == words_of_promise(promise)
    await kernels.remember(ANN, None)
    assert pod.annotations == {"gpu-share.jupyter.org/promise": None}
    pod.remove("It is to end.")
    await kernels.remember(ANN, promise)
    assert pod.annotations == {"gpu-share.jupyter.org/promise": None}
