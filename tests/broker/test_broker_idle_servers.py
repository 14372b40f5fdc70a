"""A real Jupyter server whose user's rule keeps shares, beside a broker whose rules give them."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from servers import Server, run_server, stop_server
from traitlets.config import Config
from waiting import PATIENCE, eventually

from jupyter_gpu_share._threads import in_thread
from jupyter_gpu_share.broker.client import BROKER, BrokerClient
from jupyter_gpu_share.broker.daemon import LocalBroker
from jupyter_gpu_share.broker.idle import GRACE
from jupyter_gpu_share.kernels._idle_rule import _AGAIN

pytestmark = pytest.mark.slow

#: Seconds: too long for a test; the broker's clock is moved by hand then.
_LONG = 600.0


class World:
    """One simulated GPU, a broker in this process, a server, and another that asks for a share."""

    def __init__(self, folder: Path, warned: float) -> None:
        socket = folder / "broker.sock"
        rules = {"idle_after": 0.0, "demand_after": 0.0, "warn_before": warned}
        self.broker = LocalBroker(
            config=Config(IdlePolicy=rules),
            socket=str(socket),
            folder=str(folder / "state"),
            simulate="1xA100-80GB",
        )
        self.rival = BrokerClient(socket)
        self.server: Server | None = None
        self.kernel = ""

    async def start(self, folder: Path) -> None:
        await self.broker.start()
        options = ("--IdlePolicy.rule=never", "--IdlePolicy.idle_after=0.1")
        self.server = await in_thread(run_server, folder, *options)
        self.kernel = await in_thread(self.server.start_kernel, "1")
        assert await self.cell("x = [42]; print(x)") == "[42]"

    async def close(self) -> None:
        await in_thread(self.rival.close)
        if self.server is not None:
            self.server.process.send_signal(signal.SIGCONT)
            await in_thread(stop_server, self.server)
        await self.broker.close()

    async def cell(self, code: str) -> str:
        assert self.server is not None
        return await in_thread(self.server.run_cell, self.kernel, code)

    async def promised(self) -> None:
        """Somebody waits, and the idle share of the server is asked back."""
        await in_thread(self.rival.ask, "PUT", "/v1/shares/rival", {"size": "1"})
        await eventually(lambda: self.broker.store.idle.promises, "it is asked back")

    async def served(self) -> bool:
        self.broker._look()
        rows = await in_thread(self.rival.ask, "GET", "/v1/shares")
        return any(row["kernel_id"] == "rival" and row["state"] == "held" for row in rows)

    async def allocation(self) -> Any:
        assert self.server is not None
        return await in_thread(self.server.ok, f"gpu-share/allocations/{self.kernel}")

    async def back(self) -> None:
        """The other gives its share back; a cell takes it."""
        await in_thread(self.rival.ask, "DELETE", "/v1/shares/rival")
        assert await self.cell("print(x)") == "[42]"
        assert (await self.allocation())["share"] is not None


@pytest.fixture
async def world(
    tmp_path: Path,
    jupyter_dirs: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> AsyncIterator[World]:
    monkeypatch.setenv(BROKER, str(tmp_path / "broker.sock"))
    made = World(tmp_path, request.param)
    try:
        await made.start(jupyter_dirs)
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("world", [5.0], indirect=True, ids=["soon"])
async def test_the_administrators_rules_win_over_a_users_never(world: World) -> None:
    await world.promised()
    row = await eventually(_announced(world), "its user is warned")
    assert "Somebody waits for a share; this one goes back after" in row["reason"]
    await eventually(world.served, "who waited has it")
    row = await world.allocation()
    assert (row["state"], row["reason"]) == (
        "released",
        "The variables are kept; the next cell takes the share back.",
    )
    await world.back()


@pytest.mark.parametrize("world", [_LONG], indirect=True, ids=["later"])
async def test_a_server_that_hangs_loses_the_share_and_hears_of_it(world: World) -> None:
    await world.promised()
    assert world.server is not None
    world.server.process.send_signal(signal.SIGSTOP)
    # What it has asked by then is answered first: told of a time that is over, it would give the
    # share back by itself.
    await in_thread(world.rival.ask, "GET", "/v1/shares")
    real, time = world.broker.store.clock, timedelta(seconds=_LONG) + GRACE
    world.broker.store.clock = lambda: real() + time
    await eventually(world.served, "who waited has it")
    world.server.process.send_signal(signal.SIGCONT)

    async def told() -> bool:
        row = await world.allocation()
        taken = "This share was taken for others, as it was not given back in time."
        return row["state"] == "released" and row["reason"].startswith(taken)

    await eventually(told, "its user is told", PATIENCE + _AGAIN)
    await world.back()
    assert "taken" not in (await world.allocation())["reason"]


def _announced(world: World) -> Any:
    async def announced() -> Any:
        row = await world.allocation()
        return row if row["next"] and row["next"]["action"] == "release" else None

    return announced
