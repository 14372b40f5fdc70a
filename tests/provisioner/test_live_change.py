"""A kernel gets another size and goes on: the same process, with everything that is in it.

The GPU is simulated; its cap follows the kernel's environment, as those of frameworks do.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from managers import GIB, Kernels, active, controller, free, free_is, interrupted, run, state
from traitlets.config import Config
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import Allocation, Isolation, Share, State
from jupyter_gpu_share.engines.base import Change
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.errors import EngineError, GpuShareError, LedgerError, NotPossible
from jupyter_gpu_share.kernels import _resize
from jupyter_gpu_share.kernels.facts import Phase
from jupyter_gpu_share.runtime import Runtime
from jupyter_gpu_share.size import Size

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_gpu")]

COMPUTE = """
import os
from gpu_share_kernel import simulated
memory = simulated.allocate("10GiB")
rows = [1]
numbers = (n for n in range(9))
file = open("/dev/null")
"""
#: What no new process would have.
LOOK = "rows.append(2); print(os.getpid(), next(numbers), file.closed, len(rows))"
#: What the kernel is told of its share, and what the cap of the simulated memory makes of it.
LIMITS = (
    "import os; print(os.environ['JUPYTER_GPU_SHARE_MEMORY_BYTES'],"
    " os.environ['JUPYTER_GPU_SHARE_FRACTION'], os.environ['JUPYTER_GPU_SHARE_ISOLATION'],"
    " simulated.memory()[1])"
)
#: Whoever starts a kernel that has to wait is told so at once.
QUICK = {"config": Config({"GpuShareProvisioner": {"queue_patience": 0.1}})}
TAKE = "with simulated.allocate('{}GiB'): print('taken')"


async def change(manager: Any, size: str, *, lose_variables: bool = False) -> bool:
    runtime, wanted = Runtime.instance(), Size.parse(size)
    work = runtime.change_size(manager.kernel_id, wanted, lose_variables=lose_variables)
    return await asyncio.wait_for(work, PATIENCE)


async def kept(manager: Any, size: str) -> tuple[str, tuple[str, ...]]:
    found = await Runtime.instance().kept_by_change(manager.kernel_id, Size.parse(size))
    return found.how, found.lost


def row_of(manager: Any) -> Allocation:
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    return row


async def held(manager: Any) -> tuple[str, int, str]:
    """What the ledger has of a kernel, as other servers see it: size, bytes, isolation."""
    engine: Any = controller(manager).engine
    rows = await engine._at_ledger(lambda ledger: ledger.claims())
    (claim,) = (row for row in rows if row.kernel_id == manager.kernel_id)
    found = sum(piece.memory_bytes for piece in claim.pieces)
    return str(claim.size), found, claim.info.get("isolation", "")


async def check(manager: Any, client: Any, size: str) -> None:
    """The kernel, its row, the ledger and the capacity say the same of its size."""
    amount = Size.parse(size).bytes_of(80 * GIB)
    apart = Isolation.NONE if size == "1" else Isolation.FRAMEWORK
    assert await run(client, LIMITS) == f"{amount} {size} {apart.value} {amount}"
    await active(manager)
    row = row_of(manager)
    assert row.share is not None
    assert (row.size, row.share.memory_bytes) == (size, amount)
    assert (str(row.share.fraction), row.share.isolation) == (size, apart)
    assert await held(manager) == (size, amount, apart.value)


async def computed(kernels: Kernels, size: str = "1/2") -> tuple[Any, Any, str]:
    """A kernel that has run a cell, its client, and the number of its process."""
    manager = await kernels.start(size)
    client = await kernels.client(manager)
    await run(client, COMPUTE)
    return manager, client, await run(client, "print(os.getpid())")


async def test_the_process_goes_on_with_all_that_is_in_it(kernels: Kernels) -> None:
    # Nothing goes away, so whether a process may be left without its share does not matter.
    Runtime.instance().idle_policy.set_trait("in_place", False)
    manager, client, pid = await computed(kernels)
    for n, size in enumerate(["1/4", "3/4", "1", "1/2"]):
        assert await kept(manager, size) == ("in-place", ())
        assert row_of(manager).size != size, "asking changes nothing"
        assert await change(manager, size)
        assert await kept(manager, size) == ("in-place", ())
        assert state(manager) is State.ACTIVE, "a change does not count as a time without use"
        assert await run(client, LOOK) == f"{pid} {n} False {n + 2}"
        await check(manager, client, size)
        amount = Size.parse(size).bytes_of(80 * GIB)
        assert await free() == 80 * GIB - amount
        assert await run(client, TAKE.format(amount // GIB - 10)) == "taken"
        assert await run(client, TAKE.format(amount // GIB - 9)) == "OutOfMemoryError"


async def test_cells_that_are_run_meanwhile_run_once_and_in_order(
    kernels: Kernels, tmp_path: Path
) -> None:
    manager, client, pid = await computed(kernels)
    marks = tmp_path / "marks"
    for n in range(30):
        client.execute(f"open({str(marks)!r}, 'a').write('{n} ')")
        if n % 10 == 5:
            with suppress(NotPossible):  # one may be under way
                await change(manager, ["1/4", "3/4", "1/2"][n // 10])
    assert (await run(client, LOOK)).startswith(f"{pid} 0 False")
    assert marks.read_text() == "".join(f"{n} " for n in range(30))
    await check(manager, client, row_of(manager).size)


async def test_less_than_what_is_in_use_is_refused_and_nothing_changes(kernels: Kernels) -> None:
    manager, client, pid = await computed(kernels)
    await run(client, "more = simulated.allocate('20GiB')")
    for ask in (lambda: kept(manager, "1/4"), lambda: change(manager, "1/4")):
        with pytest.raises(
            NotPossible,
            match=r"uses 30 GiB of its GPU, which is more than 1/4 has \(20 GiB\)\. Free some",
        ):
            await ask()
    await check(manager, client, "1/2")
    assert await change(manager, "30GiB"), "exactly what is in use is enough"
    assert await run(client, TAKE.format(1)) == "OutOfMemoryError"
    assert await run(client, LOOK) == f"{pid} 0 False 2"


async def test_a_size_for_which_its_gpu_has_no_room(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_GPU_SHARE_SIMULATE", "2xA100-80GB")
    manager, client, pid = await computed(kernels)
    rival = await kernels.start("1/2")
    own, others = row_of(manager).share, row_of(rival).share
    assert own is not None
    assert others is not None
    assert own.devices == others.devices
    # The other GPU has room: a process cannot move there, but its variables can.
    how, lost = await kept(manager, "3/4")
    assert (how, len(lost)) == ("snapshot", 2)
    with pytest.raises(NotPossible, match=r"Changing the size to 3/4 now would lose .*`numbers`"):
        await change(manager, "3/4")
    await check(manager, client, "1/2")
    third = await kernels.start("1/2")
    with pytest.raises(NotPossible, match=r"The size cannot become 3/4 now: It needs 60 GiB"):
        await change(manager, "3/4")
    await check(manager, client, "1/2")
    assert await run(client, LOOK) == f"{pid} 0 False 2"
    await third.shutdown_kernel(now=True)
    assert await change(manager, "3/4", lose_variables=True)
    assert "True" in await run(client, "print(rows == [1, 2], 'numbers' in globals())")
    moved = row_of(manager).share
    assert moved is not None
    assert moved.devices != own.devices


async def test_an_instance_is_as_large_as_it_is(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_GPU_SHARE_SIMULATE", "A100-40GB/mig-1g.5gb*2")
    manager = await kernels.start("4GiB")
    client = await kernels.client(manager)
    await run(client, "numbers = (n for n in range(9))")
    assert await kept(manager, "3GiB") == ("snapshot", ("generator `numbers`",))
    with pytest.raises(NotPossible, match="would lose generator `numbers`"):
        await change(manager, "3GiB")
    assert await run(client, "print(next(numbers))") == "0"


async def test_what_a_kernel_gives_up_goes_to_one_that_waits(kernels: Kernels) -> None:
    manager, client, pid = await computed(kernels, "3/4")
    rival = await kernels.start("1/2", traits=QUICK)
    assert state(rival) is State.QUEUED
    assert await change(manager, "1/2")
    other = await kernels.client(rival)
    assert await run(other, "print('here')") == "here"
    await free_is(0)
    await check(manager, client, "1/2")
    assert await run(client, LOOK) == f"{pid} 0 False 2"
    with pytest.raises(NotPossible, match="The size cannot become 3/4 now"):
        await change(manager, "3/4")


async def test_a_restart_keeps_the_size(kernels: Kernels) -> None:
    manager, client, pid = await computed(kernels)
    assert await change(manager, "1/4")
    await asyncio.wait_for(manager.restart_kernel(), PATIENCE)
    await run(client, COMPUTE)
    assert await run(client, "print(os.getpid())") != pid
    await check(manager, client, "1/4")


async def test_while_a_cell_runs_it_is_refused(kernels: Kernels, tmp_path: Path) -> None:
    manager, client, pid = await computed(kernels)
    mark = tmp_path / "mark"
    code = f"import time; open({str(mark)!r}, 'w').close()\nwhile True: time.sleep(0.05)"
    cell = asyncio.ensure_future(run(client, code))
    await eventually(mark.exists, "the cell runs")
    for ask in (lambda: kept(manager, "1/4"), lambda: change(manager, "1/4")):
        with pytest.raises(NotPossible, match="A cell runs; interrupt it"):
            await ask()
    assert not await change(manager, "1/4", lose_variables=True), "only a restart can do it"
    assert "KeyboardInterrupt" in await interrupted(manager, cell)
    await check(manager, client, "1/2")
    assert await run(client, LOOK) == f"{pid} 0 False 2"


async def test_two_changes_at_once_come_one_after_the_other(kernels: Kernels) -> None:
    manager, client, pid = await computed(kernels)
    sizes = ["1/4", "3/4", "1", "1/3"]
    assert all(await asyncio.gather(*(change(manager, size) for size in sizes)))
    await check(manager, client, row_of(manager).size)
    assert row_of(manager).size in sizes
    assert await run(client, LOOK) == f"{pid} 0 False 2"


# -- what fails halfway ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["3/4", "1/4"])
@pytest.mark.parametrize("broken", ["kernel", "engine", "ledger"])
async def test_a_change_that_fails_leaves_everything_as_it_was(
    size: str, broken: str, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, client, pid = await computed(kernels)
    keeper, engine = controller(manager).keeper, controller(manager).engine
    limit = keeper.limit

    async def told_but_not_heard(limits: Mapping[str, str | None]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(keeper, "limit", limit)
            await limit(limits)
        raise GpuShareError("It has not answered.")

    async def refused(kernel_id: str, size: Size) -> None:
        raise EngineError("Others were faster.")

    def full(self: Ledger, *arguments: Any, dry: bool = False) -> Any:
        if not dry:
            raise LedgerError("The disk is full.")
        return original(self, *arguments, dry=dry)

    original = Ledger.change
    with monkeypatch.context() as patch:
        if broken == "kernel":
            once = iter([told_but_not_heard])
            patch.setattr(keeper, "limit", lambda limits: next(once, limit)(limits))
        elif broken == "engine":
            patch.setattr(engine, "change", refused)
        else:
            patch.setattr(Ledger, "change", full)
        with pytest.raises(NotPossible, match=rf"^The size could not become {size}: "):
            await change(manager, size)
    await check(manager, client, "1/2")
    assert await free() == 40 * GIB
    assert await run(client, LOOK) == f"{pid} 0 False 2"
    assert await change(manager, size)
    await check(manager, client, size)


@pytest.mark.parametrize("size", ["3/4", "1/4"])
async def test_at_no_moment_may_the_kernel_use_more_than_is_held(
    size: str, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, client, _ = await computed(kernels)
    keeper = controller(manager).keeper
    limit = keeper.limit
    seen: list[tuple[int, int]] = []

    async def watched(limits: Mapping[str, str | None]) -> None:
        before = (await held(manager))[1]
        await limit(limits)
        seen.append((before, int(limits["JUPYTER_GPU_SHARE_MEMORY_BYTES"] or 0)))

    monkeypatch.setattr(keeper, "limit", watched)
    assert await change(manager, size)
    ((granted, allowed),) = seen
    assert allowed <= granted
    await check(manager, client, size)


async def test_memory_that_is_taken_just_now_is_not_taken_away(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A thread may take some between the look and the change."""
    manager, client, pid = await computed(kernels)
    live = _resize._live

    async def looked(context: Any, size: Size) -> tuple[Change | None, str]:
        found = await live(context, size)
        go.touch()
        await eventually(taken.exists, "the thread has taken its memory")
        return found

    go, taken = tmp_path / "go", tmp_path / "taken"
    await run(
        client,
        "import threading, time\ngot = []\n"
        f"def work():\n    while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        f"    got.append(simulated.allocate('20GiB')); open({str(taken)!r}, 'w').close()\n"
        "threading.Thread(target=work, daemon=True).start()",
    )
    monkeypatch.setattr(_resize, "_live", looked)
    with pytest.raises(NotPossible, match="could not become 1/4: The kernel uses 30720 MiB"):
        await change(manager, "1/4")
    await check(manager, client, "1/2")
    assert await run(client, LOOK) == f"{pid} 0 False 2"


