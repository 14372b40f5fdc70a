"""A kernel between its agent and its objects: the end of the one is told to the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import Device, Isolation, Share
from jupyter_gpu_share.engines.base import (
    Connection,
    Exit,
    KernelRequest,
    Report,
    Running,
    Starting,
)
from jupyter_gpu_share.engines.kubernetes._kernel import Inside, PodKernel
from jupyter_gpu_share.engines.kubernetes._link import AgentState
from jupyter_gpu_share.engines.kubernetes._pod_engine import PodEngine
from jupyter_gpu_share.errors import EngineError, KernelStartError
from jupyter_gpu_share.size import Size

pytestmark = pytest.mark.timeout(PATIENCE)

GIB = 2**30
SHARE = Share((Device("GPU-1", "A100", "gpu-1"),), 20 * GIB, Fraction(1, 4), Isolation.FRAMEWORK)
CONNECTION = Connection("tcp", "10.0.0.1", {}, b"k")


class FakeObjects:
    """FAKE objects of a kernel, wherever they may be: what was asked of them, and what they say."""

    def __init__(self) -> None:
        self.on_leave: Callable[[], None] = lambda: None
        self.name, self.share, self.note = "pod", None, ""
        self.detachable, self.lent, self.there = True, False, True
        self.lost, self.made, self.unanswered = False, True, False
        self.removal = None
        self.asked: list[str] = []
        self.end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.granted = asyncio.Event()

    async def start(self, report: Report) -> Connection:
        self.share = SHARE
        report(Starting(SHARE))
        return CONNECTION

    async def take_back(self, report: Report) -> Share:
        self.asked.append("take back")
        try:
            await self.granted.wait()
        except BaseException:
            self.asked.append("withdrawn by itself")
            raise
        self.lent = False
        return SHARE

    async def withdraw(self) -> None:
        self.asked.append("withdraw")
        self.lent = True

    async def give_back(self) -> None:
        self.asked.append("give back")

    async def planned(self, size: Size) -> tuple[Share, bool] | None:
        return SHARE, False

    async def change(self, size: Size) -> Share:
        raise EngineError("No room.")

    def leaving(self, grace: float) -> None:
        self.asked.append(f"leaving {grace}")

    async def ended(self) -> Exit:
        return await asyncio.shield(self.end)

    async def delete(self) -> None:
        self.asked.append("delete")
        self.made = False


class FakeLink:
    """A FAKE of the talk with an agent."""

    def __init__(self, said: list[str], ended: Callable[[], bool] = lambda: False) -> None:
        self.said = said
        self.state: AgentState | None = None
        self._ended = ended

    async def start(self, *words: Any) -> None:
        self.said.append("start")

    async def quit(self) -> None:
        self.said.append("quit after its end" if self._ended() else "quit")

    async def leave(self) -> None:
        self.said.append("leave")

    async def close(self) -> None:
        self.said.append("close")


def kernel_of(language: str = "python") -> tuple[PodKernel, Any, list[str]]:
    objects: Any = FakeObjects()
    size = Size.parse("1/4")
    request = KernelRequest("k", "python3", size, ["python3"], {}, b"k", language=language)
    context: Any = None
    inside = Inside("mine", "python3", 1.0, (), context, lambda request: "image")
    one = PodKernel(objects, request, inside)
    said: list[str] = []
    link: Any = FakeLink(said, lambda: one._ended.done())
    one._linked = lambda *words: _link(one, link)  # type: ignore[method-assign]
    return one, objects, said


def _link(one: PodKernel, link: Any) -> Any:
    one.link = link
    return link


async def started(language: str = "python") -> tuple[PodKernel, Any, list[str]]:
    one, objects, said = kernel_of(language)
    await one.start(lambda news: None)
    return one, objects, said


@pytest.mark.parametrize("lost", [False, True])
async def test_the_agent_is_told_to_quit_before_the_end_is_known(lost: bool) -> None:
    """What it has on its GPU may be somebody else's; but not if another process has it."""
    one, objects, said = await started()
    objects.lost = lost
    objects.end.set_result(Exit(1, "The share was taken away."))
    assert (await one.ended()).reason == "The share was taken away."
    assert said == (["start"] if lost else ["start", "quit"])
    await one.unlink()
    assert said[-1] == "close"
    assert ("quit" in said) is not lost


