"""The broker is killed again and again while ten users launch fifty kernels.

The users' servers are the engines that real servers have, ten of them in the process of the test:
two cores hold no ten servers. Hub, tokens, broker, pods, agents and kernels are real.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from uuid import uuid4

import pytest
from cluster.fixtures import CLUSTER_MARKS
from cluster_hub_cells import printed
from hub_of_cluster import ACCESS, HubOfCluster
from rounds import ROUNDS, SEED
from waiting import PATIENCE, eventually

from jupyter_gpu_share.broker.http_client import HttpBroker
from jupyter_gpu_share.engines.base import KernelRequest, Starting
from jupyter_gpu_share.engines.kubernetes import BrokeredEngine
from jupyter_gpu_share.errors import GpuShareError
from jupyter_gpu_share.size import Size

pytestmark = [*CLUSTER_MARKS, pytest.mark.fault]

USERS, EACH, KILLS = 10, 5, 6
#: Seconds in which two that were let at once have their shares, in whichever order the scheduler
#: took them, and though the broker was killed in between.
TOGETHER = 60.0
#: Seconds within which all is over.
LONGEST = 400.0


@dataclass
class User:
    """What one user's server does; ``granted`` has the numbers of launches in their order, and when
    each had its share."""

    name: str
    engine: BrokeredEngine
    asked: dict[str, int] = field(default_factory=dict)
    granted: list[tuple[int, float]] = field(default_factory=list)
    ready: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, str, object]]:
        """What the broker has told last of each kernel."""
        followed = self.engine._followed
        rows = [] if followed is None else followed._rows.values()
        return [(self.name, row.state, row) for row in rows]

    async def launch(self, number: int) -> None:
        kernel_id = str(uuid4())
        self.asked[kernel_id] = number
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        env = {"JPY_SESSION_NAME": f"{number}.ipynb"}
        key = uuid4().hex.encode()
        request = KernelRequest(kernel_id, "python3", Size.parse("1/2"), argv, env, key)
        granted = False

        def report(news: object) -> None:
            nonlocal granted
            if isinstance(news, Starting) and not granted:
                granted = True
                self.granted.append((number, time.monotonic()))

        try:
            running = await self.engine.start(request, report)
            assert await printed(running, "print(6 * 7)") == "42"
            self.ready.append(kernel_id)
        except GpuShareError as error:
            self.lines.append(str(error))
        finally:
            await self.engine.stop(kernel_id)


@asynccontextmanager
async def users(hub: HubOfCluster) -> AsyncIterator[list[User]]:
    found = []
    for number in range(USERS):
        name = f"user-{number}"
        scopes = (ACCESS, f"access:servers!server={name}/", f"read:users!user={name}")
        token = await asyncio.to_thread(hub.token, name, *scopes)
        engine = BrokeredEngine()
        engine._http = HttpBroker(hub.broker, token, engine.instance)
        found.append(User(name, engine))
    try:
        yield found
    finally:
        await asyncio.gather(*(user.engine.close() for user in found))


def in_the_cluster(hub: HubOfCluster) -> set[str]:
    """Ids of the kernels that have a pod."""
    pods = hub.kernel_pods()
    return {pod["metadata"]["annotations"]["gpu-share.jupyter.org/kernel-id"] for pod in pods}


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
async def test_each_launch_ends_in_a_kernel_or_in_one_line(hub: HubOfCluster, seed: int) -> None:
    """Those of one user in the order in which they were asked for. Nothing is left of any."""
    chance = random.Random(seed)
    began = time.monotonic()
    seen: set[str] = set()

    async def asked(user: User) -> None:
        """One after the other, as far as that is known: each once the one before has a pod."""
        launches = []
        for number in range(EACH):
            launches.append(asyncio.create_task(user.launch(number)))
            await eventually(
                lambda: launches[-1].done() or set(user.asked) <= seen, "it is asked for", LONGEST
            )
        await asyncio.gather(*launches)

    async def looks() -> None:
        while True:
            seen.update(await asyncio.to_thread(in_the_cluster, hub))
            await asyncio.sleep(0.2)

    async with users(hub) as everybody:
        looking = asyncio.create_task(looks())
        work = asyncio.gather(*(asked(user) for user in everybody))
        kills = 0
        try:
            while not work.done() and kills < KILLS:
                await asyncio.wait({work}, timeout=chance.uniform(0.1, 8.0))
                await asyncio.to_thread(hub.kill_broker)
                kills += 1
                await asyncio.to_thread(hub.start_broker)
            await asyncio.wait({work}, timeout=LONGEST)
            assert work.done(), [row for user in everybody for row in user.rows()]
            work.result()
        finally:
            looking.cancel()
            work.cancel()
            await asyncio.gather(looking, work, return_exceptions=True)
        assert time.monotonic() - began < LONGEST
        for user in everybody:
            assert len(user.ready) + len(user.lines) == EACH
            assert all("\n" not in line and line.endswith(".") for line in user.lines), user.lines
        # Nobody waits behind a later one of their own. Two for which there is room at once are let
        # at once, and may change places.
        grants = [user.granted for user in everybody]
        passed = [
            (a, b)
            for each in grants
            for (a, when), (b, later) in combinations(each, 2)
            if a > b and later - when > TOGETHER
        ]
        assert not passed, grants
        assert sum(a > b for each in grants for (a, _), (b, _) in pairwise(each)) <= KILLS, grants
        ready = sum(len(user.ready) for user in everybody)
        lines = [line for user in everybody for line in user.lines]
        assert ready >= USERS * EACH - kills, lines
        until = f"nothing is left: {hub.left()}"
        await eventually(lambda: not hub.left(), until, 2 * PATIENCE)
