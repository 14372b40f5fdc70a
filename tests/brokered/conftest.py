"""A fake broker of a cluster, and what one process of a user's server has to talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from fake_cluster_broker import TOKEN, FakeClusterBroker, fake_broker

from jupyter_gpu_share.broker import http_client
from jupyter_gpu_share.broker.client import BrokerRefused
from jupyter_gpu_share.broker.http_client import HttpBroker, share_path
from jupyter_gpu_share.engines.kubernetes import _followed, _remote_objects, _writes
from jupyter_gpu_share.engines.kubernetes._followed import Followed
from jupyter_gpu_share.engines.kubernetes._objects import KernelPlan, Keys
from jupyter_gpu_share.engines.kubernetes._remote_objects import RemoteObjects
from jupyter_gpu_share.engines.kubernetes._row import Row
from jupyter_gpu_share.size import Size

KEY = b"0123456789abcdef0123456789abcdef"


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


@dataclass
class Process:
    """What one process of alice's server has."""

    http: HttpBroker
    followed: Followed
    unknown: list[Row]

    def kernel(self, kernel_id: str = "k", size: str = "1/2", **plan: Any) -> RemoteObjects:
        """The objects of a kernel, with keys."""
        keys = Keys.new(KEY, "hmac-sha256", encrypt=True)
        made = KernelPlan(kernel_id, "python3", Size.parse(size), keys=keys, **plan)
        return RemoteObjects(self.http, self.followed, made)

    async def end_unknown(self) -> None:
        """End the kernels of this process of which nobody here knows."""
        for row in self.unknown:
            try:
                await self.http.ask("DELETE", share_path(row.kernel_id, f"?attempt={row.attempt}"))
            except BrokerRefused:
                continue


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
