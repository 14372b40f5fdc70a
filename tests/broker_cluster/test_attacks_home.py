"""What an attacker with a server of their own tries, and what an unlucky day brings: all users'
kernels with a fake cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from homes import FakeHome, User, fake_home, held
from waiting import eventually


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