async def test_a_kernel_that_ends_meanwhile_does_not_count_as_running(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, client, pid = await computed(kernels)
    engine = controller(manager).engine
    changed = engine.change

    async def deadly(kernel_id: str, size: Size) -> Share:
        share = await changed(kernel_id, size)
        os.kill(int(pid), signal.SIGKILL)
        await eventually(lambda: controller(manager).exit_code is not None, "its end is noticed")
        assert controller(manager).facts.phase is Phase.ENDING, "the change is waited for"
        return share

    with monkeypatch.context() as patch:
        patch.setattr(engine, "change", deadly)
        with pytest.raises(NotPossible, match="The kernel has just ended"):
            await change(manager, "1/4")
    assert controller(manager).running is None
    await asyncio.wait_for(manager.restart_kernel(now=True), PATIENCE)
    await run(client, COMPUTE)
    await check(manager, client, "1/2")


# -- while it has no share -------------------------------------------------------------------------


@pytest.fixture(params=["in-place", "snapshot"])
def way(request: pytest.FixtureRequest, one_gpu: Path) -> str:
    """How a kernel is kept while its share is elsewhere."""
    how: str = request.param
    Runtime.instance().idle_policy.set_trait("in_place", how == "in-place")
    return how


KEEP = """
import os
from gpu_share_kernel import simulated
memory = simulated.allocate("10GiB")
rows = [1]; again = rows
"""


async def put_away(kernels: Kernels, size: str) -> tuple[Any, Any, str]:
    """A kernel that has given its share back, with variables in it."""
    manager = await kernels.start(size)
    client = await kernels.client(manager)
    await run(client, KEEP)
    pid = await run(client, "print(os.getpid())")
    await Runtime.instance().release(manager.kernel_id, lose_variables=False)
    return manager, client, pid


async def same(client: Any, way: str, pid: str) -> None:
    """Whether the process is the same, and its variables."""
    told = await run(client, "rows.append(2); print(os.getpid(), again is rows, rows)")
    found, rest = told.splitlines()[-1].split(" ", 1)
    assert rest == "True [1, 2]"
    assert (found == pid) is (way == "in-place")


async def test_given_back_it_comes_back_with_the_other_size(kernels: Kernels, way: str) -> None:
    manager, client, pid = await put_away(kernels, "1/2")
    for size in ("1", "1/4"):
        assert await kept(manager, size) == (way, ())
        assert await change(manager, size)
        assert (state(manager), row_of(manager).size) == (State.RELEASED, size)
        assert await free() == 80 * GIB
    await same(client, way, pid)
    await check(manager, client, "1/4")
    assert await run(client, TAKE.format(10)) == "taken"
    assert await run(client, TAKE.format(11)) == "OutOfMemoryError"


async def test_given_back_it_cannot_get_less_than_it_has_to_bring(kernels: Kernels) -> None:
    manager, client, pid = await put_away(kernels, "1/2")
    for ask in (lambda: kept(manager, "5GiB"), lambda: change(manager, "5GiB")):
        with pytest.raises(NotPossible, match=r"uses 10 GiB of its GPU.* 5GiB has \(5 GiB\)"):
            await ask()
    # Nor another number of GPUs than it was on, nor none: its process knows those it had.
    assert await kept(manager, "0") == ("none", ("all variables",))
    with pytest.raises(NotPossible, match=r"it cannot come back with 0\. Run a cell first"):
        await change(manager, "0")
    assert not await change(manager, "0", lose_variables=True), "only a restart can do it"
    assert row_of(manager).size == "1/2"
    await same(client, "in-place", pid)
    await check(manager, client, "1/2")


async def test_it_cannot_come_back_with_more_than_its_own_gpu_has(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_GPU_SHARE_SIMULATE", "A100-80GB,L4-24GB")
    manager, client, pid = await put_away(kernels, "20GiB")
    with pytest.raises(NotPossible, match="it cannot come back with 40GiB"):
        await change(manager, "40GiB")
    assert await change(manager, "24GiB")
    await same(client, "in-place", pid)
    share = row_of(manager).share
    assert share is not None
    assert (share.devices[0].model[:2], share.memory_bytes) == ("L4", 24 * GIB)


async def test_waiting_to_come_back_it_asks_for_the_other_size(
    kernels: Kernels, way: str, tmp_path: Path
) -> None:
    manager, client, pid = await put_away(kernels, "3/4")
    rival = await kernels.start("1/2")
    marks = tmp_path / "marks"
    for n in range(5):
        client.execute(f"open({str(marks)!r}, 'a').write('{n} ')")
    await eventually(lambda: row_of(manager).queue, "it waits for its share")
    assert state(manager) is State.WAKING
    assert await change(manager, "1")
    await eventually(
        lambda: row_of(manager).queue and "80 GiB of one GPU" in row_of(manager).reason,
        "it waits for more",
    )
    assert not marks.exists()
    assert await kept(manager, "1/2") == (way, ())
    assert await change(manager, "1/2")
    await same(client, way, pid)
    assert marks.read_text() == "0 1 2 3 4 "
    await check(manager, client, "1/2")
    await free_is(0)
    await rival.shutdown_kernel(now=True)


async def test_in_the_queue_it_asks_for_the_other_size(kernels: Kernels, tmp_path: Path) -> None:
    rival = await kernels.start("1/2")
    manager = await kernels.start("3/4", traits=QUICK)
    client = manager.client()
    client.start_channels()
    kernels.clients.append(client)
    marks = tmp_path / "marks"
    for n in range(5):
        client.execute(f"open({str(marks)!r}, 'a').write('{n} ')")
    assert state(manager) is State.QUEUED
    assert await kept(manager, "1") == ("none", ())
    assert await change(manager, "1")
    await eventually(lambda: "80 GiB of one GPU" in row_of(manager).reason, "it waits for more")
    assert (state(manager), row_of(manager).size) == (State.QUEUED, "1")
    for ask in (lambda: kept(manager, "90GiB"), lambda: change(manager, "90GiB")):
        with pytest.raises(GpuShareError, match="more than the largest GPU"):
            await ask()
    assert state(manager) is State.QUEUED, "it still waits"
    assert all(await asyncio.gather(*(change(manager, size) for size in ("2/3", "5/8", "3/4"))))
    assert state(manager) is State.QUEUED, "of several at once the last one holds"
    assert await change(manager, "1/4")
    await run(client, KEEP)
    assert marks.read_text() == "0 1 2 3 4 "
    await check(manager, client, "1/4")
    await rival.shutdown_kernel(now=True)


async def test_a_cell_that_is_run_during_the_change_is_not_forgotten(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, client, pid = await put_away(kernels, "1/2")
    engine = controller(manager).engine
    changed = engine.change

    async def slowly(kernel_id: str, size: Size) -> Share:
        relay = controller(manager).relay
        client.execute("rows.append('meanwhile')")
        await eventually(lambda: relay.held, "a cell waits")
        return await changed(kernel_id, size)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "change", slowly)
        assert await change(manager, "1/4")
    await active(manager)
    told = await run(client, "print(os.getpid(), again)")
    assert told == f"{pid} [1, 'meanwhile']"
    await check(manager, client, "1/4")