async def test_an_agent_that_leaves_tells_the_objects_and_they_tell_it() -> None:
    one, objects, said = await started()
    one._state_changed(AgentState(None, 1, None, "", None, None, None, leaving=True))
    assert objects.asked == ["leaving 30.0"]
    objects.on_leave()
    await eventually(lambda: "leave" in said, "the agent hears of it")
    await one.unlink()


async def test_the_process_ends_and_the_pod_goes_on() -> None:
    one, objects, _ = await started()
    one._state_changed(AgentState(one._run, None, 9, "", None, None, None))
    assert (await one.ended()).code == 9
    assert one.alive
    objects.there = False
    assert not one.alive
    await one.unlink()


async def test_a_share_is_not_waited_for_when_the_process_ends() -> None:
    one, objects, _ = await started()
    objects.lent = True
    taking = asyncio.ensure_future(one.take_back(lambda news: None))
    await eventually(lambda: objects.asked, "it waits")
    one._state_changed(AgentState(one._run, None, 9, "", None, None, None))
    with pytest.raises(KernelStartError):
        await taking
    assert objects.asked == ["take back", "withdrawn by itself"]
    await one.unlink()


async def test_a_share_that_is_taken_as_the_caller_leaves_is_given_back() -> None:
    one, objects, _ = await started()
    objects.lent = True
    taking = asyncio.ensure_future(one.take_back(lambda news: None))
    await eventually(lambda: objects.asked, "it waits")
    objects.granted.set()
    while objects.lent:
        await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert objects.asked[-1] == "withdraw"
    assert objects.lent
    await one.unlink()


async def test_of_a_share_that_nothing_caps_nothing_else_is_said() -> None:
    """The objects do not know what caps exist for a language."""
    one, _, _ = kernel_of("R")
    told: list[Any] = []
    running = await one.start(told.append)
    assert {each.share.isolation for each in told} == {Isolation.NONE}
    change = await one.planned(Size.parse("1/2"))
    assert change is not None
    assert (change.share.isolation, change.beside) == (Isolation.NONE, False)
    assert running.share.isolation is Isolation.NONE
    await one.unlink()


async def test_a_change_that_fails_changes_nothing() -> None:
    one, _, _ = await started()
    with pytest.raises(EngineError, match="No room"):
        await one.change(Size.parse("1/2"))
    assert str(one.request.size) == "1/4"
    await one.unlink()


# -- the engine ------------------------------------------------------------------------------


class Engine(PodEngine):
    """With kernels whose objects are fakes."""

    def __init__(self, *kernels: PodKernel) -> None:
        super().__init__()
        self.left = list(kernels)

    async def _new_kernel(self, request: KernelRequest) -> PodKernel:
        return self.left.pop(0)

    async def _begin(self, kernel: PodKernel, report: Report) -> Running:
        return await kernel.start(report)

    async def capacity(self) -> Any:
        return []

    async def allocations(self) -> Any:
        return []

    async def fits(self, kernel_id: str | None, size: Size) -> str | None:
        return None

    async def diagnose(self) -> Any:
        return []

    async def close(self) -> None:
        await self._stop_all()


async def test_a_start_that_fails_leaves_nothing() -> None:
    one, objects, _ = kernel_of()

    async def refused(report: Report) -> Connection:
        raise EngineError("No.")

    objects.start = refused
    engine = Engine(one)
    with pytest.raises(EngineError):
        await engine.start(one.request, lambda news: None)
    assert objects.asked == ["delete"]
    assert not engine._kernels
    assert not engine._leaving
    assert not engine._waiting


async def test_a_kernel_that_is_there_is_started_again_in_its_pod() -> None:
    one, objects, said = kernel_of()
    engine = Engine(one)
    await engine.start(one.request, lambda news: None)
    await engine.start(one.request, lambda news: None)
    assert said == ["start", "start"]
    await engine.give_back("k")
    assert objects.asked == ["give back"]
    with pytest.raises(EngineError, match="part of its pod"):
        await engine.give_back("another")
    await engine.close()
    assert objects.asked == ["give back", "delete"]
