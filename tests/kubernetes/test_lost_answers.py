"""An API server that does what it is asked, and whose answer is lost: at every write of a life.

``make test`` loses a few of them, ``make faults`` each, again and again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from faults import RESTING, ROUNDS, STYLES, TURNS, World, account
from lossy import LossyProxy
from notebooks import LONG, Notebook
from traitlets.config import Config
from waiting import eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.engines.kubernetes.backends._quantity import parse_quantity
from jupyter_gpu_share.errors import GpuShareError
from jupyter_gpu_share.runtime import Runtime
from jupyter_gpu_share.size import Size

pytestmark = [*CLUSTER_MARKS, pytest.mark.fault]

#: Writes of a life, by style: start, release, wake, two changes of size, end.
WRITES = {"pod": 16, "lease": 20}
#: Seconds in which nothing is answered after the lost one: none, or longer than anybody is held up.
AWAY = (0.0, 6.5)
COMPUTE = "from gpu_share_kernel import simulated; memory = simulated.allocate('5GiB'); x = [1]"
LOOK = "print(x, simulated.memory()[0] >> 30)"


@pytest.fixture
async def world(
    cluster: Any, namespace: str, config: Config, tmp_path: Path
) -> AsyncIterator[World]:
    """A server's view of the cluster through a proxy that reads along."""
    proxy = await LossyProxy(cluster.api_url, cluster.authority).start()
    own = account(cluster, namespace).read_text()
    path = tmp_path / "plain.kubeconfig"
    path.write_text(re.sub(r"https://127\.0\.0\.1:\d+", f"http://127.0.0.1:{proxy.port}", own))
    config.KubernetesEngine.kubeconfig = str(path)
    config.KubernetesEngine.watch_period = 3.0
    config.KubernetesEngine.sweep_interval = 5.0
    found = World(cluster, namespace, config, proxy, "alice")
    yield found
    await found.close()
    await asyncio.to_thread(Runtime.clear_instance)
    await proxy.close()
    cluster.api.delete(f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/read-{namespace}")
    cluster.api.delete(f"/apis/rbac.authorization.k8s.io/v1/clusterroles/read-{namespace}")


def held(world: World, one: Notebook) -> int:
    """Bytes that the cluster has given to the kernel."""
    total = 0
    for claim, result in world.granted():
        notes = claim["metadata"].get("annotations", {})
        if notes.get("gpu-share.jupyter.org/kernel-id") == one.kernel_id:
            total += parse_quantity(result["consumedCapacity"]["memory"])
    return total


async def always_with_its_share(world: World, one: Notebook) -> None:
    """Look again and again: whatever is told to be on a GPU is given that by the cluster."""
    while True:
        before = Runtime.instance().table.get(one.kernel_id)
        given = await asyncio.to_thread(held, world, one)
        row = Runtime.instance().table.get(one.kernel_id)
        if row is not None and row == before and row.state in (State.ACTIVE, State.IDLE):
            assert given > RESTING, f"{row} is on a GPU without its share"
        await asyncio.sleep(0.1)


async def as_told(world: World, one: Notebook) -> None:
    """What the cluster has given comes to be what is told; nothing of what was tried is left."""

    async def agreed() -> bool:
        share = one.allocation.share
        told = share.memory_bytes if share is not None else 0
        if one.allocation.style == "lease" and not told:
            told = RESTING
        return await asyncio.to_thread(held, world, one) == told

    await eventually(agreed, "the cluster gives what is told", LONG)


async def tried(work: Any) -> str:
    """Why something was refused; empty where it was done."""
    try:
        await work
    except GpuShareError as error:
        return str(error)
    return ""


def story(one: Notebook) -> str:
    """What has happened to the kernel, for whoever looks for the cause of a failure."""
    return " > ".join(Runtime.instance().kernels.find(one.kernel_id)._story)


async def look(one: Notebook) -> None:
    """Run a cell that finds what there was; a wake that failed is asked for once again."""
    answers = []
    for _ in range(2):
        try:
            answers.append(await one.run(LOOK))
        except TimeoutError:
            answers.append(f"no answer; {one.allocation}; {story(one)}")
        if "[1] 5" in answers[-1]:
            return
    raise AssertionError(answers)


async def life(world: World, one: Notebook) -> None:
    """Start, release, wake, grow, shrink. What fails is tried once again, as a user does."""
    runtime = Runtime.instance()
    if await tried(one.start()):
        await one.start()
    await one.run(COMPUTE)
    told = await tried(runtime.release(one.kernel_id, lose_variables=False))
    assert one.allocation.state in ((State.ACTIVE, State.IDLE) if told else (State.RELEASED,))
    if world.rng.random() < 0.5:
        await as_told(world, one)
    await look(one)
    for size in ("1/2", "1/8"):
        await tried(runtime.change_size(one.kernel_id, Size.parse(size), lose_variables=False))
        await look(one)
        await as_told(world, one)


def turns(style: str) -> list[int]:
    """The numbers of the writes whose answers are lost: of each, or of a few that part or join."""
    if ROUNDS > 1:
        return [*range(WRITES[style])] * ROUNDS
    return [3] if style == "pod" else [5, 8]


@pytest.mark.parametrize(
    ("style", "turn", "number"),
    [(style, turn, number) for style in STYLES for turn, number in enumerate(turns(style))],
)
async def test_a_write_that_is_done_and_not_answered(
    style: str, turn: int, number: int, world: World
) -> None:
    log = world.round("write applied, its answer lost", turn, style)
    await (await world.make("0").start()).close()  # the cluster is known
    one = world.make()
    world.proxy.lose(number, world.rng.choice(AWAY))
    looks = asyncio.ensure_future(always_with_its_share(world, one))
    living = asyncio.ensure_future(life(world, one))
    try:
        await asyncio.wait({looks, living}, return_when=asyncio.FIRST_COMPLETED)
        if looks.done():
            looks.result()
        await living
    finally:
        for task in (looks, living):
            task.cancel()
        await asyncio.gather(looks, living, return_exceptions=True)
    await one.close()
    await world.nothing_left(log)
    assert world.proxy.lost, world.proxy.writes


@pytest.mark.parametrize("turn", TURNS)
async def test_a_cell_right_after_a_release_does_not_meet_the_pod_that_ends(
    turn: int, world: World
) -> None:
    """The watch shows it as it was: it is some seconds behind."""
    log = world.round("watch 2 s behind, a cell right after a release", turn, STYLES[turn % 2])
    world.proxy.behind = 2.0
    one = await world.make().start()
    await one.run(COMPUTE)
    await Runtime.instance().release(one.kernel_id, lose_variables=False)
    await look(one)
    await as_told(world, one)
    await one.close()
    await world.nothing_left(log)


async def test_a_sign_of_life_that_is_not_answered_is_one(world: World) -> None:
    one = await world.make().start()
    await one.run("x = 1")
    world.proxy.lose(0, 0.0, beside=True)
    await eventually(lambda: world.proxy.lost, "a Lease is renewed, and that is not answered", LONG)
    await eventually(lambda: len(world.proxy.writes) > 1, "it is renewed again", LONG)
    assert len({write.partition(" ")[2] for write in world.proxy.writes}) == 1
    assert await one.run("print(x)") == "1"
    await one.close()
    await world.nothing_left()
