"""A user's server is silent: the Hub says whether it was stopped, or has crashed and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import zmq.asyncio
from fake_hub import ACCESS, Clock
from homes import FakeHome, User, fake_home, held
from tornado.testing import bind_unused_port
from waiting import eventually

from jupyter_gpu_share.broker.cluster.callers import HubAway, NotAllowed, UnknownToken
from jupyter_gpu_share.broker.cluster.presence import AGAIN, QUIET, SILENCE, Process
from jupyter_gpu_share.broker.cluster.proofs import Proofs
from jupyter_gpu_share.engines.base import Connection
from jupyter_gpu_share.engines.kubernetes import _parked


class Silence:
    """A home whose time passes when the test says so, and a process with a kernel that crashed."""

    def __init__(self, home: FakeHome) -> None:
        self.home, self.ann, self.clock = home, home.user("ann"), Clock()
        self.presence = home.registry.presence
        self.presence._clock = self.clock
        self.process = Process("ann", "", self.ann.instance)

    async def crash(self) -> None:
        async with self.ann.events(instance=True) as heard:
            await anext(heard)
            await self.ann.start()
        await eventually(lambda: not self.presence._signs[self.process].streams, "it is silent")

    async def passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.presence.look()
        while asking := self.home.registry.proofs._asking:
            await asyncio.wait(asking, timeout=10)
        self.presence.look()

    async def adopt(self, second: User) -> tuple[int, dict[str, object]]:
        body = {"attempt": uuid4().hex, "before": self.ann.instance}
        status, answer = await second.ask("POST", "/v1/shares/k/adopt", body)
        return status, answer


@pytest.fixture
async def silence() -> AsyncIterator[Silence]:
    async with fake_home() as home:
        yield Silence(home)


async def test_one_that_crashed_loses_nothing_and_the_next_takes_over(silence: Silence) -> None:
    await silence.crash()
    (pod,) = held(silence.home)
    second = silence.ann.again()
    row = await second.row()
    assert row is not None and row["held_by_other"]
    assert (await silence.adopt(second))[0] == 409
    await silence.passes(QUIET)
    row = await second.row()
    assert row is not None and not row["held_by_other"]
    status, answer = await silence.adopt(second)
    assert status == 200 and answer["instance"] == second.instance
    await silence.passes(2 * SILENCE)
    (now,) = held(silence.home)
    assert now.name == pod.name
    assert not silence.presence.alive(silence.process)


async def test_a_hub_that_has_dropped_the_broker_ends_nobodys_kernels(
    silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator who upgrades the Hub leaves out the values that it has for the broker."""
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.routes._HEARTBEAT", 0.02)
    home, ann, own = silence.home, silence.ann, "the-token-of-the-broker"
    home.hub.tokens[own] = {"kind": "service", "name": "gpu-share", "scopes": [], "groups": []}
    await home.callers.check_own(own)
    await silence.crash()
    scopes = home.hub.tokens[ann.token]["scopes"]
    bob = home.user("bob")
    async with bob.events(instance=True) as heard:
        await bob.start("b")
        scopes.remove(ACCESS)
        home.hub.tokens[bob.token]["scopes"].remove(ACCESS)
        del home.hub.tokens[own]
        home.clock.now += 30
        await eventually(lambda: home.callers.hub_away, "that is noticed")
        for _ in range(100):  # the silent one, too, has its time when the Hub knows the broker
            home.clock.now += AGAIN
            await silence.passes(AGAIN)
        assert len(held(home)) == 2 and silence.presence.alive(silence.process)
        status, why = await bob.refused("PUT", "/v1/shares/c", bob.plan())
        assert status == 503 and "nothing new" in why
        (kernel,) = (each for each in home.registry if each.key.user == "bob")
        kernel.reason = "news"
        home.registry.changed(kernel)
        async for _, kind, data in heard:
            if kind == "row" and data["row"]["reason"] == "news":
                break
    home.hub.tokens[ann.token]["scopes"].append(ACCESS)
    home.clock.now += 30
    await ann.until("k", "ready")


async def test_while_the_hub_accepts_its_token_it_has_time_to_come_back(silence: Silence) -> None:
    await silence.crash()
    for _ in range(int(SILENCE / AGAIN) - 1):
        await silence.passes(AGAIN)
        assert silence.presence.alive(silence.process)
    (kernel,) = silence.home.registry
    assert kernel.phase.value == "ready"
    await silence.passes(AGAIN)
    await eventually(lambda: kernel.phase.value == "ended", "nobody has come")


