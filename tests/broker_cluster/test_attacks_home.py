"""What an attacker with a server of their own tries, and what an unlucky day brings: all users'
kernels with a fake cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from homes import FakeHome, User, fake_home, held
from waiting import eventually

from jupyter_gpu_share.engines.base import Connection
from jupyter_gpu_share.engines.kubernetes._parked import Parked


@pytest.fixture
async def home() -> AsyncIterator[FakeHome]:
    async with fake_home() as made:
        yield made


@pytest.fixture
def ann(home: FakeHome) -> User:
    return home.user("ann")


async def test_the_stream_of_an_earlier_server_does_not_end_the_next_ones_kernels(
    home: FakeHome, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start of a server has a token of its own; a node that is lost closes no connection."""
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.routes._HEARTBEAT", 0.05)
    async with ann.events(instance=True) as earlier:
        await anext(earlier)
        later = home.user("ann")
        await later.start()
        async with later.events(instance=True) as heard:
            await anext(heard)
            del home.hub.tokens[ann.token]
            home.clock.now += 30
            assert [each async for each in earlier][-1][1] == "row", "it ends: its token is none"
            home.registry.presence.look()
            (kernel,) = home.registry
            assert home.registry.presence.alive(kernel.process)
            assert held(home) and kernel.phase.value == "ready"


async def taken_over(home: FakeHome, ann: User, *, lost: int) -> tuple[User, dict[str, str]]:
    """A next process that asks for the kernel of the last one, ``lost`` times without an answer."""
    await ann.start()
    home.gone(ann)
    await eventually(lambda: bool(home.rules.lent), "it is kept without its share")
    home.cluster.lost_adoptions = lost
    second = ann.again()
    (row,) = await second.ok("GET", "/v1/shares")
    body = {"attempt": uuid4().hex, "before": row["instance"]}
    for _ in range(lost):
        assert (await second.ask("POST", "/v1/shares/k/adopt", body))[0] == 503
        (kernel,) = home.registry
        kernel.objects.look()
        assert not kernel.objects.lost and not kernel.phase.over
    return second, body


async def test_a_kernel_is_not_lost_though_the_answer_is_that_it_was_taken_over() -> None:
    async with fake_home(parking=parks) as home:
        ann = home.user("ann")
        second, body = await taken_over(home, ann, lost=2)
        await second.ok("POST", "/v1/shares/k/adopt", body)
        await second.ok("POST", "/v1/shares/k/settle", {"attempt": body["attempt"]})
        await second.until("k", "ready")
        assert len(home.rules.held) == 1 and not home.rules.lent, "it counts"
        assert (await second.ask("DELETE", f"/v1/shares/k?attempt={body['attempt']}"))[0] == 200
        assert not held(home)


async def test_whoever_comes_after_one_who_was_not_answered_gets_the_kernel() -> None:
    async with fake_home(parking=parks) as home:
        ann = home.user("ann")
        second, _ = await taken_over(home, ann, lost=1)
        home.gone(second)
        third = second.again()
        (row,) = await third.ok("GET", "/v1/shares")
        body = {"attempt": uuid4().hex, "before": row["instance"]}
        row = await third.ok("POST", "/v1/shares/k/adopt", body)
        assert row["instance"] == third.instance and held(home)[0].owner.instance == third.instance


async def test_nothing_is_left_where_the_answer_was_lost_and_nobody_comes_back() -> None:
    async with fake_home(parking=parks, kept=0.05) as home:
        ann = home.user("ann")
        await ann.start()
        home.cluster.lost_adoptions = 1
        home.gone(ann)
        await eventually(lambda: not held(home), "it was ended as it could not be parked")
        assert not home.rules.held


async def parks(connection: Connection, before: str) -> Parked:
    return Parked(True)
