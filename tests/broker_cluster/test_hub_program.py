"""The broker's program in a cluster: what it is told, and what it does not begin without."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from served import TOLD, FakeHome
from traitlets.config import Config
from waiting import eventually

from jupyter_gpu_share.broker.cluster import program as module
from jupyter_gpu_share.broker.cluster.fence import FenceLost
from jupyter_gpu_share.broker.cluster.program import ClusterBroker
from jupyter_gpu_share.broker.daemon import LocalBroker
from jupyter_gpu_share.errors import EngineError, GpuShareError

LIMIT = {"resource": "gpus", "limit": 1, "scope": {"user": ["*"]}}


def broker(home: Any = None, **settings: Any) -> ClusterBroker:
    config = Config()
    for name, value in {"bind": "127.0.0.1:0", **settings}.items():
        setattr(config.Broker, name, value)
    config.KubernetesEngine.namespace = "kernels"
    return ClusterBroker(lambda *_: home or FakeHome(), TOLD, config=config)


@pytest.mark.parametrize("kind", [LocalBroker, ClusterBroker])
def test_both_homes_take_one_section(kind: Any, tmp_path: Any) -> None:
    config = Config()
    config.Broker.limits = [LIMIT]
    config.Broker.claims_per_user = 7
    config.Broker.folder = str(tmp_path)
    given = (lambda *_: FakeHome(), TOLD) if kind is ClusterBroker else ()
    made = kind(*given, config=config)
    assert made.claims_per_user == 7 and made.read_limits() is not None


def test_limits_that_make_no_sense_are_told() -> None:
    with pytest.raises(EngineError, match=r"c\.Broker\.limits"):
        broker(limits=[{"resource": "nonsense"}]).read_limits()


def test_without_a_name_it_does_not_begin() -> None:
    with pytest.raises(EngineError, match="JUPYTERHUB_SERVICE_NAME"):
        ClusterBroker(lambda *_: FakeHome(), {**TOLD, "JUPYTERHUB_SERVICE_NAME": ""})


def test_before_it_has_its_lease_it_writes_nothing() -> None:
    guards: list[Any] = []
    made = ClusterBroker(lambda _, guard: guards.append(guard) or FakeHome(), TOLD)  # type: ignore[func-returns-value]
    with pytest.raises(GpuShareError, match="before it has its Lease"):
        guards[0]()
    assert "secret" not in repr(made.hub)


@pytest.mark.parametrize("bind", ["8000", "localhost", "127.0.0.1:x", ":", "192.0.2.1:8000"])
async def test_an_address_that_it_cannot_have(bind: str) -> None:
    made = broker(bind=bind)
    with pytest.raises(EngineError, match=r"c\.Broker\.bind"):
        await made.start()
    await made.close()


class Lease:
    """Stands for the fence; is lost when a test says so."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.lost = asyncio.Event()
        self.released = False
        made.append(self)

    async def take(self) -> None:
        """It is free."""

    async def keep(self) -> None:
        await self.lost.wait()
        raise FenceLost("The broker ends, as the broker b has taken its place.")

    async def release(self) -> None:
        self.released = True

    def check(self) -> None:
        """It is held."""


made: list[Lease] = []


@pytest.fixture
def lease(monkeypatch: pytest.MonkeyPatch) -> list[Lease]:
    made.clear()
    monkeypatch.setattr(module, "Fence", Lease)

    async def check_own(*_: Any) -> None:
        return None

    monkeypatch.setattr(module.Callers, "check_own", check_own)
    return made


async def test_it_ends_in_good_order(lease: list[Lease]) -> None:
    home = FakeHome()
    running = asyncio.create_task(broker(home).run())
    await _opened(home)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(running, 10)
    assert home.closed and lease[0].released


async def test_what_does_not_end_is_ended_and_named(
    lease: list[Lease], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kubernetes would kill it, and nobody would know why."""
    ended: list[int] = []
    monkeypatch.setattr(module.os, "_exit", ended.append)
    monkeypatch.setattr(module, "_ENDED", 0.01)
    go = asyncio.Event()
    home = FakeHome()
    monkeypatch.setattr(home, "close", go.wait)
    running = asyncio.create_task(broker(home).run())
    await _opened(home)
    signal.raise_signal(signal.SIGTERM)
    await eventually(lambda: ended == [1], "it ends")
    assert "Left are: " in caplog.text and "Event.wait" in caplog.text
    go.set()
    await running


async def test_who_lost_its_lease_tidies_nothing_up(
    lease: list[Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(module.os, "_exit", ended.append)
    monkeypatch.setattr(module, "_LAST", 0.01)
    home = FakeHome()
    one = broker(home)
    running = asyncio.create_task(one.run())
    await _opened(home)
    lease[0].lost.set()
    with pytest.raises(FenceLost, match="has taken its place"):
        await asyncio.wait_for(running, 10)
    assert not home.closed and not lease[0].released
    await eventually(lambda: ended == [1], "whatever still runs in it ends too")
    await one.close()


async def test_a_home_that_cannot_open_is_told(lease: list[Lease]) -> None:
    class Broken(FakeHome):
        async def open(self) -> None:
            raise EngineError("The cluster has no GPU.")

    home = Broken()
    with pytest.raises(EngineError, match="no GPU"):
        await asyncio.wait_for(broker(home).run(), 10)
    assert home.closed and lease[0].released


async def _opened(home: FakeHome) -> None:
    await eventually(lambda: home.opened, "the home is opened")
