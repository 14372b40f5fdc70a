"""A fake of a cluster with a node and a pod of somebody else, whose looks are counted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from counted import Clock, CountedApi, gpu_node, gpu_pod, looked_at

from jupyter_gpu_share.engines.kubernetes._cluster import Cluster


@pytest.fixture
def api() -> CountedApi:
    api = CountedApi()
    api.put("nodes", gpu_node("node-1"))
    api.put("pods", gpu_pod("theirs", "node-1"))
    return api


@pytest.fixture
async def cluster(api: CountedApi) -> AsyncIterator[Cluster]:
    cluster = looked_at(api)
    yield cluster
    await cluster.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)
