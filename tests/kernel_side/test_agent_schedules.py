"""Whatever happens in whatever order: one kernel at most, and what is told is so."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import suppress

import pytest
from agents import ARGV, EXECUTED, Pod, run
from processes import alive
from waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

STEPS = 80
KERNELS: list[tuple[list[str], dict[str, str]]] = [
    (ARGV, {}),
    (ARGV, EXECUTED),
    (["sleep", "600"], {}),
    (["true"], {}),
    (["no-such-program"], {}),
]


class Schedule:
    """Does things to a pod at random, from a seed."""

    def __init__(self, pod: Pod, seed: int) -> None:
        self.pod = pod
        self.random = random.Random(seed)
        self.owner = pod.peer()
        self.stranger = pod.peer(key=b"wrong")
        self.runs = 0
        self.done: list[str] = []
        self.too_many: list[set[int]] = []

    async def step(self) -> None:
        """One thing, and perhaps a moment for it to take effect."""
        names = [name for name in dir(self) if name.startswith("do_")]
        name = self.random.choice([*names, "do_start", "do_start"])
        self.done.append(name)
        await getattr(self, name)()
        await asyncio.sleep(self.random.choice([0, 0, 0.01, 0.05, 0.3]))

    async def do_start(self) -> None:
        self.runs += 1
        argv, env = self.random.choice(KERNELS)
        await self.owner.say("start", run=f"r{self.runs}", argv=argv, env=env, cwd=None)

    async def do_end(self) -> None:
        await self.owner.say("end")

    async def do_repeat(self) -> None:
        await self.owner.say("start", run=f"r{self.runs}", argv=ARGV, env={}, cwd=None)

    async def do_signal(self) -> None:
        await self.owner.say("signal", signum=self.random.choice([2, 2, 10, 15, 9]))

    async def do_quit_without_the_key(self) -> None:
        await self.stranger.say("quit")

    async def do_quit_of_another(self) -> None:
        await self.owner.say("quit", instance="b")

    async def do_kill_a_kernel(self) -> None:
        for pid in self.pod.kernels():
            with suppress(ProcessLookupError):
                os.kill(pid, self.random.choice([signal.SIGKILL, signal.SIGSEGV]))

    async def do_lose_the_importing_process(self) -> None:
        if self.random.random() < 0.3:
            with suppress(ProcessLookupError, IndexError):
                os.kill(self.pod.zygote(), signal.SIGKILL)

    async def watch(self) -> None:
        """Take note of kernels that run side by side."""
        while True:
            if len(found := self.pod.kernels()) > 1:
                # Those that are alive after the last of them was seen were so together.
                found = {pid for pid in found if alive(pid)}
                if len(found) > 1:
                    self.too_many.append(found)
            await asyncio.sleep(0.005)


async def last_word(pod: Pod) -> dict[str, object]:
    """How things stand now."""
    peer = pod.peer()
    await peer.say("renew")
    return await peer.heard()


@pytest.mark.parametrize("seed", range(4))
async def test_at_most_one_kernel_whatever_happens(seed: int, pod: Pod) -> None:
    pod.boot()
    agent = pod.pid()
    schedule = Schedule(pod, seed)
    await last_word(pod)  # from here on the pod has an owner
    watch = asyncio.ensure_future(schedule.watch())
    try:
        for _ in range(STEPS):
            await schedule.step()
            assert alive(agent), (schedule.done, pod.said)
        link = pod.link()
        # Whatever is on its way ends with what was asked for last.
        state = await link.start("final", ARGV, {}, None)
        await eventually(lambda: pod.kernels() == {state.pid}, "one kernel is left")
        assert await run(await pod.ready(), "import os; print(os.getpid())") == str(state.pid)
        told = await last_word(pod)
        assert (told["run"], told["pid"], told["exit"]) == ("final", state.pid, None)
        await link.end(PATIENCE)
        told = await last_word(pod)
        assert (told["pid"], told["exit"]) == (None, {"code": -signal.SIGKILL, "why": ""})
        assert not pod.kernels()
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
    assert not schedule.too_many, schedule.done
    await link.quit()
    assert await pod.gone() == 0
    await eventually(lambda: not pod.left(), "nothing is left")
