"""Notebooks on a FAKE driver, told by name: each prints what it found as one line of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fake_driver import GIB, UUIDS, FakeDriver
from jupyter_core.paths import jupyter_data_dir
from managers import Kernels, free, run, state
from waiting import eventually

from jupyter_gpu_share.allocations import Allocation, State
from jupyter_gpu_share.engines._processes import Holder
from jupyter_gpu_share.engines.local._inventory import inventory
from jupyter_gpu_share.errors import GpuShareError, NoGpuError, NotPossible
from jupyter_gpu_share.runtime import Runtime
from jupyter_gpu_share.size import Size

BEGIN = "import os, fake_gpu_program as gpu; pid = os.getpid(); number = 1"
TAKE = BEGIN + f"\nmine = gpu.Array({10 * GIB}); mine.write('a picture')"
#: Variables that a new process can have, which takes its memory anew.
TEXT = "text = mine.read(9); del mine"
FILL = """
import fake_gpu_program as gpu
blocks = []
try:
    while True: blocks.append(gpu.Array(2**29))
except MemoryError: print(len(blocks) * 2**29)
"""

FRAMEWORKS = Path(__file__).with_name("fake_frameworks")
driver = FakeDriver(Path(os.environ["FAKE_DRIVER"]))


def row(manager: Any) -> Allocation:
    found = Runtime.instance().table.get(manager.kernel_id)
    assert found is not None
    return found


async def release(manager: Any) -> str:
    """How the state was kept."""
    await Runtime.instance().release(manager.kernel_id, lose_variables=False)
    return row(manager).kept.how


async def usage(manager: Any) -> Any:
    """A reading of the engine, made now."""
    runtime = Runtime.instance()
    engine = await runtime.call(runtime.engine())
    return (await runtime.call(engine.usage(frozenset())))[manager.kernel_id]


async def share(kernels: Kernels) -> dict[str, Any]:
    """Fill, give the share back, have a rival fill it, wake."""
    manager = await kernels.start("3/4")
    client = await kernels.client(manager)
    await run(client, TAKE)
    pid = await run(client, "print(pid)")
    found: dict[str, Any] = {"used": (await usage(manager)).used_bytes}
    if driver.state.wsl:
        await run(client, "text = mine.read(9); mine = None")
    found["how"] = await release(manager)
    found["state"] = row(manager).state.value
    found["free"], found["in use"] = await free(), driver.used()
    rival = await kernels.start("1")
    found["rival"] = int(await run(await kernels.client(rival), FILL))
    cell = asyncio.ensure_future(
        run(client, "print(os.getpid(), number, mine.read(9) if mine else text)")
    )
    await eventually(lambda: state(manager) is State.WAKING, "it asks for its share")
    await eventually(lambda: row(manager).queue, "it waits for the rival")
    found["held"] = not cell.done()
    await rival.shutdown_kernel(now=True)
    words = (await cell).split()
    if "variables" in words:  # a line about what came back is before it
        words = words[-4:]
    found["same process"] = words[-4] == pid
    found["number"], found["text"] = int(words[-3]), " ".join(words[-2:])
    return found


async def lie(kernels: Kernels) -> dict[str, Any]:
    """A release that cannot be done in place, and the next one."""
    manager = await kernels.start("3/4")
    client = await kernels.client(manager)
    await run(client, TAKE)
    found = {}
    try:
        found["first"] = await release(manager)
    except NotPossible as error:
        found["first"] = str(error)
    found["held"] = row(manager).state.value
    await run(client, TEXT)
    found["how"] = await release(manager)
    found["in use"] = driver.used()
    return found


async def asked(kernels: Kernels) -> dict[str, Any]:
    """Kernels that hold nothing: one has asked NVML, the other has begun CUDA."""
    found: dict[str, Any] = {}
    for name, code in (
        ("nvml", "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())"),
        ("begun", BEGIN + "; gpu.init()"),
    ):
        manager = await kernels.start("1/4")
        client = await kernels.client(manager)
        await run(client, code)
        pid = await run(client, "import os; print(os.getpid())")
        found[name] = await release(manager)
        same = await run(client, "print(os.getpid())") == pid
        found["same process"] = found.get("same process", True) and same
        await manager.shutdown_kernel(now=True)
    manager = await kernels.start("1/4")
    client = await kernels.client(manager)
    await run(client, LATE)
    await release(manager)
    await run(client, "thread.join(30)")
    found["late"] = await run(client, "print(said)")
    found["in use"] = driver.used()
    found["again"] = await release(manager)
    return found


#: A thread that begins to use a GPU while its kernel has no share.
LATE = """
import os, threading, time, fake_gpu_program as gpu
said = []
def late():
    while os.environ["CUDA_VISIBLE_DEVICES"]: time.sleep(0.001)
    try: gpu.Array(2**30); said.append("it has some")
    except OSError as error: said.append("none")
