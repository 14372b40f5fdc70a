"""An engine that is given up while it says farewell closes its connections all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.engines.kubernetes import BrokeredEngine, KubernetesEngine


class Away:
    """Of a cluster that does not answer, and remembers what was closed."""

    def __init__(self) -> None:
        self.asked, self.closed = asyncio.Event(), False

    async def hang(self) -> None:
        self.asked.set()
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed = True


async def given_up(engine: Any, away: Away) -> None:
    closing = asyncio.create_task(engine.close())
    await asyncio.wait_for(away.asked.wait(), PATIENCE)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert away.closed


async def test_with_a_cluster_that_is_away() -> None:
    engine, away = KubernetesEngine(), Away()
    sweeper = Away()
    sweeper.close = away.hang  # type: ignore[method-assign]
    engine._sweeper, engine._cluster = sweeper, away  # type: ignore[assignment]
    await given_up(engine, away)


async def test_with_a_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, away = BrokeredEngine(), Away()
    monkeypatch.setattr(engine, "leave", away.hang)
    engine._http = away  # type: ignore[assignment]
    await given_up(engine, away)
