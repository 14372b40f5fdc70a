"""What always works: kill, shut down and restart, in every phase and whatever is under way."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from managers import GIB, Kernels, active, controller, free, free_is, run, state
from traitlets.config import Config
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.errors import GpuShareError, NotPossible
from jupyter_gpu_share.kernels.facts import Phase, Work
from jupyter_gpu_share.runtime import Runtime

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_gpu")]

QUICK = {"config": Config({"GpuShareProvisioner": {"queue_patience": 0.2}})}
#: Has a question of ours take for ever, unless it is interrupted.
HANG = (
    "import time\nfrom gpu_share_kernel import asked\n"
    "def hang(**options):\n    while True: time.sleep(0.01)\n"
    "asked._WORK[{0!r}] = hang"
)
#: The same, and deaf to interrupts.
DEAF = (
    "import signal, time\nfrom gpu_share_kernel import asked\n"
    "def hang(**options):\n"
    "    signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "    while True: time.sleep(0.01)\n"
    "asked._WORK[{0!r}] = hang"
)
MEMORY = "from gpu_share_kernel import simulated; memory = simulated.allocate('10GiB')"


async def release(manager: Any) -> None:
    await Runtime.instance().release(manager.kernel_id, lose_variables=False)


def facts(manager: Any) -> Any:
    return controller(manager).facts


# -- every phase, held for as long as the test wants it --------------------------------------------


async def queued(kernels: Kernels) -> Any:
    await kernels.start("3/4")
    manager = await kernels.start("1/2", traits=QUICK)
    assert state(manager) is State.QUEUED
    return manager


async def starting(kernels: Kernels) -> Any:
    manager = kernels.manager(**QUICK)
    spec = manager.kernel_spec
    spec.argv = ["sh", "-c", 'sleep 600; exec "$0" "$@"', *spec.argv]
    env = {**os.environ, "JUPYTER_GPU_SHARE_SIZE": "1/2"}
    await asyncio.wait_for(manager.start_kernel(env=env), PATIENCE)
    # A start that need not wait is told as waiting for a moment first.
    await eventually(lambda: facts(manager).phase is Phase.STARTING, "it starts")
    return manager


async def running(kernels: Kernels) -> Any:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    client.execute("import time\nwhile True: time.sleep(0.01)")
    await eventually(lambda: controller(manager).busy, "the cell runs")
    return manager


async def looking(kernels: Kernels) -> Any:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, DEAF.format("signs"))
    asking = asyncio.ensure_future(Runtime.instance().kept_by_release(manager.kernel_id))
    asking.add_done_callback(lambda done: done.cancelled() or done.exception())
    await eventually(lambda: facts(manager).work is Work.LOOK, "the kernel is asked")
    return manager


async def releasing(kernels: Kernels) -> Any:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, f"{MEMORY}\n{DEAF.format('vacate')}")
    giving = asyncio.ensure_future(release(manager))
    giving.add_done_callback(lambda done: done.cancelled() or done.exception())
    await eventually(lambda: facts(manager).phase is Phase.RELEASING, "it is on its way")
    return manager


async def released(kernels: Kernels) -> Any:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, MEMORY)
    await release(manager)
    return manager


async def saved(kernels: Kernels) -> Any:
    Runtime.instance().idle_policy.set_trait("in_place", False)
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "x = 1")
    await release(manager)
    return manager


async def waking(kernels: Kernels) -> Any:
    manager = await released(kernels)
    await kernels.start("3/4")
    kernels.clients[-1].execute("1")
    await eventually(lambda: state(manager) is State.WAKING, "it asks for its share")
    return manager


async def resuming(kernels: Kernels) -> Any:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, f"{MEMORY}\n{DEAF.format('resume')}")
    await release(manager)
    client.execute("1")
    await eventually(lambda: facts(manager).phase is Phase.RESUMING, "it is on its way back")
    return manager


async def resizing(kernels: Kernels) -> Any:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, f"{MEMORY}\n{DEAF.format('limits')}")
    from jupyter_gpu_share.size import Size

    changing = asyncio.ensure_future(
        Runtime.instance().change_size(manager.kernel_id, Size.parse("1/4"), lose_variables=False)
    )
    changing.add_done_callback(lambda done: done.cancelled() or done.exception())
    await eventually(lambda: facts(manager).phase is Phase.RESIZING, "the change has begun")
    return manager


async def dead(kernels: Kernels) -> Any:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    client.execute("import os; os._exit(7)")
    await eventually(lambda: facts(manager).phase is Phase.OFF, "the kernel is gone")
    return manager


PHASES: list[Callable[[Kernels], Awaitable[Any]]] = [
    queued,
    starting,
    running,
    looking,
    releasing,
    released,
    saved,
    waking,
    resuming,
    resizing,
    dead,
]
in_every_phase = pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)


def processes() -> set[str]:
    """Kernels of this process that run, by process id."""
    token = b"JUPYTER_GPU_SHARE_CLAIM"
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_bytes()
            parent = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if token in words and parent[0] != "Z" and int(parent[1]) == os.getpid():
            found.add(folder.name)
    return found


@in_every_phase
@pytest.mark.parametrize("now", [True, False], ids=["now", "politely"])
async def test_shut_down(phase: Any, now: bool, kernels: Kernels) -> None:
    manager = await phase(kernels)
    rivals = len(kernels.managers) - 1
    await asyncio.wait_for(manager.shutdown_kernel(now=now), PATIENCE)
    assert not await manager.is_alive()
    await eventually(lambda: len(processes()) == rivals, "its process is gone")
    rows = Runtime.instance().table.all()
    assert len(rows) == rivals, rows
    await free_is((80 - 60 * rivals) * GIB)


@in_every_phase
@pytest.mark.parametrize("now", [True, False], ids=["now", "politely"])
async def test_restart(phase: Any, now: bool, kernels: Kernels) -> None:
    manager = await phase(kernels)
    manager.kernel_spec.argv = kernels.manager().kernel_spec.argv  # the next start is a quick one
    kernels.managers.pop()
    for rival in kernels.managers:
        if rival is not manager:
            await rival.shutdown_kernel(now=True)
    await asyncio.wait_for(manager.restart_kernel(now=now), PATIENCE)
    client = await kernels.client(manager)
    assert await run(client, "print('memory' in globals())") == "False"
    await active(manager)
    assert await manager.is_alive()
    assert await free() == 40 * GIB


@in_every_phase
async def test_a_kill_from_outside_the_manager(phase: Any, kernels: Kernels) -> None:
    manager = await phase(kernels)
    await asyncio.wait_for(manager.signal_kernel(9), PATIENCE)
    await eventually(lambda: facts(manager).phase is Phase.OFF, "the kernel has ended")
    assert not await manager.is_alive()


# -- who meets whom --------------------------------------------------------------------------------


async def test_a_restart_while_the_kernel_starts_leaves_the_new_one_alone(
    kernels: Kernels, tmp_path: Path
) -> None:
    manager = kernels.manager(**QUICK)
    gate = tmp_path / "gate"
    spec = manager.kernel_spec
    assert spec is not None
    wait = f'while [ ! -e {gate} ]; do sleep 0.05; done; exec "$0" "$@"'
    spec.argv = ["sh", "-c", wait, sys.executable, *spec.argv[1:]]
    env = {**os.environ, "JUPYTER_GPU_SHARE_SIZE": "1/2"}
    await asyncio.wait_for(manager.start_kernel(env=env), PATIENCE)
    client = manager.client()
    client.start_channels()
    kernels.clients.append(client)
    restarting = asyncio.ensure_future(manager.restart_kernel())
    await asyncio.wait_for(restarting, PATIENCE)
    cell = asyncio.ensure_future(run(client, "print('ran')"))
    gate.touch()
    assert await asyncio.wait_for(cell, PATIENCE) == "ran"
    assert await run(client, "print('and lives')") == "and lives"
    assert await manager.is_alive()


async def test_restarts_of_a_queued_kernel_with_a_slow_ledger(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = await kernels.start("3/4")
    manager = await kernels.start("1/2", traits=QUICK)
    real = Ledger.release

    def slow(self: Ledger, kernel_id: str) -> bool:
        import time

        time.sleep(0.3)
        return real(self, kernel_id)

    monkeypatch.setattr(Ledger, "release", slow)
    for _ in range(2):
        await asyncio.wait_for(manager.restart_kernel(), PATIENCE)
        assert await manager.is_alive()
    client = await kernels.client(manager)
    cell = asyncio.ensure_future(run(client, "print('ran')"))
    await eventually(lambda: controller(manager).relay.held == 1, "the cell waits")
    await rival.shutdown_kernel(now=True)
    assert (await asyncio.wait_for(cell, PATIENCE)).endswith("ran")


async def test_interrupts_do_not_take_the_next_cell(kernels: Kernels) -> None:
    rival = await kernels.start("3/4")
    manager = await kernels.start("1/2", traits=QUICK)
    client = await kernels.client(manager)
    first = asyncio.ensure_future(run(client, "print('never')"))
    await eventually(lambda: controller(manager).relay.held == 1, "the cell waits")
    await asyncio.gather(manager.interrupt_kernel(), manager.interrupt_kernel())
    assert "KeyboardInterrupt" in await asyncio.wait_for(first, PATIENCE)
    second = asyncio.ensure_future(run(client, "print('ran')"))
    await eventually(lambda: state(manager) is State.WAKING, "it asks again")
    await rival.shutdown_kernel(now=True)
    assert (await asyncio.wait_for(second, PATIENCE)).endswith("ran")


async def test_a_client_that_asks_for_the_end_during_a_release(kernels: Kernels) -> None:
    manager = await releasing(kernels)
    kernels.clients[-1].shutdown()
    await eventually(lambda: facts(manager).phase is Phase.OFF, "it has ended")
    assert not await manager.is_alive()
    await free_is(80 * GIB)


async def test_a_cell_interrupts_a_look_and_runs(kernels: Kernels) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, HANG.format("signs"))
    asking = asyncio.ensure_future(Runtime.instance().kept_by_release(manager.kernel_id))
    await eventually(lambda: facts(manager).work is Work.LOOK, "the kernel is asked")
    assert await run(client, "print('ran')") == "ran"
    with pytest.raises(NotPossible, match="A cell was run just now"):
        await asyncio.wait_for(asking, PATIENCE)


async def test_a_cell_that_interrupts_a_look_leaves_the_users_processes_alone(
    kernels: Kernels,
) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    child = "import subprocess; child = subprocess.Popen(['sleep', '1000'])"
    await run(client, f"{child}\n{HANG.format('signs')}")
    asking = asyncio.ensure_future(Runtime.instance().kept_by_release(manager.kernel_id))
    asking.add_done_callback(lambda done: done.cancelled() or done.exception())
    await eventually(lambda: facts(manager).work is Work.LOOK, "the kernel is asked")
    wait = "try: child.wait(0.5); print('ended')\nexcept subprocess.TimeoutExpired: print('runs')"
    assert await run(client, wait) == "runs"


async def test_a_cell_interrupts_a_release_of_the_idle_rule_and_runs(kernels: Kernels) -> None:
    policy = Runtime.instance().idle_policy
    for name, value in {
        "idle_after": 0.1,
        "rule": "fixed",
        "timeout": 0.3,
        "warn_before": 0.0,
        "in_place": False,
    }.items():
        policy.set_trait(name, value)
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, f"x = 41; {HANG.format('save')}")
    await eventually(lambda: facts(manager).phase is Phase.RELEASING, "it is being saved")
    assert await run(client, "x += 1; print(x)") == "42"
    assert await run(client, "x += 1; print(x)") == "43"


async def test_an_interrupt_that_meets_a_look_costs_no_cell(kernels: Kernels) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    for turn in range(40):
        asking = asyncio.ensure_future(Runtime.instance().kept_by_release(manager.kernel_id))
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        for _ in range(turn % 8):
            await asyncio.sleep(0)
        await manager.interrupt_kernel()
        told = await asyncio.wait_for(run(client, f"print({turn})"), PATIENCE)
        assert told == str(turn)
        await asyncio.wait({asking}, timeout=PATIENCE)


async def test_a_release_sends_no_signal(kernels: Kernels) -> None:
    """Releases at any moment around a cell: it runs once, or the release is refused."""
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "ran = []")
    for turn in range(30):
        cell = asyncio.ensure_future(run(client, f"ran.append({turn})"))
        for _ in range(turn % 10):
            await asyncio.sleep(0.001)
        try:
            await asyncio.wait_for(release(manager), PATIENCE)
        except GpuShareError:
            pass
        assert await asyncio.wait_for(cell, PATIENCE) == ""
    assert await run(client, "print(ran == list(range(30)))") == "True"


async def test_what_threads_print_meanwhile_reaches_the_page(kernels: Kernels) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    code = (
        "import threading, time\nstop = threading.Event()\n"
        "def work():\n    n = 0\n    while not stop.is_set():\n"
        "        print('line', n, flush=True); n += 1; time.sleep(0.005)\n"
        "thread = threading.Thread(target=work, daemon=True); thread.start()"
    )
    cell = client.execute(code)
    await eventually(lambda: controller(manager).relay.activity.cells_done == 1, "it has run")
    await asyncio.wait_for(release(manager), PATIENCE)
    lines: list[int] = []

    async def heard(number: int) -> None:
        while not lines or lines[-1] < number:
            message = await asyncio.wait_for(client.get_iopub_msg(), PATIENCE)
            if message["msg_type"] == "stream":
                assert message["parent_header"]["msg_id"] == cell, message
                words = message["content"]["text"].split()
                lines.extend(int(word) for word in words if word.isdigit())

    await heard(100)
    assert state(manager) is State.RELEASED
    await heard(lines[-1] + 100)
    await Runtime.instance().wake(manager.kernel_id)
    await active(manager)
    await heard(lines[-1] + 100)
    assert lines == list(range(len(lines)))