async def test_one_that_was_stopped_is_gone_at_once(silence: Silence) -> None:
    await silence.crash()
    del silence.home.hub.tokens[silence.ann.token]
    await silence.passes(QUIET)
    assert not silence.presence.alive(silence.process)
    await eventually(lambda: not held(silence.home), "the share is back")


async def test_a_token_that_is_another_servers_by_now_is_refused_too(silence: Silence) -> None:
    await silence.crash()
    other = silence.home.user("ann", "lab")
    silence.home.hub.tokens[silence.ann.token] = silence.home.hub.tokens[other.token]
    await silence.passes(QUIET)
    assert not silence.presence.alive(silence.process)


async def test_while_the_hub_is_away_nobody_is_gone(silence: Silence) -> None:
    await silence.crash()
    silence.home.hub.trouble = 0
    await silence.passes(QUIET)
    for _ in range(10):
        await silence.passes(SILENCE)
        silence.home.clock.now += SILENCE
        assert silence.presence.alive(silence.process)
    assert len(held(silence.home)) == 1
    silence.home.hub.trouble = None
    del silence.home.hub.tokens[silence.ann.token]
    await silence.passes(AGAIN)
    assert not silence.presence.alive(silence.process)


async def test_a_server_that_was_stopped_ends_nothing_of_the_next(silence: Silence) -> None:
    """The old stream's token is refused while the next process, with its own, is there already."""
    await silence.crash()
    second = silence.home.user("ann")
    await second.start("other")
    del silence.home.hub.tokens[silence.ann.token]
    await silence.passes(QUIET)
    assert not silence.presence.alive(silence.process)
    assert silence.presence.alive(Process("ann", "", second.instance))


async def test_tokens_are_kept_while_there_are_kernels_and_shown_nowhere(
    silence: Silence,
) -> None:
    ann, proofs = silence.ann, silence.home.registry.proofs
    await ann.ok("PUT", "/v1/idle", {"kernels": {}})
    assert not len(proofs)
    row = await ann.start()
    assert len(proofs) == 1
    assert ann.token not in repr(proofs) + repr(vars(proofs)) + str(proofs._tokens)
    await ann.ok("DELETE", f"/v1/shares/k?attempt={row['attempt']}")
    assert not len(proofs)
    await ann.start("second")
    silence.home.gone(ann)
    assert not len(proofs)
    await ann.refused("POST", "/v1/shares/second/take", {"attempt": row["attempt"]})
    silence.home.registry.prove(silence.process, ann.token)  # a request that ends only now
    assert not len(proofs)


async def test_who_has_said_that_it_ends_changes_nothing_any_more(silence: Silence) -> None:
    row = await silence.ann.start()
    await silence.ann.ok("DELETE", "/v1/servers/self")
    take = {"attempt": row["attempt"]}
    assert (await silence.ann.refused("POST", "/v1/shares/k/take", take))[0] == 409
    assert (await silence.ann.refused("PUT", "/v1/shares/k", silence.ann.plan()))[0] == 409
    assert not silence.presence.alive(silence.process)


@pytest.mark.parametrize(
    ("error", "refused"), [(UnknownToken, True), (NotAllowed, True), (HubAway, False)]
)
async def test_what_the_hub_says_of_a_token(error: type[Exception], refused: bool) -> None:
    class Asked:
        async def now(self, token: str) -> None:
            raise error("x")

    told: list[Process] = []
    process = Process("ann", "", "a" * 32)
    proofs = Proofs(Asked(), told.append)  # type: ignore[arg-type]
    proofs.ask(process)  # of which no token is known
    assert not proofs._asking
    proofs.keep(process, "t" * 20)
    proofs.ask(process)
    await eventually(lambda: not proofs._asking, "it was asked")
    assert told == [process] * refused
    await proofs.close()


async def test_an_agent_that_is_not_reached_holds_up_no_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_parked, "_GREETING", 0.2)
    public, secret = (key.decode() for key in zmq.curve_keypair())
    nowhere = Connection("tcp", "127.0.0.1", {}, b"k" * 32, "hmac-sha256", public, secret)
    context = zmq.asyncio.Context()
    listening, port = bind_unused_port()  # and says nothing
    try:
        parking = _parked.park(
            nowhere,
            instance="a" * 32,
            before="b" * 32,
            vacate=True,
            watchdog=3600.0,
            patience=1000.0,
            context=context,
            port=port,
        )
        parked = await asyncio.wait_for(parking, 20)
    finally:
        context.destroy(linger=0)
        listening.close()
    assert not parked.vacated and "did not answer" in parked.why
