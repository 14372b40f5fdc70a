"""A broker takes a share whose server is silent, and tells; its clock is moved by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE, eventually

from jupyter_gpu_share._threads import in_thread
from jupyter_gpu_share.broker.client import BrokerClient
from jupyter_gpu_share.broker.daemon import LocalBroker
from jupyter_gpu_share.broker.idle import GRACE

SIMULATE = "1xA100-80GB"


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[LocalBroker]:
    own = LocalBroker(
        socket=str(tmp_path / "broker.sock"), folder=str(tmp_path / "state"), simulate=SIMULATE
    )
    await own.start()
    yield own
    await own.close()


@pytest.fixture
def kernel() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.communicate(b"\n", timeout=PATIENCE)


async def test_a_share_is_taken_from_a_server_that_says_nothing(
    broker: LocalBroker, kernel: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    def ask_now(*request: Any) -> Any:
        with closing(BrokerClient(Path(broker.socket))) as client:
            return client.ask(*request)

    async def ask(*request: Any) -> Any:
        return await in_thread(ask_now, *request)

    idle = {"kernels": {"a": {"idle_seconds": 3600, "size": "1"}}}
    await ask("PUT", "/v1/shares/a", {"size": "1"})
    await ask("PATCH", "/v1/shares/a", {"kernel_pid": kernel.pid})
    await ask("PUT", "/v1/shares/new", {"size": "1"})
    answer = await ask("PUT", "/v1/idle", idle)
    assert answer["taken"] == []
    real, later = broker.store.clock, timedelta(seconds=answer["wanted"]["a"]) + GRACE
    broker.store.clock = lambda: real() + later

    async def states() -> dict[str, str]:
        broker._look()
        return {row["kernel_id"]: row["state"] for row in await ask("GET", "/v1/shares")}

    async def taken() -> bool:
        return await states() == {"new": "held"}

    await eventually(taken, "who waited has it")
    assert "did not give its share of 1 back in time; nothing is left to it" in caplog.text
    assert kernel.poll() is None, "the kernel and its variables stay"
    assert (await ask("PUT", "/v1/idle", idle))["taken"] == ["a"]
    kinds = [event.kind for event in broker.events._kept if event.whose == os.getuid()]
    assert "taken" in kinds
