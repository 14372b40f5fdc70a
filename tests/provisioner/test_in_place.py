"""A share goes and comes back while the kernel's process lives on; variables stay where they are.

The GPU is simulated, and so is its memory, which is moved away and back by the same steps.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from managers import GIB, Kernels, active, controller, free, free_is, interrupted, run, state
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.engines.base import Usage
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.errors import GpuShareError, LedgerError, NotPossible
from jupyter_gpu_share.runtime import Runtime

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_gpu")]

COMPUTE = """
from gpu_share_kernel import simulated
memory = simulated.allocate("30GiB")
rows = [1, 2]
again = {"rows": rows}
numbers = (n for n in range(3)); first = next(numbers)
"""
LOOK = (
    "import os; rows.append(3); "
    "print(os.getpid(), again['rows'] is rows, rows, next(numbers), simulated.memory()[0] >> 30)"
)


async def release(manager: Any, **options: Any) -> None:
    await Runtime.instance().release(manager.kernel_id, lose_variables=False, **options)


async def in_use(manager: Any) -> int | None:
    """Bytes that the engine sees the kernel use."""
    runtime = Runtime.instance()
    engine = await runtime.call(runtime.engine())
    found = await runtime.call(engine.usage(frozenset()))
    return found[manager.kernel_id].used_bytes


async def test_another_has_the_share_meanwhile_and_every_variable_is_there_afterwards(
    kernels: Kernels,
) -> None:
    manager, client = await kernels.computed(COMPUTE)
    pid = await run(client, "import os; print(os.getpid())")
    await release(manager)
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert (row.state, row.share, row.kept.how, row.kept.lost) == (
        State.RELEASED,
        None,
        "in-place",
        (),
    )
    assert "variables are kept" in row.reason
    assert await free() == 80 * GIB
    assert await in_use(manager) == 0
    assert await manager.is_alive()
    rival = await kernels.start("1")
    other = await kernels.client(rival)
    taken = "from gpu_share_kernel import simulated; m = simulated.allocate('80GiB'); print('ok')"
    assert await run(other, taken) == "ok"
    await rival.shutdown_kernel()
    assert await run(client, LOOK) == f"{pid} True [1, 2, 3] 1 30"
    await active(manager)
    assert await free() == 20 * GIB
    assert await in_use(manager) == 30 * GIB


async def test_it_waits_for_its_share_and_cells_run_in_order_and_once(
    kernels: Kernels, tmp_path: Path
) -> None:
    manager, client = await kernels.computed(COMPUTE)
    await release(manager)
    rival = await kernels.start("1/2")
    marks = tmp_path / "marks"
    for n in range(5):
        client.execute(f"open({str(marks)!r}, 'a').write('{n} ')")
    await eventually(lambda: state(manager) is State.WAKING, "it asks for its share")
    await eventually(
        lambda: (row := Runtime.instance().table.get(manager.kernel_id)) and row.queue,
        "its place is known",
    )
    assert not marks.exists()
    await rival.shutdown_kernel()
    assert "[1, 2, 3] 1 30" in await run(client, LOOK)
    assert marks.read_text() == "0 1 2 3 4 "


async def test_an_interrupt_gives_up_waiting_and_nothing_else(kernels: Kernels) -> None:
    manager, client = await kernels.computed(COMPUTE)
    await release(manager)
    rival = await kernels.start("1/2")
    cell = asyncio.ensure_future(run(client, "rows.append('never')"))
    await eventually(lambda: state(manager) is State.WAKING, "it asks for its share")
    assert "KeyboardInterrupt" in await interrupted(manager, cell)
    assert state(manager) is State.RELEASED
    await free_is(40 * GIB)
    await rival.shutdown_kernel()
    assert "[1, 2, 3] 1 30" in await run(client, LOOK)


async def test_it_waits_for_the_gpu_that_it_was_on_and_for_no_other(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_GPU_SHARE_SIMULATE", "2xA100-80GB")
    manager, client = await kernels.computed(COMPUTE)
    first = Runtime.instance().table.get(manager.kernel_id)
    assert first is not None
    assert first.share is not None
    await release(manager)
    rival = await kernels.start("3/4")
    took = Runtime.instance().table.get(rival.kernel_id)
    assert took is not None
    assert took.share is not None
    assert took.share.devices == first.share.devices
    cell = asyncio.ensure_future(run(client, LOOK))
    await eventually(
        lambda: (row := Runtime.instance().table.get(manager.kernel_id)) and row.queue,
        "it waits, although the other GPU is free",
    )
    await rival.shutdown_kernel()
    assert "[1, 2, 3] 1 30" in await cell
    again = Runtime.instance().table.get(manager.kernel_id)
    assert again is not None
    assert again.share == first.share


async def test_nothing_is_asked_of_a_kernel_of_another_language(kernels: Kernels) -> None:
    manager = kernels.manager()
    spec = manager.kernel_spec
    assert spec is not None
    spec.language = "R"
    await manager.start_kernel(env={**os.environ, "JUPYTER_GPU_SHARE_SIZE": "1/2"})
    client = await kernels.client(manager)
    await run(client, "import sys; known = set(sys.modules)")
    with pytest.raises(NotPossible, match="Only kernels of Python can keep"):
        await release(manager)
    assert await run(client, "print('gpu_share_kernel.asked' in sys.modules)") == "False"
    await Runtime.instance().release(manager.kernel_id, lose_variables=True)
    assert await free() == 80 * GIB


async def test_two_who_ask_for_the_same_at_once(kernels: Kernels) -> None:
    manager, client = await kernels.computed(COMPUTE)
    await asyncio.gather(*(release(manager) for _ in range(3)))
    assert state(manager) is State.RELEASED
    assert "[1, 2, 3] 1 30" in await run(client, LOOK)


async def test_a_kernel_that_never_opened_the_gpu_gives_it_back_too(kernels: Kernels) -> None:
    manager = await kernels.start("1")
    client = await kernels.client(manager)
    await run(client, "x = [1]")
    await release(manager)
    await release(manager)
    assert await free() == 80 * GIB
    assert await run(client, "print(x)") == "[1]"
    await free_is(0)


async def test_a_thread_that_wants_the_gpu_meanwhile_waits(kernels: Kernels) -> None:
    manager = await kernels.start("1")
    client = await kernels.client(manager)
    code = (
        "import threading, time\nfrom gpu_share_kernel import simulated\n"
        "go, got = threading.Event(), []\n"
        "def work():\n    go.wait()\n    got.append(simulated.allocate('10GiB'))\n"
        "thread = threading.Thread(target=work, daemon=True); thread.start()\n"
        "threading.Timer(0.2, go.set).start()"
    )
    await run(client, code)
    await release(manager)
    await asyncio.sleep(0.5)  # the thread has had its chance
    assert await in_use(manager) == 0
    assert await run(client, "thread.join(30); print(len(got), go.is_set())") == "1 True"
    assert await in_use(manager) == 10 * GIB


async def test_memory_that_is_not_seen_to_be_free_keeps_the_share(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, client = await kernels.computed(COMPUTE)
    monkeypatch.setattr("jupyter_gpu_share.kernels._checkpoint._FREE_PATIENCE", 0.1)

    async def usage(busy: frozenset[str]) -> dict[str, Usage]:
        return {manager.kernel_id: Usage(2**30, None)}

    engine = controller(manager).engine
    with monkeypatch.context() as patch:
        patch.setattr(engine, "usage", usage)
        with pytest.raises(NotPossible, match="1 GiB are in use still"):
            await release(manager)
    assert state(manager) is State.ACTIVE
    assert await free() == 20 * GIB
    assert "[1, 2, 3] 1 30" in await run(client, LOOK)


async def test_a_ledger_that_cannot_be_written_keeps_the_share(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, client = await kernels.computed(COMPUTE)

    def refused(self: Ledger, kernel_id: str) -> bool:
        raise LedgerError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "release", refused)
        with pytest.raises(LedgerError):
            await release(manager)
    assert state(manager) is State.ACTIVE
    assert await in_use(manager) == 30 * GIB
    assert "[1, 2, 3] 1 30" in await run(client, LOOK)


async def test_a_way_back_that_fails_leaves_the_kernel_as_it_was(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, client = await kernels.computed(COMPUTE)
    await release(manager)

    async def refused() -> None:
        raise GpuShareError("The device has no room.")

    with monkeypatch.context() as patch:
        patch.setattr(controller(manager).keeper, "resume", refused)
        assert await run(client, "rows.append('never')") == "GpuShareError"
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert (row.state, row.reason) == (State.RELEASED, "The device has no room.")
    assert await free() == 80 * GIB
    assert "[1, 2, 3] 1 30" in await run(client, LOOK)


async def test_one_that_may_be_on_the_gpu_and_cannot_be_moved_is_ended(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, client = await kernels.computed(COMPUTE)
    await release(manager)

    async def fails() -> None:
        raise GpuShareError("It cannot be asked.")

    monkeypatch.setattr(controller(manager).keeper, "resume", fails)
    monkeypatch.setattr(controller(manager).keeper, "vacate", fails)
    assert await run(client, "rows") == "DeadKernelError"
    await eventually(lambda: state(manager) is State.FAILED, "its end is told")
    await free_is(80 * GIB)


async def test_its_end_without_its_share_is_told_and_leaves_nothing(kernels: Kernels) -> None:
    manager = await kernels.start("3/4")
    client = await kernels.client(manager)
    pid = int(await run(client, "import os; print(os.getpid())"))
    await release(manager)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: state(manager) is State.FAILED, "the end is noticed")
    assert not await manager.is_alive()
    await free_is(80 * GIB)
    await manager.restart_kernel(now=True)
    assert await run(client, "print('again')") == "again"


@pytest.mark.parametrize("now", [True, False])
async def test_a_restart_without_its_share_takes_it_again_and_starts_anew(
    kernels: Kernels, now: bool
) -> None:
    manager, client = await kernels.computed(COMPUTE)
    await release(manager)
    await asyncio.wait_for(manager.restart_kernel(now=now), PATIENCE)
    assert await run(client, "print('rows' in globals())") == "False"
    assert await free() == 20 * GIB


@pytest.mark.parametrize("now", [True, False])
async def test_a_shutdown_without_its_share_ends_the_process(kernels: Kernels, now: bool) -> None:
    manager = await kernels.start("3/4")
    client = await kernels.client(manager)
    pid = int(await run(client, "import os; print(os.getpid())"))
    await release(manager)
    await asyncio.wait_for(manager.shutdown_kernel(now=now), PATIENCE)
    await eventually(lambda: not Path(f"/proc/{pid}").exists(), "the process is gone")
    await free_is(80 * GIB)
    assert Runtime.instance().table.all() == []
