"""What the engine does where a kernel is to be limited by the driver: pure, or without the service.

The service, true control groups and whole notebooks are in tests/driver.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import Device, Isolation, Share
from jupyter_gpu_share.engines._processes import CLAIM_VARIABLE
from jupyter_gpu_share.engines.base import Exit
from jupyter_gpu_share.engines.local import LocalEngine
from jupyter_gpu_share.engines.local._returns import Returns
from jupyter_gpu_share.engines.local._walls import Wall
from jupyter_gpu_share.errors import (
    CommandNotFoundError,
    EngineError,
    KernelStartError,
    LedgerError,
)
from jupyter_gpu_share.limiter import client

TOKEN = "f" * 32
SHARE = Share((Device("GPU-0", "A100", "here"),), 2**30, Fraction(1, 80), Isolation.DRIVER)
FRAMEWORK = Share(SHARE.devices, 2**30, Fraction(1, 80), Isolation.FRAMEWORK)


@pytest.fixture
def wall(tmp_path: Path) -> Wall:
    """One whose service does not run."""
    return Wall(str(tmp_path / "none.sock"), TOKEN, SHARE)


def test_a_kernel_of_another_isolation_is_as_it_would_be_without(tmp_path: Path) -> None:
    plain = Wall(str(tmp_path / "none.sock"), TOKEN, FRAMEWORK)
    assert plain.command(["docker", "run"], {}) == ["docker", "run"]
    end = Exit(client.NOT_JOINED, "its own")
    assert plain.explain(end) is end


def test_a_command_is_run_behind_the_wall(wall: Wall) -> None:
    command = wall.command([sys.executable, "-m", "x"], {})
    assert command[-3:] == [sys.executable, "-m", "x"]
    assert command[:3] == [sys.executable, "-I", "-S"]
    with pytest.raises(CommandNotFoundError, match="no such program"):
        wall.command(["no-such-program"], {"PATH": "/bin"})


@pytest.mark.parametrize("program", ["docker", "/usr/bin/podman"])
def test_what_a_service_starts_would_not_be_behind_it(program: str, wall: Wall) -> None:
    with pytest.raises(KernelStartError, match="does not reach it"):
        wall.command([program, "run"], {})


def test_why_a_kernel_was_not_started_is_said(wall: Wall) -> None:
    assert "memory limit could not be set" in wall.explain(Exit(client.NOT_JOINED, "")).reason
    assert wall.explain(Exit(1, "other")).reason == "other"


@pytest.mark.parametrize("method", ["build", "move", "close"])
async def test_without_the_service_nothing_is_done(method: str, wall: Wall) -> None:
    from jupyter_gpu_share.engines.local._enforcement import MpsStatus

    more: tuple[Any, ...] = (MpsStatus.absent(),) if method == "build" else ()
    with pytest.raises(EngineError, match="does not answer"):
        await getattr(wall, method)(SHARE, *more)


@pytest.fixture
def left() -> Iterator[subprocess.Popen[bytes]]:
    """A process that a kernel left behind."""
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, CLAIM_VARIABLE: TOKEN}) as process:
        yield process
        process.kill()


async def test_a_share_is_held_while_something_is_left_that_nobody_ends(
    wall: Wall, left: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[int] = []

    class Ledger:
        def release(self, kernel_id: str) -> None:
            released.append(left.poll() is not None)

    async def at_ledger(work: Callable[[Any], Any]) -> Any:
        return work(Ledger())

    monkeypatch.setattr("jupyter_gpu_share.engines.local._returns._INTERVAL", 0.01)
    looks: list[None] = []
    returns = Returns(at_ledger, lambda: looks.append(None), lambda kernel_id: False)
    await returns.give("k", wall)
    assert (released, len(looks)) == ([], 1)
    left.kill()
    left.wait(PATIENCE)
    await eventually(lambda: released, "it is given back")
    assert released == [True]
    await eventually(lambda: len(looks) == 2, "who waits is told")
    await returns.close()


class Recorded(Wall):
    """One that only notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__("", TOKEN, SHARE)
        self.limits: list[int] = []

    async def move(self, share: Share) -> None:
        self.limits.append(share.memory_bytes)

    async def close(self, share: Share) -> None:
        self.limits.append(0)


async def test_a_share_that_could_not_be_given_back_is_let_through_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, wall = LocalEngine(), Recorded()
    engine._kernels["k"] = SimpleNamespace(wall=wall, share=SHARE)  # type: ignore[assignment]

    async def at_ledger(work: Any) -> Any:
        raise LedgerError("The disk is full.")

    monkeypatch.setattr(engine, "_at_ledger", at_ledger)
    with pytest.raises(LedgerError):
        await engine.give_back("k")
    assert wall.limits == [0, SHARE.memory_bytes]


async def test_what_is_owed_is_tried_no_more_when_all_ends(wall: Wall, left: object) -> None:
    async def at_ledger(work: Callable[[Any], Any]) -> Any:
        raise AssertionError("it is held")

    returns = Returns(at_ledger, lambda: None, lambda kernel_id: False)
    await returns.give("k", wall)
    await returns.close()
    await returns.give("k", wall)  # nobody waits for it any more
