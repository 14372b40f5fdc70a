"""Notebooks on shares of a real GPU, under real kernel managers: released, woken, changed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gpu_process import OUT_OF_REACH, PYTHON, Device
from provisioner.managers import GIB, Kernels, active, free, run, state
from waiting import eventually

from jupyter_gpu_share.allocations import Allocation, State
from jupyter_gpu_share.errors import NotPossible
from jupyter_gpu_share.runtime import Runtime
from jupyter_gpu_share.size import Size

#: Torch takes some time to be imported; a whole cell may have to wait for that.
pytestmark = pytest.mark.timeout(300)

COMPUTE = """
import os, threading, time, torch
torch.manual_seed(1)
mine = torch.randn({gib} * 2**28, device="cuda")
view = mine[:1000]
numbers = (n for n in range(3)); first = next(numbers)
said = mine.double().sum().item()
print(os.getpid())
"""
LOOK = (
    "view += 1; said += 1000; "
    "print(os.getpid(), next(numbers), abs(mine.double().sum().item() - said) < 1e-3,"
    " view.data_ptr() == mine.data_ptr())"
)
FILL = """
import torch
theirs = []
try:
    while len(theirs) < 1000: theirs.append(torch.full((2**30,), 170, dtype=torch.uint8).cuda())
except torch.OutOfMemoryError: print(len(theirs))
"""


@pytest.fixture
async def kernels(
    jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch, device: Device
) -> AsyncIterator[Kernels]:
    """Kernels of the Python that has PyTorch, on the real GPU."""
    monkeypatch.delenv("JUPYTER_GPU_SHARE_SIMULATE", raising=False)
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "gpu-share-provisioner")
    spec = jupyter_dirs / "data" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        f'{{"argv": ["{PYTHON}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"],'
        ' "display_name": "Python", "language": "python"}'
    )
    Runtime.clear_instance()
    own = Kernels()
    yield own
    await own.close()
    Runtime.clear_instance()


def row_of(manager: Any) -> Allocation:
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    return row


async def release(manager: Any) -> None:
    try:
        await Runtime.instance().release(manager.kernel_id, lose_variables=False)
    except NotPossible as error:
        if any(part in str(error) for part in OUT_OF_REACH):
            pytest.skip(str(error))
        raise


async def computed(kernels: Kernels, size: str, gib: int) -> tuple[Any, Any, str]:
    """A kernel with so much on its GPU, its client, and its process."""
    manager = await kernels.start(size)
    client = await kernels.client(manager)
    return manager, client, await run(client, COMPUTE.format(gib=gib))


async def test_a_share_is_somebody_elses_meanwhile(
    kernels: Kernels, capsys: pytest.CaptureFixture[str]
) -> None:
    manager, client, pid = await computed(kernels, "3/4", 8)
    total = (await Runtime.instance().capacity())[0].memory_bytes
    started = time.monotonic()
    await release(manager)
    took = time.monotonic() - started
    row = row_of(manager)
    assert (row.state, row.kept.how, row.kept.lost) == (State.RELEASED, "in-place", ())
    assert await free() == total
    rival = await kernels.start("3/4")
    other = await kernels.client(rival)
    filled = int((await run(other, FILL)).split()[-1])
    assert total // GIB * 3 // 4 - 4 <= filled <= total // GIB * 3 // 4, "all of its share"
    waiting = client.execute("mark = 1")
    assert waiting
    await eventually(lambda: row_of(manager).queue, "it waits for its share")
    assert await run(other, "print(all((t == 170).all().item() for t in theirs))") == "True"
    await rival.shutdown_kernel()
    assert await run(client, LOOK + "; print(mark)") == f"{pid} 1 True True\n1"
    await active(manager)
    await release(manager)
    started = time.monotonic()
    assert await run(client, "print(mine[0].isfinite().item())") == "True"
    back = time.monotonic() - started
    with capsys.disabled():
        print(
            f"\n8 GiB of a notebook: released in {took:.2f} s, next cell's output in {back:.2f} s"
        )


async def test_what_never_opened_the_gpu_is_back_at_once(kernels: Kernels) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "x = [1]; import os; pid = os.getpid()")
    await release(manager)
    assert row_of(manager).kept.how == "in-place"
    assert await run(client, "print(x, pid == os.getpid())") == "[1] True"


async def test_its_size_changes_while_it_lives(kernels: Kernels) -> None:
    manager, client, pid = await computed(kernels, "1/2", 8)
    runtime = Runtime.instance()
    total = (await runtime.capacity())[0].memory_bytes
    quarter = total // GIB // 4
    # Of the largest GPUs a sixteenth has room for it.
    with pytest.raises(NotPossible, match="more than 1/32 has"):
        await runtime.change_size(manager.kernel_id, Size.parse("1/32"), lose_variables=False)
    assert (await runtime.kept_by_change(manager.kernel_id, Size.parse("1/4"))).how == "in-place"
    assert await runtime.change_size(manager.kernel_id, Size.parse("1/4"), lose_variables=False)
    assert row_of(manager).size == "1/4"
    assert await free() >= total * 3 // 4 - GIB
    beyond = f"more = torch.empty({quarter} * 2**30, dtype=torch.uint8, device='cuda')"
    assert await run(client, beyond) == "OutOfMemoryError"
    assert await runtime.change_size(manager.kernel_id, Size.parse("3/4"), lose_variables=False)
    assert await run(client, beyond + "; print('room')") == "room"
    await run(client, "del more")
    assert await run(client, LOOK) == f"{pid} 1 True True"


async def test_one_that_cannot_be_moved_is_saved(kernels: Kernels) -> None:
    """Tensors come back on the GPU, views as views; pre-checks refuse the process itself."""
    manager, client, pid = await computed(kernels, "1/2", 1)
    await run(client, "del numbers; os.environ['TF_FORCE_UNIFIED_MEMORY'] = '1'")
    await release(manager)
    assert row_of(manager).kept.how == "snapshot"
    assert not Path(f"/proc/{pid}").exists()
    look = (
        "view += 1; said += 1000; print(os.getpid(), mine.device.type,"
        " abs(mine.double().sum().item() - said) < 1e-3, view.data_ptr() == mine.data_ptr())"
    )
    told = await run(client, look)
    assert "cuda True True" in told
    assert "variables are back" in told


async def test_memory_beyond_the_share_is_an_error_in_that_kernel_only(kernels: Kernels) -> None:
    first, one, _ = await computed(kernels, "1/4", 1)
    second, two, _ = await computed(kernels, "1/4", 1)
    assert "OutOfMemoryError" not in await run(one, FILL)
    assert await run(two, "print(mine.sum().isfinite().item())") == "True"
    await eventually(
        lambda: (row_of(first).used_bytes or 0) > 8 * GIB, "its use is seen, by process"
    )
    assert (row_of(second).used_bytes or 0) < 4 * GIB


async def test_work_on_the_gpu_without_a_cell_is_told(kernels: Kernels) -> None:
    """A thread that keeps the GPU at work counts as busy: the look says so."""
    manager, client, _ = await computed(kernels, "1/2", 1)
    await run(
        client,
        "stop = threading.Event()\n"
        "def work():\n"
        "    a = torch.randn(4096, 4096, device='cuda')\n"
        "    while not stop.is_set(): (a @ a).sum().item()\n"
        "thread = threading.Thread(target=work, daemon=True); thread.start()",
    )
    runtime = Runtime.instance()
    await eventually(lambda: (row_of(manager).utilization or 0) > 0.1, "the GPU's use is seen")
    kept = await runtime.call(runtime.kernels[manager.kernel_id].kept_by_release())
    assert any("thread" in what for what in kept.lost)
    assert state(manager) is State.ACTIVE
    await run(client, "stop.set(); thread.join()")
