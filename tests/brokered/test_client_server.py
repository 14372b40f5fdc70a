"""A Jupyter server of the Hub without rights on the cluster. The broker is a fake; kernels run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fake_cluster_broker import TOKEN, FakeClusterBroker
from local_pods import LocalPods
from servers import Server, run_server, stop_server
from waiting import eventually

from jupyter_gpu_share.engines.user_limits import UserLimit
from jupyter_gpu_share.sentences import say

pytestmark = pytest.mark.slow


@pytest.fixture
async def serve(
    broker: FakeClusterBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Any]]:
    """Starts servers of alice, one after the other, in a folder of hers."""
    monkeypatch.setenv("JUPYTER_GPU_SHARE_BROKER", broker.url)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", TOKEN)
    # As a Hub sets it nowhere: the address of the broker suffices.
    monkeypatch.delenv("JUPYTER_DEFAULT_PROVISIONER_NAME", raising=False)
    broker.placed = "starting"
    pods = LocalPods(broker, tmp_path / "pods")
    running: list[Server] = []

    async def start(*arguments: str) -> Server:
        for old in (tmp_path / "alice" / "runtime").glob("jpserver-*"):
            old.unlink()
        server = await asyncio.to_thread(run_server, tmp_path / "alice", *arguments, simulate="")
        running.append(server)
        return server

    yield start
    for server in running:
        if server.process.poll() is None:
            await asyncio.to_thread(stop_server, server)
    await pods.close()


async def test_notebooks_run_in_pods_that_the_broker_makes(
    serve: Callable[..., Any], broker: FakeClusterBroker
) -> None:
    limit = UserLimit("kernels", "user", None, None, 3, 1).to_json()
    broker.limits = [limit]
    server = await serve()
    kernel = await asyncio.to_thread(server.open_notebook, "work.ipynb")
    assert await asyncio.to_thread(server.run_cell, kernel, "x = 42; print(x)") == "42"
    row = await asyncio.to_thread(server.ok, f"gpu-share/allocations/{kernel}")
    assert (row["engine"], row["backend"], row["style"]) == ("kubernetes", "dra", "lease")
    assert row["share"]["devices"], row
    assert broker.kernels[kernel].path == "work.ipynb"
    status = await asyncio.to_thread(server.ok, "gpu-share/status")
    assert status["engine"] == "kubernetes"
    assert status["limits"] == [limit]
    await asyncio.to_thread(server.ok, f"api/kernels/{kernel}", "DELETE")
    await eventually(lambda: not broker.kernels, "its pod ends")


async def test_sizes_tell_what_waits_from_what_a_limit_refuses(
    serve: Callable[..., Any], broker: FakeClusterBroker
) -> None:
    server = await serve()

    async def whole() -> tuple[bool, str, list[Any]]:
        found = await asyncio.to_thread(server.ok, "gpu-share/sizes")
        (one,) = [size for size in found["sizes"] if size["size"] == "1"]
        assert one["available"] is False
        return one["over_limit"], one["why"], [each["code"] for each in one["why_sentences"]]

    assert await whole() == (False, "No room.", [None])
    broker.why = say("waits-for-turn")
    assert await whole() == (False, broker.why, ["waits-for-turn"])
    amount = say("amount-gpu", number="1")
    broker.why = say("limit-user-has", name="alice", limit=amount, held=amount)
    assert await whole() == (True, broker.why, ["limit-user-has"])


async def test_a_server_that_is_told_to_end_says_so_before_all_else(
    serve: Callable[..., Any], broker: FakeClusterBroker
) -> None:
    server = await serve()
    kernel = await asyncio.to_thread(server.open_notebook, "work.ipynb")
    assert await asyncio.to_thread(server.run_cell, kernel, "print(1)") == "1"
    before = len(broker.asked)
    server.process.send_signal(signal.SIGTERM)
    await eventually(lambda: broker.left, "it says so")
    await asyncio.to_thread(server.process.wait, 30)
    changes = [what for what in broker.asked[before:] if not what.startswith("GET")]
    assert changes[0] == "DELETE /v1/servers/self", changes
    assert not [what for what in changes[1:] if what.startswith("DELETE")], changes
    assert kernel in broker.kernels, "what becomes of it is the broker's to say"


async def test_a_server_that_was_killed_is_followed_by_one_that_has_its_kernels(
    serve: Callable[..., Any], broker: FakeClusterBroker
) -> None:
    first = await serve()
    kernel = await asyncio.to_thread(first.open_notebook, "work.ipynb")
    assert await asyncio.to_thread(first.run_cell, kernel, "x = 42; print(x)") == "42"
    first.process.kill()
    await asyncio.to_thread(first.process.wait, 30)
    second = await serve()

    async def there() -> bool:
        return kernel in await asyncio.to_thread(second.kernels)

    await eventually(there, "it is taken over")
    assert await asyncio.to_thread(second.run_cell, kernel, "print(x)") == "42"
    assert len(broker.pods) == 1
