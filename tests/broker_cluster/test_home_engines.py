"""The engine of a server without rights, over the real broker on a real cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from brokers_of_cluster import RunningClusterBroker, cluster_broker
from cluster.fixtures import CLUSTER_MARKS
from kernel_talk import printed
from waiting import eventually

from jupyter_gpu_share.engines.base import KernelRequest, Running
from jupyter_gpu_share.engines.kubernetes import BrokeredEngine
from jupyter_gpu_share.size import Size

pytestmark = CLUSTER_MARKS

KEY = b"0123456789abcdef0123456789abcdef"
ARGV = ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
LONG = 90.0


@pytest.fixture
async def broker(
    cluster: Any, namespace: str, tmp_path: Path
) -> AsyncIterator[RunningClusterBroker]:
    settings = {"style": "lease", "renewal": 1.0}
    async with cluster_broker(tmp_path, cluster.kubeconfig, namespace, **settings) as running:
        yield running


@pytest.fixture
async def engines(
    broker: RunningClusterBroker, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], BrokeredEngine]]:
    """Makes engines: each is what one process of ann's server has."""
    monkeypatch.setenv("JUPYTER_GPU_SHARE_BROKER", broker.url)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", broker.user("ann").token)
    made: list[BrokeredEngine] = []

    def make() -> BrokeredEngine:
        made.append(BrokeredEngine())
        return made[-1]

    yield make
    for engine in made:
        await engine.close()


def request(kernel_id: str, size: str) -> KernelRequest:
    return KernelRequest(kernel_id, "python3", Size.parse(size), ARGV, {}, KEY, path="n.ipynb")


async def started(engine: Any, kernel_id: str = "k", size: str = "1/4") -> Running:
    running: Running = await asyncio.wait_for(
        engine.start(request(kernel_id, size), lambda news: None), LONG
    )
    return running


async def run(running: Running, code: str) -> str:
    """Run a cell; what it printed."""
    return await printed(running.connection, code, LONG)


async def test_a_kernel_lives_through_all_that_becomes_of_it(
    engines: Callable[[], BrokeredEngine], broker: RunningClusterBroker, cluster: Any
) -> None:
    engine = engines()
    running = await started(engine)
    assert await run(running, "x = 42; print(x)") == "42"
    await engine.give_back("k")
    await engine.take_back("k", lambda news: None)
    grown = await engine.change("k", Size.parse("1/2"))
    assert grown.memory_bytes > 1.9 * running.share.memory_bytes
    broker.kill()
    assert await run(running, "print(x)") == "42", "the broker is away, and the kernel computes"
    giving = asyncio.create_task(engine.give_back("k"))
    broker.start()
    await broker.ready()
    await asyncio.wait_for(giving, LONG)
    await eventually(lambda: not engine.unanswered("k"), "it is known what became of it", LONG)
    await asyncio.wait_for(engine.take_back("k", lambda news: None), LONG)
    assert await run(running, "print(x)") == "42"
    (row,) = await engine.allocations()
    assert (row.user, row.size) == ("ann", "1/2")
    found = {finding.level for finding in await engine.diagnose()}
    assert "error" not in found
    await engine.stop("k")
    assert await engine.allocations() == []


async def test_the_next_process_has_the_kernel_with_its_variables(
    engines: Callable[[], BrokeredEngine], broker: RunningClusterBroker
) -> None:
    first = engines()
    running = await started(first)
    await run(running, "x = 42")
    await first.give_back("k")
    kernel = first._kernels.pop("k")  # it is killed: nothing of it is said any more
    assert kernel.link is not None
    await kernel.link.close()
    await first.leave()
    second = engines()
    found = await eventually(lambda: second.adoptable(), "it is found", LONG)
    assert [each.kernel_id for each in found] == ["k"]
    taken = await started(second)
    assert taken.away
    assert await run(taken, "print(x)") == "42"
