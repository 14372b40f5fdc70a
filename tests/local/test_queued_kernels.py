"""The engine `local` with kernels that wait: started, given up, closed, and looked at."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.engines.base import KernelRequest, Running
from jupyter_gpu_share.engines.local import LocalEngine
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.size import Size


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LocalEngine]:
    own = LocalEngine(directory=str(tmp_path), simulate="1xA100-80GB", queue_interval=0.02)
    yield own
    await own.close()


def request(kernel: str, size: str) -> KernelRequest:
    argv = [sys.executable, "-c", "import time; time.sleep(99)"]
    return KernelRequest(kernel, "python3", Size.parse(size), argv, {}, b"key")


def start(engine: LocalEngine, kernel: str, size: str) -> tuple[asyncio.Task[Running], list[Any]]:
    told: list[Any] = []
    return asyncio.create_task(engine.start(request(kernel, size), told.append)), told


async def queued(engine: LocalEngine, *kernels: str) -> list[asyncio.Task[Running]]:
    """Kernels that wait for a whole GPU, in this order."""
    tasks = []
    for kernel in kernels:
        task, told = start(engine, kernel, "1")
        await eventually(lambda told=told: told, "it waits")
        tasks.append(task)
    return tasks


async def test_a_start_that_is_given_up_leaves_the_queue_to_the_others(engine: LocalEngine) -> None:
    first, _ = start(engine, "a", "1")
    await asyncio.wait_for(first, PATIENCE)
    leaves, stays = await queued(engine, "b", "c")
    leaves.cancel()
    await asyncio.wait({leaves})
    await engine.stop("a")
    assert (await asyncio.wait_for(stays, PATIENCE)).share.devices
    assert [row.kernel_id for row in await engine.allocations()] == ["c"]


async def test_a_share_is_taken_back_when_it_is_free(engine: LocalEngine) -> None:
    first, _ = start(engine, "a", "3/4")
    await asyncio.wait_for(first, PATIENCE)
    await engine.give_back("a")
    rival, _ = start(engine, "b", "1/2")
    await asyncio.wait_for(rival, PATIENCE)
    told: list[Any] = []
    back = asyncio.create_task(engine.take_back("a", told.append))
    await eventually(lambda: told, "it waits")
    await engine.stop("b")
    assert (await asyncio.wait_for(back, PATIENCE)) == first.result().share


async def test_closing_ends_who_waits_and_leaves_nothing(engine: LocalEngine) -> None:
    before = asyncio.all_tasks()
    first, _ = start(engine, "a", "1")
    await asyncio.wait_for(first, PATIENCE)
    tasks = await queued(engine, "b", "c")
    path = engine._ledger_path
    await engine.close()
    for task in tasks:
        with pytest.raises(EngineError, match="is closed"):
            await asyncio.wait_for(task, PATIENCE)
    await eventually(lambda: asyncio.all_tasks() == before, "no task is left")
    ledger = Ledger(path)
    assert ledger.claims() == []
    ledger.close()


async def test_closing_gives_up_the_places_of_those_that_wait(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether their starts are undone before or after."""
    closed, undo = asyncio.Event(), engine.stop

    async def stop(kernel_id: str, *, keep_share: bool = False) -> None:
        await closed.wait()
        await undo(kernel_id, keep_share=keep_share)

    monkeypatch.setattr(engine, "stop", stop)
    await engine.capacity()
    ledger = Ledger(engine._ledger_path)
    ledger.claim("rival", Size.parse("1"), this_process(), {})
    (task,) = await queued(engine, "b")
    await engine.close()
    assert [claim.kernel_id for claim in ledger.claims()] == ["rival"]
    closed.set()
    with pytest.raises(EngineError, match="is closed"):
        await asyncio.wait_for(task, PATIENCE)
    ledger.close()


async def test_what_fits_is_told_for_all_sizes_at_once(engine: LocalEngine) -> None:
    first, _ = start(engine, "a", "1/2")
    await asyncio.wait_for(first, PATIENCE)
    sizes = [Size.parse(text) for text in ("1/2", "3/4", "0", "2x1", "90GiB")]
    free = await engine.fits_each(None, sizes)
    assert free == [await engine.fits(None, size) for size in sizes]
    assert [why is None for why in free] == [True, False, True, False, False]
    assert "has 40 GiB of 80 GiB free" in str(free[1])
    assert "needs 2 GPUs" in str(free[3])
    assert "more than the largest" in str(free[4])
    own = await engine.fits_each("a", sizes)
    assert [why is None for why in own] == [True, True, True, False, False]


async def test_a_snapshot_tells_whose_return_would_serve_whom(engine: LocalEngine) -> None:
    assert await engine.snapshot() is None
    for kernel in ("a", "b"):
        task, _ = start(engine, kernel, "1/2")
        await asyncio.wait_for(task, PATIENCE)
    assert await engine.snapshot() is None
    tasks = await queued(engine, "c")
    small, told = start(engine, "d", "1/4")
    await eventually(lambda: told, "it waits")
    snapshot = await engine.snapshot()
    assert snapshot is not None
    assert [(one.kernel_id, str(one.size)) for one in snapshot.waiting] == [
        ("c", "1"),
        ("d", "1/4"),
    ]
    assert snapshot.served([]) == frozenset()
    assert snapshot.served(["a"]) == frozenset(), "who came first has the GPU reserved"
    assert snapshot.served(["a", "b", "nobody", "c"]) == {0}
    assert (snapshot := await engine.snapshot()) is not None
    assert [str(waiter.size) for waiter in snapshot.waiting] == ["1", "1/4"]
    for one in (*tasks, small):
        one.cancel()
        await asyncio.wait({one})


async def test_a_ledger_that_is_removed_gets_the_claims_of_kernels_that_run(
    engine: LocalEngine,
) -> None:
    """By the readings that are taken all the time: nobody else may come first for long."""
    running, _ = start(engine, "a", "3/4")
    await asyncio.wait_for(running, PATIENCE)
    path = engine._ledger_path
    path.unlink()
    await engine.usage(frozenset())
    ledger = Ledger(path)
    assert [(claim.kernel_id, claim.held) for claim in ledger.claims()] == [("a", True)]
    ledger.close()


async def test_a_claim_of_another_container_is_told_and_not_measured(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process number is somebody else's here."""
    running, _ = start(engine, "a", "3/4")
    await asyncio.wait_for(running, PATIENCE)
    raw = sqlite3.connect(engine._ledger_path)
    with raw:
        raw.execute("UPDATE claims SET namespace = '1', host = 'node7'")
    raw.close()
    read: list[Any] = []

    async def readings(running: Any) -> dict[str, Any]:
        read.append(running)
        return {}

    monkeypatch.setattr(engine._machine, "read", readings)
    (row,) = await engine.allocations()
    assert "another container on node7" in row.reason
    assert read == [{}]
    assert any("Once it has ended" in (row.fix or "") for row in await engine.diagnose())
