"""A kernel above its share is told, then its cell is stopped; its neighbours go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from agents import ARGV, FAST, Pod, run, share_of_simulated

from jupyter_gpu_share.allocations import Device, Isolation, Share
from jupyter_gpu_share.engines._supervisor import Supervisor
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._link import AgentLink

pytestmark = pytest.mark.slow

GIB = 2**30
SHARE = Share(
    (Device("SIM-0", "A100", "node"),), 20 * GIB, Fraction(1, 4), Isolation.FRAMEWORK
)  # fmt: skip


@dataclass
class FakeKernel:
    """What an engine knows of a pod, with a real agent and a real kernel behind it."""

    pod: Pod
    link: AgentLink
    share: Share = SHARE
    supervisor: Supervisor = field(default_factory=lambda: Supervisor(20 * GIB))

    async def signal(self, signum: int, *, alone: bool = False) -> None:
        await self.link.signal(signum, alone=alone)


@dataclass
class Supervised:
    """An engine with kernels in pods, and the notices that it has for their notebooks."""

    engine: KubernetesEngine
    kernels: dict[str, FakeKernel]
    notices: dict[str, list[str]]

    async def until(self, cell: asyncio.Future[str], busy: frozenset[str]) -> str:
        """Look at the readings again and again, as the runtime does, while a cell runs."""
        while not cell.done():
            for name, usage in (await self.engine.usage(busy)).items():
                if usage.notice:
                    self.notices[name].append(usage.notice)
            await asyncio.sleep(0.1)
        return await cell


@pytest.fixture
async def two(pod_of: Callable[..., Pod]) -> Supervised:
    """Two kernels on one simulated GPU, each with a share of 20 GiB."""
    pods = {"greedy": pod_of(), "modest": pod_of()}
    kernels = {}
    for name, pod in pods.items():
        pod.boot(before=FAST)
        env = share_of_simulated(pods["greedy"].folder)
        link = pod.link()
        await link.start("r1", ARGV, env, None)
        kernels[name] = FakeKernel(pod, link)
    engine = KubernetesEngine()
    engine._kernels.update(kernels)  # type: ignore[arg-type]
    return Supervised(engine, kernels, {name: [] for name in kernels})


TAKE = "import time\nfrom gpu_share_kernel import simulated\nm = simulated.allocate({!r}{})\n"
BEYOND = ", beyond_share=True"


async def test_a_cell_above_the_share_is_stopped_and_no_neighbour(two: Supervised) -> None:
    greedy, modest = [await two.kernels[name].pod.ready() for name in ("greedy", "modest")]
    await run(greedy, "x = 41")
    calm = "open('calm', 'w').close()\nwhile not os.path.exists('go on'): time.sleep(0.01)"
    neighbour = asyncio.ensure_future(
        run(modest, TAKE.format("19GiB", "") + f"import os\n{calm}\nprint('undisturbed')")
    )
    cell = asyncio.ensure_future(run(greedy, TAKE.format("30GiB", BEYOND) + "time.sleep(600)"))
    both = frozenset(two.kernels)
    # Readings come here ten times as often as in a server: on a busy machine the second stop may
    # meet the first one's traceback, which IPython then leaves out.
    told = (await two.until(cell, both)).split()
    assert {word.strip(":") for word in told} == {"KeyboardInterrupt"}
    stopped = [notice for notice in two.notices["greedy"] if "The cell was stopped" in notice]
    # A reading before the cell has ended may tell it once more.
    assert stopped
    assert "(30 GiB of 20 GiB)" in stopped[0]
    # Its variables are there, and it may free what it holds.
    assert await run(greedy, "m.free(); print(x + 1)") == "42"
    (two.kernels["modest"].pod.folder / "go on").touch()
    assert await two.until(neighbour, both) == "undisturbed"
    assert all("nearly full: 19 GiB of 20 GiB" in notice for notice in two.notices["modest"])
    assert len(two.notices["modest"]) == 1


async def test_nothing_is_stopped_within_the_share_and_nothing_while_no_cell_runs(
    two: Supervised,
) -> None:
    greedy = await two.kernels["greedy"].pod.ready()
    cell = asyncio.ensure_future(run(greedy, TAKE.format("20GiB", "") + "time.sleep(2); print(1)"))
    assert await two.until(cell, frozenset(["greedy"])) == "1"
    await run(greedy, TAKE.format("1GiB", BEYOND).replace("m =", "n ="))
    watched = asyncio.ensure_future(asyncio.sleep(2, "watched"))
    assert await two.until(watched, frozenset()) == "watched"
    full, above = two.notices["greedy"]
    assert "nearly full: 20 GiB of 20 GiB" in full
    assert "The next cell will be stopped unless memory is freed." in above
    assert await run(greedy, "print(simulated.memory()[0] // 2**30)") == "21"
