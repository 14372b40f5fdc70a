"""Real kernels that others end, as a cluster does with their pods: what becomes of their cells."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from managers import Kernels, controller, run, running, state
from waiting import eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.engines.base import Removal
from jupyter_gpu_share.engines.local import LocalEngine
from jupyter_gpu_share.kernels.facts import Phase, Work
from jupyter_gpu_share.runtime import Runtime

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_gpu")]

WHO = "import os; x = [1, 2]; y = x; print(os.getpid())"
LOOK = "import os; print(os.getpid(), x is y, x)"


class Others:
    """Take away once what a kernel of the engine runs in, and leave it an hour."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._begun: asyncio.Event | None = None
        self.told = False
        others = self

        async def removed(engine: LocalEngine, kernel_id: str) -> Removal:
            again, others._begun = others._begun is not None, asyncio.Event()
            await others._begun.wait()
            assert not again, "the next process is nobody's business"
            return Removal("The pod is evicted.", 3600.0)

        def removal(engine: LocalEngine, kernel_id: str) -> Removal | None:
            return Removal("The pod is evicted.", 3600.0) if others.told else None

        async def let_go(engine: LocalEngine, kernel_id: str) -> None:
            await engine.signal(kernel_id, signal.SIGKILL)

        for method in (removed, removal, let_go):
            monkeypatch.setattr(LocalEngine, method.__name__, method)

    async def evict(self, manager: Any) -> None:
        """Begin, and wait until nothing more reaches the kernel."""
        await eventually(lambda: self._begun is not None, "somebody listens")
        self.told = True
        assert self._begun is not None
        Runtime.instance().loop.call_soon_threadsafe(self._begun.set)
        one = controller(manager)

        def closed() -> bool:
            return one.facts.phase is not Phase.RUNNING or (
                one.facts.work is Work.RESCUE and not one.relay.attached
            )

        await eventually(closed, "nothing more reaches it")


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Others:
    return Others(monkeypatch)


async def test_cells_that_follow_each_other_go_on_in_the_next_process(
    kernels: Kernels, others: Others, tmp_path: Path
) -> None:
    """Papermill sends the next one as soon as one is answered."""
    manager, client = await kernels.computed(WHO)
    before = await run(client, "print(os.getpid())")
    go = tmp_path / "go"
    code = f"import time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nx.append(3)"

    async def two() -> str:
        cell = await running(client, tmp_path, code)
        told = await cell
        assert told == "", told
        return await run(client, LOOK)

    notebook = asyncio.ensure_future(two())
    await eventually((tmp_path / "runs").exists, "the first one runs")
    await others.evict(manager)
    assert state(manager) is State.ACTIVE
    go.touch()
    told = await notebook
    assert "True [1, 2, 3]" in told, told
    assert "variables are back" in told
    assert before not in told


async def test_a_cell_that_is_interrupted_says_why_and_those_behind_it_are_not_lost(
    kernels: Kernels, others: Others, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.kernels._rescue._INTERRUPT_AFTER", 0.0)
    manager, client = await kernels.computed(WHO)
    cell = await running(client, tmp_path, "import time; time.sleep(3600)")
    await others.evict(manager)
    told = await cell
    assert "KeyboardInterrupt" in told
    assert "The running cell is interrupted, so that the variables can be saved." in told
    assert "True [1, 2]" in await run(client, LOOK)


async def test_where_nothing_is_saved_no_cell_runs_and_the_next_one_says_why(
    kernels: Kernels, others: Others, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, client = await kernels.computed(WHO)
    runs, mark = tmp_path / "runs", tmp_path / "ran"
    client.execute(f"open({str(runs)!r}, 'w').close()\nimport time; time.sleep(3600)")
    await eventually(runs.exists, "a cell runs")
    await others.evict(manager)
    waits = asyncio.ensure_future(run(client, f"open({str(mark)!r}, 'w').close()"))
    relay = controller(manager).relay
    await eventually(lambda: relay.held == 1, "the next cell waits")
    monkeypatch.setattr("jupyter_gpu_share.kernels._rescue._GIVE_UP_AFTER", 0.0)
    await eventually(lambda: state(manager) is State.FAILED, "it is dead")
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert "could not be saved: a cell ran that did not end" in row.reason
    told = await waits
    assert told == "DeadKernelError"
    assert not mark.exists()
    await manager.restart_kernel(now=True)
    said = await run(client, "print('anew')")
    assert said.startswith("The pod is evicted. The variables could not be saved"), said
    assert "Run its cells again." in said and said.endswith("anew")
    assert await run(client, "print('again')") == "again"
