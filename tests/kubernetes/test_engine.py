"""Kernels in pods of a real cluster, through a kernel manager, the provisioner and the relay."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from notebooks import LONG, Notebook
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes import _overlooked
from jupyter_gpu_share.errors import GpuShareError
from jupyter_gpu_share.runtime import Runtime

pytestmark = CLUSTER_MARKS

Make = Callable[..., Notebook]
Objects = Callable[[str], list[dict[str, Any]]]
GIB = 2**30
WRITES = {"create", "update", "patch", "delete"}


async def test_a_kernel_runs_in_a_pod_with_its_share(
    notebook: Make, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_SERVER", "must-not-leak")
    one = await notebook("1/4").start()
    share = one.allocation.share
    assert share is not None
    assert share.memory_bytes == 20 * GIB
    assert share.simulated
    assert share.isolation.value == "framework"
    assert one.allocation.backend == "dra"
    assert one.allocation.style == "pod"
    told = json.loads(await one.run("import json, os; print(json.dumps(dict(os.environ)))"))
    assert told["JUPYTER_GPU_SHARE_MEMORY_BYTES"] == str(20 * GIB)
    assert told["JUPYTER_GPU_SHARE_UUID"] == share.devices[0].uuid == told["GPU_UUID"]
    assert told["GPU_MEMORY_BYTES"] == str(20 * GIB)
    assert "A_SECRET_OF_THE_SERVER" not in told
    assert await one.run("import os; print(os.getuid(), os.path.exists('/var/run/secrets'))") == (
        "1000 False"
    )
    (pod,) = objects("pods")
    text = json.dumps(pod)
    assert "must-not-leak" not in text
    assert one.manager.session.key.decode() not in text


async def test_two_kernels_have_their_own_memory_and_see_its_end(notebook: Make) -> None:
    one, two = notebook("1/4"), notebook("1/4")
    await asyncio.gather(one.start(), two.start())
    take = "from gpu_share_kernel import simulated; m = simulated.allocate('{}'); print('held')"
    assert await one.run(take.format("15GiB")) == "held"
    assert await two.run(take.format("15GiB")) == "held"
    assert "OutOfMemoryError" in await one.run(take.format("10GiB"))
    await eventually(lambda: one.allocation.used_bytes == 15 * GIB, "the use is known")


async def test_use_above_the_share_stops_the_cell_and_no_neighbour(notebook: Make) -> None:
    one, two = notebook("1/4"), notebook("1/4")
    await asyncio.gather(one.start(), two.start())
    calm = asyncio.ensure_future(two.run("import time; time.sleep(8); print('undisturbed')"))
    greedy = (
        "import time\nfrom gpu_share_kernel import simulated\n"
        "m = simulated.allocate('30GiB', beyond_share=True)\ntime.sleep(60)"
    )
    told = await one.run(greedy)
    assert "The cell was stopped" in told
    assert "KeyboardInterrupt" in told
    assert await calm == "undisturbed"


async def test_a_restart_stays_in_the_pod_and_keeps_the_share(
    notebook: Make, objects: Objects
) -> None:
    one = await notebook("1/2").start()
    await one.run("x = 1")
    (before,) = objects("pods")
    began = time.monotonic()
    await one.manager.restart_kernel(now=True)
    assert "NameError" in await one.run("x")
    took = time.monotonic() - began
    (after,) = objects("pods")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert took < LONG
    assert one.allocation.state.value == "active"


async def test_an_interrupt_stops_the_cell(notebook: Make) -> None:
    one = await notebook("1/4").start()
    await one.run("x = 41")
    begun: list[str] = []
    cell = asyncio.ensure_future(
        one.run("print('begun', flush=True)\nimport time; time.sleep(600)", told=begun)
    )
    await eventually(lambda: begun, "the cell runs")
    await one.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in await cell
    assert await one.run("print(x + 1)") == "42"


async def test_a_kernel_that_dies_is_told_with_its_cause_and_starts_again(notebook: Make) -> None:
    one = await notebook("1/4").start()
    assert one.client is not None
    one.client.execute("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    await one.state("failed")
    assert "SIGSEGV" in one.allocation.reason
    await one.manager.restart_kernel(now=True)
    assert await one.run("print('again')") == "again"


async def test_nothing_is_left_after_a_shutdown(notebook: Make, objects: Objects) -> None:
    one = await notebook("1/4").start()
    assert objects("secrets")
    assert objects("claims")
    await one.close()
    for what in ("pods", "secrets", "claims"):
        await eventually(lambda what=what: not objects(what), f"no {what} left", LONG)


async def test_a_launch_writes_three_times_and_never_polls(
    notebook: Make, cluster: Any, namespace: str
) -> None:
    await notebook("1/4").start()  # gets to know the cluster
    one = notebook("1/4")
    since = cluster.audit_position()
    await one.start()
    seen = [
        (entry["verb"], entry["objectRef"]["resource"])
        for entry in cluster.audit(since)
        if entry.get("objectRef", {}).get("namespace") == namespace
        and entry.get("userAgent") == "jupyter-gpu-share"
        and entry["stage"] == "ResponseComplete"
        and entry["objectRef"]["resource"] != "leases"
    ]
    writes = [(verb, what) for verb, what in seen if verb in WRITES]
    reads = [(verb, what) for verb, what in seen if verb not in WRITES | {"watch"}]
    assert sorted(what for _, what in writes) == ["pods", "resourceclaims", "secrets"]
    assert not reads


@pytest.mark.parametrize("style", ["pod", "lease"])
async def test_five_kernels_fill_two_gpus_and_the_sixth_waits_for_room(
    style: str, notebook: Make, cluster: Any, namespace: str
) -> None:
    five = [notebook(f"{n}GiB", style=style) for n in (20, 20, 20, 40, 40)]
    for one in five:
        await one.start()
    held: dict[str, int] = {}
    for one in five:
        share = one.allocation.share
        assert share is not None
        held[share.devices[0].uuid] = held.get(share.devices[0].uuid, 0) + share.memory_bytes
    assert sorted(held.values()) == [60 * GIB, 80 * GIB]
    sixth = notebook("40GiB", style=style)
    sixth.config.GpuShareProvisioner.queue_patience = 0.5
    await sixth.start()
    row = await sixth.state("queued")
    await eventually(lambda: sixth.allocation.queue is not None, "the place is known")
    row = sixth.allocation
    assert (row.queue.position, row.queue.of) == (1, 1)
    assert row.reason == "No GPU has that much free now."
    cell = asyncio.ensure_future(sixth.run("print('here at last')"))
    await five[0].close()
    assert await cell == "here at last"
    assert sixth.allocation.share is not None
    total = sum(gpu.memory_bytes - gpu.free_bytes for gpu in await Runtime.instance().capacity())
    assert total <= 160 * GIB


@pytest.mark.parametrize("style", ["pod", "lease"])
async def test_the_scheduler_is_asked_again_where_there_is_room_that_it_overlooks(
    style: str,
    notebook: Make,
    cluster: Any,
    namespace: str,
    objects: Objects,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = [notebook("80GiB", style=style) for _ in range(2)]
    for one in full:
        await one.start()
    waiting = notebook("40GiB", style=style)
    waiting.config.GpuShareProvisioner.queue_patience = 0.5
    await waiting.start()
    await waiting.state("queued")
    runtime = Runtime.instance()
    engine: Any = await runtime.call(runtime.engine("kubernetes"))
    kernel = engine._kernels[waiting.kernel_id].objects

    def uids() -> set[str]:
        return {
            claim["metadata"]["uid"]
            for claim in objects("claims")
            if not claim.get("status", {}).get("allocation")
        }

    before = uids()
    assert len(before) == 1
    assert not await runtime.call(kernel._ask_again()), "both GPUs are full"
    assert uids() == before

    # That the scheduler overlooks room cannot be brought about; here there only seems to be some.
    async def room(*_: Any) -> bool:
        return True

    monkeypatch.setattr(_overlooked, "_has_room", room)
    assert await runtime.call(kernel._ask_again())
    after = uids()
    assert len(after) == 1
    assert after.isdisjoint(before)
    held = engine._kernels[full[0].kernel_id].objects
    assert not await runtime.call(held._ask_again()), "it has its share"
    cell = asyncio.ensure_future(waiting.run("print('here at last')"))
    await full[0].close()
    assert await cell == "here at last"


async def test_a_leased_share_goes_and_comes_back_under_a_living_kernel(
    notebook: Make, cluster: Any, namespace: str
) -> None:
    one, rival = notebook("80GiB", style="lease"), notebook("80GiB", style="lease")
    other = notebook("80GiB", style="lease")
    await one.start()
    await other.start()
    await one.run("import os; x = object(); n = id(x); pid = os.getpid()")
    runtime = Runtime.instance()
    engine: Any = await runtime.call(runtime.engine("kubernetes"))
    await runtime.call(engine.give_back(one.kernel_id))
    await rival.start()
    share = rival.allocation.share
    assert share is not None
    assert one.allocation.share is not None
    assert share.devices[0].uuid == one.allocation.share.devices[0].uuid
    assert await one.run("print(id(x) == n, os.getpid() == pid)") == "True True"
    await rival.close()
    news: list[Any] = []
    await runtime.call(asyncio.wait_for(engine.take_back(one.kernel_id, news.append), LONG))
    assert await one.run("print(id(x) == n)") == "True"
    free = {gpu.uuid: gpu.free_bytes for gpu in await runtime.capacity()}
    # What is left is for others to rest on.
    assert free[share.devices[0].uuid] == 80 * GIB - share.memory_bytes < GIB


@pytest.mark.parametrize(
    ("settings", "size", "words"),
    [
        ({"image": "localhost/no-such-image:1"}, "1/4", "image"),
        ({"image": ""}, "1/4", "No image is set"),
        ({"python": "no-such-python"}, "1/4", "no-such-python"),
        ({}, "100GiB", "the largest has 80 GiB"),
        ({"pod_patch": {"spec": {"hostNetwork": True}}}, "1/4", "hostNetwork is not allowed"),
        ({"kubeconfig": "/nowhere"}, "1/4", "no usable access"),
    ],
)
async def test_a_start_that_fails_says_why_and_leaves_nothing(
    settings: dict[str, Any], size: str, words: str, notebook: Make, objects: Objects
) -> None:
    one = notebook(size, **settings)
    with pytest.raises(GpuShareError, match=words) as caught:
        await one.start()
    assert "\n" not in str(caught.value)
    for what in ("pods", "secrets", "claims"):
        await eventually(lambda what=what: not objects(what), f"no {what} left", LONG)
