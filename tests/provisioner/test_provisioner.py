"""The provisioner under a real kernel manager, with real kernels, on a simulated GPU."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from managers import (
    GIB,
    Kernels,
    active,
    controller,
    free,
    free_is,
    interrupted,
    run,
    running,
    state,
)
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.errors import GpuShareError, NoGpuError, NotPossible, SizeNotAllowed
from jupyter_gpu_share.provisioner import GpuShareProvisioner
from jupyter_gpu_share.relay import Activity
from jupyter_gpu_share.runtime import Runtime
from jupyter_gpu_share.size import Request, Size

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_gpu")]


async def test_a_kernel_knows_its_share(kernels: Kernels) -> None:
    manager = await kernels.start("1/4")
    client = await kernels.client(manager)
    said = await run(client, "import os; print(os.environ['JUPYTER_GPU_SHARE_MEMORY_BYTES'])")
    assert int(said) == 20 * GIB
    assert await free() == 60 * GIB
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert row.state is State.ACTIVE
    assert row.share is not None
    assert row.share.simulated
    await manager.shutdown_kernel()
    assert await free() == 80 * GIB
    assert Runtime.instance().table.all() == []


async def test_two_kernels_share_one_gpu(kernels: Kernels) -> None:
    first = await kernels.client(await kernels.start("1/2"))
    second = await kernels.client(await kernels.start("1/2"))
    code = "import os; print(os.environ['JUPYTER_GPU_SHARE_UUID'])"
    assert await run(first, code) == await run(second, code)
    assert await free() == 0


async def test_second_three_quarters_wait_and_the_held_cell_runs_once(
    kernels: Kernels, tmp_path: Path
) -> None:
    first = await kernels.start("3/4")
    traits = {"config": _config(queue_patience=0.2)}
    second = await kernels.start("3/4", traits=traits)

    def waits() -> Any:
        row = Runtime.instance().table.get(second.kernel_id)
        return row if row is not None and row.queue is not None else None

    row = await eventually(waits, "its place in the queue is told")
    assert row.state is State.QUEUED
    assert (row.queue.position, row.queue.of) == (1, 1)
    assert "60 GiB" in row.reason
    assert await second.is_alive()

    client = await kernels.client(second)
    marks = tmp_path / "marks"
    cell = asyncio.ensure_future(run(client, f"open({str(marks)!r}, 'a').write('x')"))
    await eventually(lambda: controller(second).relay.held == 1, "the cell is held")
    assert not marks.exists()

    await first.shutdown_kernel()
    assert await asyncio.wait_for(cell, PATIENCE) == ""
    assert marks.read_text() == "x"
    await active(second)
    assert await free() == 20 * GIB


@pytest.mark.slow
async def test_restart_keeps_the_share_and_the_ports(kernels: Kernels) -> None:
    manager = await kernels.start("3/4")
    client = await kernels.client(manager)
    await run(client, "kept = 1")
    ports = manager.ports
    rival = await kernels.start("3/4", traits={"config": _config(queue_patience=0.1)})
    for now in (False, True):
        await manager.restart_kernel(now=now)
        assert state(rival) is State.QUEUED, f"the share was given away in a restart, now={now}"
        assert manager.ports == ports
        assert await run(client, "print('kept' in globals())") == "False"
        await active(manager)


async def test_kill_now_gives_the_share_back(kernels: Kernels) -> None:
    manager = await kernels.start("3/4")
    await manager.shutdown_kernel(now=True)
    assert await free() == 80 * GIB


async def test_the_share_of_a_killed_kernel_waits_for_the_restarter_and_then_goes_back(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.kernels.controller._RESTART_GRACE", 3.0)
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    pid = int(await run(client, "import os; print(os.getpid())"))
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: state(manager) is State.FAILED, "the death is noticed")
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert "SIGKILL" in row.reason
    assert await manager.is_alive() is False
    await free_is(80 * GIB)


async def test_a_failed_start_leaves_nothing_behind(kernels: Kernels, tmp_path: Path) -> None:
    manager = kernels.manager()
    spec = manager.kernel_spec
    assert spec is not None
    spec.argv = ["no-such-program-anywhere", "-f", "{connection_file}"]
    with pytest.raises(GpuShareError, match="no-such-program-anywhere"):
        await manager.start_kernel(env={**os.environ, "JUPYTER_GPU_SHARE_SIZE": "1/2"})
    assert await free() == 80 * GIB
    assert Runtime.instance().kernels == {}
    for port in manager.ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


async def test_a_kernel_that_ends_at_once_says_so(kernels: Kernels) -> None:
    manager = kernels.manager()
    spec = manager.kernel_spec
    assert spec is not None
    spec.argv = ["python", "-c", "raise SystemExit(3)", "{connection_file}"]
    with pytest.raises(GpuShareError, match="exit code 3"):
        await manager.start_kernel(env={**os.environ, "JUPYTER_GPU_SHARE_SIZE": "1/2"})
    assert await free() == 80 * GIB


async def test_a_cancelled_start_leaves_nothing_behind(kernels: Kernels) -> None:
    first = await kernels.start("3/4")
    manager = kernels.manager()
    env = {**os.environ, "JUPYTER_GPU_SHARE_SIZE": "3/4"}
    starting = asyncio.ensure_future(manager.start_kernel(env=env))
    await eventually(lambda: len(Runtime.instance().kernels) == 2, "the second start has begun")
    await eventually(
        lambda: any(row.state is State.QUEUED for row in Runtime.instance().table.all()), "queued"
    )
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await eventually(lambda: len(Runtime.instance().kernels) == 1, "the second life is over")
    await first.shutdown_kernel()
    assert await free() == 80 * GIB


async def test_shutdown_while_queued_is_quick(kernels: Kernels) -> None:
    await kernels.start("3/4")
    second = await kernels.start("3/4", traits={"config": _config(queue_patience=0.1)})
    await asyncio.wait_for(second.shutdown_kernel(), PATIENCE)
    # The polite request was enough: no waiting for a process that is not there, and no signals.
    assert second._shutdown_status.name == "ShutdownRequest"
    assert len(Runtime.instance().table.all()) == 1


async def test_interrupt_gives_up_waiting_and_a_cell_asks_again(kernels: Kernels) -> None:
    first = await kernels.start("3/4")
    second = await kernels.start("3/4", traits={"config": _config(queue_patience=0.1)})
    client = await kernels.client(second)
    cell = asyncio.ensure_future(run(client, "print(1)"))
    await eventually(lambda: controller(second).relay.held == 1, "the cell is held")
    await second.interrupt_kernel()
    assert "KeyboardInterrupt" in await asyncio.wait_for(cell, PATIENCE)
    assert state(second) is State.RELEASED
    assert await second.is_alive()
    again = asyncio.ensure_future(run(client, "print(2)"))
    await eventually(lambda: state(second) is State.WAKING, "the kernel asks again")
    await first.shutdown_kernel()
    assert (await asyncio.wait_for(again, PATIENCE)).endswith("2")


async def test_interrupt_by_message(kernels: Kernels, tmp_path: Path) -> None:
    manager = kernels.manager()
    spec = manager.kernel_spec
    assert spec is not None
    spec.interrupt_mode = "message"
    await manager.start_kernel(env={**os.environ, "JUPYTER_GPU_SHARE_SIZE": "1/4"})
    client = await kernels.client(manager)
    cell = await running(client, tmp_path, "import time\ntime.sleep(99)")
    assert "KeyboardInterrupt" in await interrupted(manager, cell)


async def test_a_running_cell_is_never_released(kernels: Kernels, tmp_path: Path) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    cell = await running(client, tmp_path, "input_seen = 1\nimport time\ntime.sleep(99)")
    with pytest.raises(NotPossible, match="cell"):
        await Runtime.instance().release(manager.kernel_id, lose_variables=True)
    await interrupted(manager, cell)
    assert await run(client, "print(input_seen)") == "1"


async def test_a_cell_that_slips_in_has_the_right_of_way(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    seen: concurrent.futures.Future[Activity] = concurrent.futures.Future()
    seen.set_result(Activity())  # what the relay said a moment before the cell came
    begun = tmp_path / "begun"
    code = f"kept = 1\nopen({str(begun)!r}, 'w').close()\nimport time\ntime.sleep(99)"
    cell = asyncio.ensure_future(run(client, code))
    await eventually(lambda: controller(manager).busy and begun.exists(), "the cell runs")
    monkeypatch.setattr(controller(manager).relay, "count", lambda: seen)
    with pytest.raises(NotPossible, match="run just now; the share stays"):
        await Runtime.instance().release(manager.kernel_id, lose_variables=True)
    await active(manager)
    assert "KeyboardInterrupt" in await interrupted(manager, cell)
    assert await run(client, "print(kept)") == "1"


async def test_resize_takes_effect_with_the_next_start(kernels: Kernels) -> None:
    manager = await kernels.start("1/4")
    client = await kernels.client(manager)
    await Runtime.instance().resize(manager.kernel_id, Size.parse("1/2"))
    await manager.restart_kernel()
    said = await run(client, "import os; print(os.environ['JUPYTER_GPU_SHARE_FRACTION'])")
    assert said == "1/2"
    assert await free() == 40 * GIB


async def test_a_size_without_gpu(kernels: Kernels) -> None:
    manager = await kernels.start("0")
    client = await kernels.client(manager)
    code = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    assert await run(client, code) == "''"
    assert await free() == 80 * GIB


async def test_encrypted_clients(kernels: Kernels) -> None:
    manager = kernels.manager(transport_encryption="required")
    await manager.start_kernel(env={**os.environ, "JUPYTER_GPU_SHARE_SIZE": "1/4"})
    info = manager.get_connection_info()
    assert isinstance(info["key"], bytes)
    assert isinstance(info["curve_publickey"], str)
    client = await kernels.client(manager)
    assert await run(client, "print(1)") == "1"


@pytest.mark.slow
async def test_clients_over_ipc(kernels: Kernels, tmp_path: Path) -> None:
    manager = kernels.manager(transport="ipc", ip=str(tmp_path / "front"))
    await manager.start_kernel(env={**os.environ, "JUPYTER_GPU_SHARE_SIZE": "1/4"})
    client = await kernels.client(manager)
    assert await run(client, "print(1)") == "1"
    # A kernel manager removes the files of its ipc sockets when it restarts.
    await manager.restart_kernel()
    assert await run(await kernels.client(manager), "print(2)") == "2"


def test_connection_info_is_not_shared() -> None:
    spec: Any = None
    one, two = (GpuShareProvisioner(kernel_id=name, kernel_spec=spec) for name in "ab")
    one.connection_info["ip"] = "x"
    assert two.connection_info == {}


@pytest.mark.parametrize(
    ("size", "error", "says"),
    [
        ("3/2", SizeNotAllowed, "3/2 is more than one GPU; the largest size here is 1"),
        ("-1/4", GpuShareError, "negative"),
        ("1/0", GpuShareError, "zero"),
        ("1" + "0" * 30 + "B", NoGpuError, "80 GiB"),
        ("mig-3g.40gb", NoGpuError, "3g.40gb"),
        ("much", GpuShareError, "not a size"),
    ],
)
async def test_bad_sizes(kernels: Kernels, size: str, error: type, says: str) -> None:
    with pytest.raises(error, match=says.replace(".", r"\.")) as caught:
        await kernels.start(size)
    assert "\n" not in str(caught.value)
    assert Runtime.instance().kernels == {}
    assert await free() == 80 * GIB


async def test_no_gpu_and_no_simulation(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTER_GPU_SHARE_SIMULATE")
    with pytest.raises(NoGpuError, match="size 0"):
        await kernels.start("1/4")
    assert Runtime.instance().kernels == {}


def _config(**provisioner: Any) -> Any:
    from traitlets.config import Config

    return Config({"GpuShareProvisioner": provisioner})


async def test_the_limit_for_all_kernels_together(kernels: Kernels) -> None:
    Runtime.instance().policy.max_total = "3/4"
    await kernels.start("1/2")
    with pytest.raises(SizeNotAllowed, match="1 GPUs; 3/4 GPUs is the limit"):
        await kernels.start("1/2")
    second = await kernels.start("1/4")
    with pytest.raises(SizeNotAllowed):
        await Runtime.instance().resize(second.kernel_id, Size.parse("1/2"))


async def test_a_bound_in_memory_holds_for_fractions(kernels: Kernels) -> None:
    Runtime.instance().policy.maximum = "30GiB"
    await kernels.start("1/4")
    with pytest.raises(SizeNotAllowed, match="the largest size here is 30GiB"):
        await kernels.start("1/2")


@pytest.mark.slow
async def test_who_decides_the_size(
    kernels: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime.instance()
    notebook = tmp_path / "a.ipynb"
    notebook.write_text('{"metadata": {"jupyter_gpu_share": {"size": "1/16"}}}')
    here = {**os.environ, "JPY_SESSION_NAME": str(notebook)}

    async def granted(env: dict[str, str], **options: Any) -> str:
        manager = kernels.manager()
        if "spec_size" in options:
            spec = manager.kernel_spec
            assert spec is not None
            config = {"size": options.pop("spec_size")}
            name = "gpu-share-provisioner"
            spec.metadata["kernel_provisioner"] = {"provisioner_name": name, "config": config}
        await manager.start_kernel(env=env, **options)
        row = runtime.table.get(manager.kernel_id)
        assert row is not None
        await manager.shutdown_kernel(now=True)
        return row.size

    runtime.requests.put("11111111-1111-4111-8111-111111111111", Request(Size.parse("1/8")))
    wish = {**here, "JUPYTER_GPU_SHARE_SIZE": "1/10"}
    asked = {"kernel_id": "11111111-1111-4111-8111-111111111111", "spec_size": "1/12"}
    assert await granted(wish, **asked) == "1/8"
    assert await granted(wish, spec_size="1/12") == "1/10"
    assert await granted(here, spec_size="1/12") == "1/12"
    assert await granted(here) == "1/16"
    notebook.write_text("{}")
    assert await granted(here) == "1/4"
    assert await granted(dict(os.environ)) == "1/2"


async def test_memory_beyond_the_share_is_an_error_in_that_kernel_only(kernels: Kernels) -> None:
    first = await kernels.client(await kernels.start("3/8"))
    second = await kernels.client(await kernels.start("1/2"))
    take = "from gpu_share_kernel import simulated; held = simulated.allocate('{}'); print('took')"
    assert await run(second, take.format("40GiB")) == "took"
    assert await run(first, take.format("31GiB")) == "OutOfMemoryError"
    assert await run(first, take.format("30GiB")) == "took"
    assert await run(second, "print(simulated.memory()[0] // 2**30)") == "40"


@pytest.mark.slow
async def test_use_above_the_share_is_warned_about_and_stopped_at_the_cell(
    kernels: Kernels,
) -> None:
    engine = await Runtime.instance().call(Runtime.instance().engine())
    engine.usage_interval = 0.1
    manager, neighbour = await kernels.start("1/4"), await kernels.start("1/4")
    client, beside = await kernels.client(manager), await kernels.client(neighbour)
    await run(beside, "from gpu_share_kernel import simulated; held = simulated.allocate('20GiB')")
    # Simulates code that no framework caps.
    code = (
        "from gpu_share_kernel import simulated\n"
        "held = simulated.allocate('25GiB', beyond_share=True)\n"
        "simulated.work(99)"
    )
    said = await run(client, code)
    assert "more GPU memory than its share (25 GiB of 20 GiB)" in said
    assert "KeyboardInterrupt" in said
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert row.used_bytes == 25 * GIB
    assert await run(client, "held.free(); print('alive')") == "alive"
    assert await run(beside, "print(simulated.memory()[0] // 2**30)") == "20"


@pytest.mark.slow
async def test_what_a_kernel_left_running_ends_with_it(kernels: Kernels) -> None:
    manager = await kernels.start("1/4")
    client = await kernels.client(manager)
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'],"
        " start_new_session=True)\n"
        "print(child.pid)"
    )
    child = int(await run(client, code))
    await manager.shutdown_kernel(now=True)
    await eventually(lambda: not Path(f"/proc/{child}").exists(), "the child is gone")


@pytest.mark.slow
async def test_a_share_that_the_disk_keeps_is_given_back_later(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jupyter_gpu_share.engines.local._ledger import Ledger
    from jupyter_gpu_share.errors import LedgerError

    manager = await kernels.start("1/4")
    real = Ledger.release

    def refused(ledger: Ledger, kernel_id: str) -> bool:
        raise LedgerError("The disk is full.")

    monkeypatch.setattr(Ledger, "release", refused)
    await manager.shutdown_kernel(now=True)
    assert await free() == 60 * GIB
    monkeypatch.setattr(Ledger, "release", real)
    await free_is(80 * GIB)


async def test_a_kernel_that_is_started_again_by_the_restarter_and_fails_is_given_up(
    kernels: Kernels,
) -> None:
    """As jupyter_client's restarter does it: kill, clean up, start, and look by polling."""
    manager = await kernels.start("1/4")
    client = await kernels.client(manager)
    pid = int(await run(client, "import os; print(os.getpid())"))
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: state(manager) is State.FAILED, "the death is noticed")
    spec = manager.kernel_spec
    assert spec is not None
    spec.argv = ["python", "-c", "raise SystemExit(3)", "{connection_file}"]
    await manager.restart_kernel(now=True)
    assert not await manager.is_alive()
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert "exit code 3" in row.reason
    await free_is(80 * GIB)


async def test_ending_a_kernel_at_the_moment_it_answers(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start is cancelled while it tidies up after the kernel's answer, and must not go on."""
    runtime = Runtime.instance()
    engine = await runtime.call(runtime.engine())
    real = engine.wait
    closing: list[asyncio.Task[None]] = []

    async def wait(kernel_id: str) -> Any:
        try:
            return await real(kernel_id)
        except asyncio.CancelledError:
            if not closing:
                closing.append(asyncio.create_task(runtime.kernels[kernel_id].close()))
                for _ in range(3):  # until the start has been cancelled in its turn
                    await asyncio.sleep(0)
            raise

    monkeypatch.setattr(engine, "wait", wait)
    manager = kernels.manager()
    env = {**os.environ, "JUPYTER_GPU_SHARE_SIZE": "1/4"}
    starting = asyncio.ensure_future(manager.start_kernel(env=env))
    await asyncio.wait({starting}, timeout=PATIENCE)
    assert starting.done(), "the start hangs"
    await eventually(lambda: closing and closing[0].done(), "the kernel is ended")
    await free_is(80 * GIB)