thread = threading.Thread(target=late, daemon=True); thread.start()
"""


async def fill(kernels: Kernels) -> dict[str, Any]:
    """A cell that takes all that frameworks are told to take, for as long as readings need."""
    manager = await kernels.start("3/4")
    client = await kernels.client(manager)
    code = """
import os, time, fake_gpu_program as gpu
mine = gpu.Array(int(os.environ["JUPYTER_GPU_SHARE_CAP_BYTES"]))
while not os.path.exists("done"): time.sleep(0.01)
print("whole")
"""
    folder = await run(client, "import os; print(os.getcwd())")
    cell = asyncio.ensure_future(run(client, code))
    await eventually(lambda: (row(manager).used_bytes or 0) > 11 * GIB, "its use is seen")
    runtime = Runtime.instance()
    engine = await runtime.call(runtime.engine())
    for _ in range(4):  # one above the share would be stopped at the second
        reading = await runtime.call(engine.usage(frozenset([manager.kernel_id])))
    (Path(folder) / "done").touch()
    try:
        printed = await cell
    finally:
        (Path(folder) / "done").unlink()
    held = row(manager).share
    assert held is not None
    used = reading[manager.kernel_id].used_bytes
    return {"printed": printed, "used": used, "share": held.memory_bytes}


async def lost(kernels: Kernels) -> dict[str, Any]:
    """One of two GPUs falls off the bus under a running kernel."""
    first = await kernels.start("1")
    second = await kernels.start("1/2")
    client = await kernels.client(second)
    await run(client, BEGIN + f"; mine = gpu.Array({GIB})")
    gone, stays = (_uuid(manager) for manager in (first, second))
    driver.state.gpus[UUIDS.index(gone)].lost = 1

    async def told() -> str | None:
        return str((await usage(first)).notice or "") or None

    found: dict[str, Any] = {"lost": gone, "second": stays, "told": await eventually(told, "told")}
    third = await kernels.start("1/4")
    found["third"] = _uuid(third)
    found["capacity"] = len(await Runtime.instance().capacity())
    found["others used"] = (await usage(second)).used_bytes
    return found


async def astray(kernels: Kernels) -> dict[str, Any]:
    """A cell goes to the GPU of somebody else."""
    await kernels.start("1")
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    other = 1 - UUIDS.index(_uuid(manager))
    chosen = await run(client, f"import os; os.environ['CUDA_VISIBLE_DEVICES'] = '{other}'")
    await run(client, BEGIN + f"; mine = gpu.Array({GIB}); text = lambda: mine")

    async def told() -> str | None:
        return str((await usage(manager)).notice or "") or None

    found = {"told": await eventually(told, "it is told"), "chosen": chosen}
    found["why"] = await run(client, "from gpu_share_kernel import vacate; print(vacate.plan())")
    return found


async def others(kernels: Kernels) -> dict[str, Any]:
    """Programs that hold no share use most of the GPU, and end."""
    runtime = Runtime.instance()
    engine = await runtime.call(runtime.engine())
    found: dict[str, Any] = {"fits": await runtime.call(engine.fits(None, Size.parse("1/2")))}
    found["free"] = await free()
    driver.state.gpus[0].others = 0

    async def fits() -> bool:
        return await runtime.call(engine.fits(None, Size.parse("1/2"))) is None

    waiting = await kernels.start("1/2")
    await eventually(lambda: state(waiting) is State.ACTIVE, "it starts once they have ended")
    found["later"] = await runtime.call(engine.fits(None, Size.parse("1/2")))
    return found


async def split(kernels: Kernels) -> dict[str, Any]:
    """A GPU is split into instances of MIG under a running server."""
    runtime = Runtime.instance()
    assert [each.profile for each in await runtime.capacity()] == [None]
    driver.state.gpus[0].instances = 7

    async def profiles() -> list[str | None] | None:
        found = [each.profile for each in await runtime.capacity()]
        return found if None not in found else None

    found: dict[str, Any] = {"profiles": await eventually(profiles, "the split is seen")}
    found["started"] = _uuid(await kernels.start("2GiB"))
    return found


async def mps(kernels: Kernels) -> dict[str, Any]:
    """A control daemon of MPS, which is a fake that only listens, ends under a running server."""
    control = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"]) / "control"
    control.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
        daemon.bind(str(control))
        daemon.listen()
        first = await kernels.start("1/4")
    second = await kernels.start("1/4")
    return {name: _isolation(each) for name, each in (("with", first), ("without", second))}


def _isolation(manager: Any) -> str:
    held = row(manager).share
    assert held is not None
    return held.isolation.value


async def mps_of_several(kernels: Kernels) -> dict[str, Any]:
    """Several users share the GPUs, and a control daemon of MPS runs, which only listens."""
    runtime = Runtime.instance()
    engine: Any = await runtime.call(runtime.engine())
    common = driver.folder.parent / "common"
    common.mkdir()
    common.chmod(0o2770)
    engine.directory = str(common)
    control = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"]) / "control"
    control.parent.mkdir()
    found: dict[str, Any] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
        daemon.bind(str(control))
        daemon.listen()
        try:
            await kernels.start("1/4")
        except GpuShareError as error:
            found["refused"] = str(error)
        found["doctor"] = [each.what for each in await runtime.call(engine.diagnose())]
        found["free"] = await free()
        await kernels.start("0")
        engine.mps = "off"
        manager = await kernels.start("1/4")
        found["off"] = _isolation(manager)
        code = "from gpu_share_kernel import cuda_signs; print(repr(cuda_signs.mps()))"
        found["seen"] = await run(await kernels.client(manager), code)
    return found


async def own(kernels: Kernels) -> dict[str, Any]:
    """What a server offers that was started with CUDA_VISIBLE_DEVICES."""
    found: dict[str, Any] = {}
    for name, text in (
        ("1", "1"),
        ("0,1", "0,1"),
        ("", ""),
        ("GPU-…1", UUIDS[1]),
        ("5,0", "5,0"),
    ):
        try:
            gpus = inventory(environ={"CUDA_VISIBLE_DEVICES": text}).gpus
            found[name] = [gpu.index for gpu in gpus]
        except NoGpuError:
            found[name] = "error"
    return found


CAPS = "import os; print(os.environ['JUPYTER_GPU_SHARE_CAP_BYTES'])"


async def contexts(kernels: Kernels) -> dict[str, Any]:
    """What CUDA's context takes is measured by one kernel, and told to the next."""
    runtime = Runtime.instance()
    engine: Any = await runtime.call(runtime.engine())
    first = await kernels.start("1/4")
    client = await kernels.client(first)
    found: dict[str, Any] = {"estimated": await _about_context(engine)}
    found["first cap"] = int(await run(client, CAPS))
    await run(client, f"import sys; sys.path.insert(0, {str(FRAMEWORKS)!r})")
    await run(client, BEGIN + "; import torch; torch.cuda.take(2**30)")
    files = list(Path(jupyter_data_dir()).glob("gpu-share/contexts/*"))
    found["files"] = [(path.name, path.stat().st_mode & 0o777) for path in files]
    if not files:
        return found

    async def measured() -> bool:
        return "(measured)" in await _about_context(engine)

    await eventually(measured, "the measure is read")
    found["measured"] = await _about_context(engine)
    second = await kernels.start("1/2")
    client = await kernels.client(second)
    found["second cap"] = int(await run(client, CAPS))
    await run(client, f"import sys; sys.path.insert(0, {str(FRAMEWORKS)!r})")
    await run(client, "import torch; torch.cuda.fill()")
    held = row(second).share
    assert held is not None
    found["share"], found["used"] = held.memory_bytes, (await usage(second)).used_bytes
    found["too small"] = await runtime.call(engine.never_fits(Size.parse("512MiB")))
    return found


