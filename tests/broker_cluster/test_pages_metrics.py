"""The port on which Prometheus gets the metrics of a cluster's broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from served import TOLD, FakeHome
from test_hub_program import Lease, lease  # noqa: F401 - a fixture
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.testing import bind_unused_port
from traitlets.config import Config
from waiting import eventually

from jupyter_gpu_share.broker import metrics_port
from jupyter_gpu_share.broker.cluster.program import ClusterBroker
from jupyter_gpu_share.errors import EngineError

TOKEN = "a-token-for-prometheus"


@pytest.fixture
async def start(
    lease: list[Lease],  # noqa: F811 - the fixture of that name
) -> AsyncIterator[Callable[..., Any]]:
    """Starts a broker over a home, with these settings; the port of its metrics."""
    async with AsyncExitStack() as stack:

        async def run(home: Any, **settings: Any) -> int:
            holder, port = bind_unused_port()
            holder.close()
            config = Config()
            config.KubernetesEngine.namespace = "kernels"
            given = {"bind": "127.0.0.1:0", "metrics_bind": f"127.0.0.1:{port}", **settings}
            for name, value in given.items():
                setattr(config.Broker, name, value)
            made = ClusterBroker(lambda *_: home, TOLD, config=config)
            stack.push_async_callback(made.close)
            await made.start()
            return port

        yield run


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o440)
    return file


async def ask(port: int, token: str = "", path: str = "/metrics") -> HTTPResponse:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"http://127.0.0.1:{port}{path}"
    return await AsyncHTTPClient().fetch(url, headers=headers, raise_error=False)


def names(answer: HTTPResponse) -> list[str]:
    return [each.name for each in text_string_to_metric_families(answer.body.decode())]


async def test_prometheus_asks_without_a_token_of_the_hub(start: Callable[..., Any]) -> None:
    port = await start(FakeHome())
    answer = await ask(port)
    assert (answer.code, names(answer)) == (200, ["a"])
    # Nothing else of the broker is there.
    for path in ("/v1/machine", "/healthz", "/services/gpu-share/v1/admin/shares"):
        assert (await ask(port, path=path)).code == 404


async def test_without_the_token_of_the_file_nothing_is_told(
    start: Callable[..., Any], token_file: Path
) -> None:
    port = await start(FakeHome(), metrics_by_user=True, metrics_token_file=str(token_file))
    for wrong in ("", "another", TOKEN[:-1], f"{TOKEN}x"):
        answer = await ask(port, wrong)
        assert answer.code == 401
        assert b"HELP" not in answer.body
    answer = await ask(port, TOKEN)
    assert (answer.code, names(answer)) == (200, ["a"])


async def test_users_are_not_named_to_whoever_reaches_the_port(
    start: Callable[..., Any],
) -> None:
    with pytest.raises(EngineError, match=r"c\.Broker\.metrics_token_file"):
        await start(FakeHome(), metrics_by_user=True)


async def test_a_broker_that_is_not_ready_says_so(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_port, "_LIFETIME", 0.0)
    opened = asyncio.Event()

    class Slow(FakeHome):
        async def open(self) -> None:
            await opened.wait()
            await super().open()

    home, settings = Slow(), {}
    home.ready = False
    holder, port = bind_unused_port()
    holder.close()
    settings["metrics_bind"] = f"127.0.0.1:{port}"
    starting = asyncio.create_task(start(home, **settings))

    async def answers(status: int) -> bool:
        return (await ask(port)).code == status

    await eventually(lambda: answers(503), "it says that it is not ready")
    opened.set()
    await starting
    await eventually(lambda: answers(200), "it is ready")


async def test_an_address_that_is_taken_is_told(start: Callable[..., Any]) -> None:
    holder, port = bind_unused_port()
    with holder, pytest.raises(EngineError, match=r"c\.Broker\.metrics_bind"):
        await start(FakeHome(), metrics_bind=f"127.0.0.1:{port}")


async def test_by_default_there_is_no_such_port(start: Callable[..., Any]) -> None:
    port = await start(FakeHome(), metrics_bind="")
    with pytest.raises(ConnectionRefusedError):
        await ask(port)
