"""The extension's own end: kernels first, in bounded time, then what tells of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from waiting import PATIENCE

from jupyter_gpu_share.errors import AbsentGpuError, NoGpuError
from jupyter_gpu_share.server import GpuShareApp, _app
from jupyter_gpu_share.server._default import DefaultProvisioner
from jupyter_gpu_share.server._stopping import settle_restarts, settle_starts, stop_restarters


class Said:
    """Notes the calls of an object's methods, in the order in which they come."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def closed(self, what: str) -> Any:
        said = self

        class Part:
            def close(self) -> None:
                said.calls.append(what)

        return Part()

    def runtime(self, stop: Callable[[], Coroutine[Any, Any, None]]) -> Any:
        said = self

        class Runtime:
            async def take_leave(self) -> None:
                said.calls.append("leave")

            async def stop(self) -> None:
                said.calls.append("stop")
                await stop()

        return Runtime()


class Manager(dict[str, object]):
    """As much of a kernel manager as the end of starts needs."""

    def __init__(self) -> None:
        super().__init__()
        self._pending_kernels: dict[str, asyncio.Task[None]] = {}

    def list_kernel_ids(self) -> list[str]:
        return list(self)

    def get_kernel(self, kernel_id: str) -> object:
        return self[kernel_id]


def extension(said: Said, stop: Callable[[], Coroutine[Any, Any, None]]) -> GpuShareApp:
    app = GpuShareApp()
    app._adopting = app._paths = None
    app._ending = set()
    app._events, app._metrics = said.closed("events"), said.closed("metrics")
    app._runtime = said.runtime(stop)

    class ServerApp:
        kernel_manager = Manager()

    app.serverapp = ServerApp()
    return app


async def never() -> None:
    await asyncio.Event().wait()


async def fails() -> None:
    raise RuntimeError("no")


async def at_once() -> None:
    pass


@pytest.mark.parametrize(
    ("stop", "says"),
    [(at_once, ""), (never, "have ended within 0.05 s"), (fails, "could not be ended in good")],
)
async def test_kernels_are_ended_before_the_events_and_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stop: Any, says: str
) -> None:
    monkeypatch.setattr(_app, "_STOP_PATIENCE", 0.05)
    said = Said()
    app = extension(said, stop)
    app.log = logging.getLogger(__name__)
    await asyncio.wait_for(app.stop_extension(), PATIENCE)
    assert said.calls == ["leave", "stop", "events", "metrics"]
    assert says in caplog.text


async def test_starts_that_gave_no_kernel_are_forgotten_and_others_are_not() -> None:
    manager = Manager()
    undone: list[str] = []

    async def under_way() -> None:
        try:
            await never()
        finally:
            undone.append("undone")

    async def comes() -> None:
        await asyncio.sleep(0)
        manager["comes"] = object()

    works = {"failed": at_once(), "slow": under_way(), "comes": comes(), "ends": never()}
    tasks = {name: asyncio.create_task(work) for name, work in works.items()}
    manager._pending_kernels.update(tasks)
    manager["ends"] = object()
    await asyncio.wait({tasks["failed"]})
    await asyncio.wait_for(settle_starts(manager, 0.05), PATIENCE)
    assert set(manager._pending_kernels) == {"comes", "ends"}
    assert undone == ["undone"]
    assert not tasks["ends"].done(), "what shuts a kernel down is left alone"
    tasks["ends"].cancel()
    await asyncio.wait({tasks["ends"]})


async def test_a_manager_of_another_kind_is_left_alone() -> None:
    await settle_starts(object(), 1.0)
    await settle_restarts(object(), 1.0)
    stop_restarters(object())


class Restarting:
    """A manager of kernels, one of which is in the middle of a restart that never ends."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.kernels = {name: Restarted(loop.create_future()) for name in ("there", "restarts")}
        self.kernels["there"].ready.set_result(None)

    def list_kernel_ids(self) -> list[str]:
        return list(self.kernels)

    def get_kernel(self, kernel_id: str) -> Restarted:
        return self.kernels[kernel_id]


class Restarted:
    def __init__(self, ready: asyncio.Future[None]) -> None:
        self.ready = ready
        self.shutting_down = False
        self.watched = True

    def stop_restarter(self) -> None:
        self.watched = False


async def test_no_kernel_is_started_again_by_a_server_that_stops() -> None:
    manager = Restarting()
    stop_restarters(manager)
    for kernel in manager.kernels.values():
        assert kernel.shutting_down
        assert not kernel.watched


async def test_a_restart_under_way_does_not_keep_a_server_from_stopping() -> None:
    manager = Restarting()
    await asyncio.wait_for(settle_restarts(manager, 0.05), PATIENCE)
    assert manager.kernels["restarts"].ready.cancelled()
    assert manager.kernels["there"].ready.result() is None


@pytest.mark.parametrize(
    ("error", "given_back"),
    [(AbsentGpuError("The driver sees no GPU."), True), (NoGpuError("It does not answer."), False)],
)
async def test_kernels_start_as_before_where_the_driver_has_no_gpu(
    error: Exception, given_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Runtime:
        async def gpus(self) -> Any:
            raise error

    async def adopt(*_: Any) -> None:
        pass

    monkeypatch.setattr(_app, "adopt_kernels", adopt)
    monkeypatch.delenv("JUPYTER_DEFAULT_PROVISIONER_NAME", raising=False)
    KernelProvisionerFactory.clear_instance()  # it may have been made under another variable
    app = GpuShareApp()
    app._default, app._ask_driver = DefaultProvisioner(None), True
    app._default.take()
    try:
        await app._begin(None, Runtime())  # type: ignore[arg-type]
        plain = SimpleNamespace(metadata={})
        assert app._default.starts_on_share(plain) is not given_back
    finally:
        app._default.give_back()
        KernelProvisionerFactory.clear_instance()