async def _about_context(engine: Any) -> str:
    lines = [each.what for each in await Runtime.instance().call(engine.diagnose())]
    return next(line for line in lines if "context" in line)


async def family(kernels: Kernels) -> dict[str, Any]:
    """Two processes of one kernel, each below the share, together above it."""
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, WORKERS)
    cell = asyncio.ensure_future(run(client, "while True: time.sleep(0.01)"))
    runtime = Runtime.instance()
    engine = await runtime.call(runtime.engine())
    notices: list[str] = []
    most = 0

    async def stopped() -> bool:
        nonlocal most
        busy = frozenset([manager.kernel_id])
        reading = (await runtime.call(engine.usage(busy)))[manager.kernel_id]
        notices.append(reading.notice or "")
        most = max(most, reading.used_bytes or 0)
        return cell.done()

    await eventually(stopped, "the cell is stopped")
    return {
        "cell": await cell,
        "told": [each for each in notices if each],
        "used": most,
    }


#: As `torchrun` and data loaders do: processes of their own, one of them in a session of its own.
WORKERS = f"""
import subprocess, sys, time
code = "import fake_gpu_program as gpu; mine = gpu.Array({5 * GIB}); print(flush=True); input()"
workers = [
    subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                     start_new_session=bool(n))
    for n in range(2)
]
for each in workers: each.stdout.readline()
"""


