"""A fake broker of a cluster, and what one process of a user's server has to talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from fake_cluster_broker import TOKEN, FakeClusterBroker, fake_broker
from server_processes import Process

from jupyter_gpu_share.broker import http_client
from jupyter_gpu_share.broker.http_client import HttpBroker
from jupyter_gpu_share.engines.kubernetes import _followed, _remote_objects, _writes
from jupyter_gpu_share.engines.kubernetes._followed import Followed
from jupyter_gpu_share.engines.kubernetes._row import Row


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between two tries are short here."""
    monkeypatch.setattr(http_client, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(http_client, "_LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(_followed, "_REFUSED_PAUSE", 0.1)
    monkeypatch.setattr(_writes, "_PAUSE", 0.02)
    monkeypatch.setattr(_writes, "_LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(_remote_objects, "_FOLLOWS", 1.0)


@pytest.fixture
async def broker() -> AsyncIterator[FakeClusterBroker]:
    """A fake broker with one GPU."""
    async with fake_broker() as found:
        yield found


@pytest.fixture
async def process(broker: FakeClusterBroker) -> AsyncIterator[Callable[..., Process]]:
    """Makes processes of alice's server."""
    made: list[Process] = []

    def make(instance: str = "", **settings: Any) -> Process:
        http = HttpBroker(broker.url, TOKEN, instance or uuid4().hex, **settings)
        unknown: list[Row] = []
        followed = Followed(http, unknown.append)
        followed.open()
        made.append(Process(http, followed, unknown))
        return made[-1]

    yield make
    for one in made:
        await one.followed.close()
        await one.http.close()