async def wall(kernels: Kernels) -> dict[str, Any]:
    """A limit that the driver keeps, from the kernel's first line to the end of what it left."""
    runtime = Runtime.instance()
    engine: Any = await runtime.call(runtime.engine())
    engine.limiter = os.environ["TEST_LIMITER"]
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    held = row(manager).share
    assert held is not None
    found: dict[str, Any] = {"isolation": held.isolation.value, "limits": [_limits()]}
    found["took"] = int(await run(client, FILL))
    found["child"] = await run(client, CHILD)
    found["above"] = driver.used() > held.memory_bytes
    await run(client, "for each in blocks: each.free()")
    await runtime.change_size(manager.kernel_id, Size.parse("1/4"), lose_variables=False)
    found["limits"].append(_limits())
    await runtime.change_size(manager.kernel_id, Size.parse("3/4"), lose_variables=False)
    found["limits"].append(_limits())
    found["how"] = await release(manager)
    found["limits"].append(_limits())
    found["again"] = await run(client, "print(6 * 7)")
    found["limits"].append(_limits())
    await run(client, LEFT)
    left = int(await run(client, "print(left.pid)"))
    await manager.shutdown_kernel(now=True)
    found["limits"].append(_limits())
    found["left"] = bool(Holder.of(left).start_time)  # none of one that is only not reaped
    found["free"] = await free()
    found["doctor"] = [each.what for each in await runtime.call(engine.diagnose())]
    return found


def _limits() -> list[int]:
    return sorted(driver.limits().values())


CHILD = """
import subprocess, sys
code = "import fake_gpu_program as gpu; gpu.Array(2**20)"
print("MemoryError" in subprocess.run([sys.executable, "-c", code], capture_output=True,
                                      text=True).stderr)
"""
#: A process that no variable and no session shows to be the kernel's.
LEFT = """
import os, subprocess
env = {n: v for n, v in os.environ.items() if not n.startswith("JUPYTER_GPU_SHARE")}
left = subprocess.Popen(["sleep", "1000"], env=env, start_new_session=True)
"""


async def wall_breaks(kernels: Kernels) -> dict[str, Any]:
    """The driver keeps no limit any more: nothing changes hands."""
    runtime = Runtime.instance()
    engine: Any = await runtime.call(runtime.engine())
    engine.limiter = os.environ["TEST_LIMITER"]
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    found: dict[str, Any] = {}
    driver.state.old = 1
    for name, size in (("grown", "3/4"), ("shrunk", "1/4")):
        try:
            await runtime.change_size(manager.kernel_id, Size.parse(size), lose_variables=False)
            found[name] = "it has changed"
        except GpuShareError as error:
            found[name] = str(error)
        found[f"{name} free"], found[f"{name} size"] = await free(), row(manager).size
    try:
        found["released"] = await release(manager)
    except GpuShareError as error:
        found["released"] = str(error)
    found["free"], found["state"] = await free(), row(manager).state.value
    found["lives"] = await run(client, "print(6 * 7)")
    driver.state.old = 0
    found["later"] = await release(manager)
    found["limits"] = _limits()
    return found


async def unwalled(kernels: Kernels) -> dict[str, Any]:
    """The service of the limits does not answer, or cannot have them kept."""
    runtime = Runtime.instance()
    engine: Any = await runtime.call(runtime.engine())
    found = {}
    control = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"]) / "control"
    for name, path in (
        ("absent", "/nowhere/limiter.sock"),
        ("old", os.environ["TEST_LIMITER"]),
        ("mps", os.environ["TEST_LIMITER"]),
    ):
        engine.limiter = path
        driver.state.old = name == "old"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
            if name == "mps":
                control.parent.mkdir()
                daemon.bind(str(control))
                daemon.listen()
            try:
                await kernels.start("1/2")
                found[name] = "it starts"
            except GpuShareError as error:
                found[name] = str(error)
        found[f"{name} free"] = await free()
    return found


def _uuid(manager: Any) -> str:
    held = row(manager).share
    assert held is not None
    return held.devices[0].uuid


STORIES: dict[str, Callable[[Kernels], Awaitable[dict[str, Any]]]] = {
    each.__name__: each
    for each in (
        *(share, lie, asked, fill, lost, astray, others, split, mps, own),
        *(contexts, family, wall, wall_breaks, unwalled, mps_of_several),
    )
}


async def main(name: str) -> None:
    kernels = Kernels()
    try:
        found = await STORIES[name](kernels)
    finally:
        await kernels.close()
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
