"""One kernel in a pod, as the process of its user's server has it: what is said to its agent."""

from __future__ import annotations

import asyncio
import signal as signals
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import uuid4

import zmq
import zmq.asyncio

from ..._threads import stopped, to_the_end
from ...allocations import Isolation, Share
from ...errors import CommandNotFoundError, KernelStartError
from ...sentences import say
from ...size import Size
from .._caps import limits_of
from .._supervisor import Supervisor
from ..base import Change, Connection, Exit, KernelRequest, Report, Running, Starting, Waiting
from . import _failures as failures
from ._command import command_of
from ._environment import kernel_environment, share_environment
from ._link import AgentLink, AgentState
from ._objects import Objects
from ._pods import AGENT_PORT

__all__ = ["Inside", "PodKernel"]

T = TypeVar("T")

_END_PATIENCE = 5.0
#: Seconds that the cluster has to tell why a pod was ended.
_CAUSE_PATIENCE = 30.0
#: Seconds that a node may give which ends pods without a word in the cluster, as it shuts down.
_UNTOLD_GRACE = 30.0
#: By the agent's word, the image has not the kernel's command; the code that shells give.
_NO_COMMAND = 127


@dataclass(frozen=True)
class Inside:
    """How kernels run within the pods of one server.

    Attributes
    ----------
    instance: the process of the server, as the agents know it.
    python: the interpreter in the image.
    renewal: seconds between two signs of life to an agent.
    allowed_environment: names, or patterns with ``*``, of what kernels get from the server.
    zmq: what the links' sockets belong to; the caller ends it.
    image_of: the image of a kernel's pod, for the words about it.
    """

    instance: str
    python: str
    renewal: float
    allowed_environment: Sequence[str]
    zmq: zmq.asyncio.Context
    image_of: Callable[[KernelRequest], str]


class PodKernel:
    """A kernel that this process runs in a pod.

    Parameters
    ----------
    objects: what it has in the cluster.
    request: the last one; a restart brings another.
    """

    def __init__(self, objects: Objects, request: KernelRequest, inside: Inside) -> None:
        self.objects = objects
        self.request = request
        self.inside = inside
        self.connection: Connection | None = None
        self.link: AgentLink | None = None
        self.supervisor: Supervisor | None = None
        self._run = ""
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._following: asyncio.Task[None] | None = None
        self._leaving: asyncio.Future[None] | None = None
        objects.on_leave = self._leave

    # -- what is told ------------------------------------------------------------------------

    def _leave(self) -> None:
        if self.link is not None:
            self._leaving = asyncio.ensure_future(self.link.leave())

    def _state_changed(self, state: AgentState) -> None:
        if state.leaving:
            self.objects.leaving(_UNTOLD_GRACE)
        if state.exit_code is not None and state.run == self._run:
            words = failures.end_of_process(state.exit_code, state.exit_why)
            ended = Exit(state.exit_code, words)
            if state.exit_why == "terminated":
                # The pod was told to end. The watch brings the reason, if it is not away.
                asyncio.get_running_loop().call_later(_CAUSE_PATIENCE, self._end, ended)
            else:
                self._end(ended)

    def _end(self, ended: Exit) -> None:
        if not self._ended.done():
            self._ended.set_result(ended)

    def _follow(self) -> None:
        """Have the kernel end when what it has in the cluster does."""

        async def follow() -> None:
            ended = await self.objects.ended()
            # It may run still, and what it has on its GPU may be somebody else's already.
            await self._quit()
            self._end(ended)

        if self._following is None:
            self._following = asyncio.create_task(follow(), name="end of a kernel's pod")

    async def _quit(self) -> None:
        """Tell the agent to end the kernel and its pod, unless another process has it by now."""
        if self.link is not None and not self.objects.lost:
            with suppress(zmq.ZMQError):
                await self.link.quit()

    async def ended(self) -> Exit:
        """Wait until the kernel's process, or the pod around it, has ended."""
        return await asyncio.shield(self._ended)

    @property
    def alive(self) -> bool:
        """True while the pod is there with an agent to talk to."""
        return self.link is not None and self.objects.there

    @property
    def share(self) -> Share | None:
        """What the kernel holds; None while that is not known."""
        share = self.objects.share
        return None if share is None else _for_language(share, self.request.language)

    # -- start -------------------------------------------------------------------------------

    async def start(self, report: Report) -> Running:
        """Make the pod, wait for its place, and start the kernel in it.

        Raises
        ------
        KernelStartError, NoGpuError, EngineError: it cannot start. What was made is still there.
        """
        self._follow()
        self.connection = await self.objects.start(self._told(report))
        self._supervise()
        return await self._run_kernel()

    async def restart(self, request: KernelRequest, report: Report) -> Running:
        """Start a kernel again in the pod that is there, with the share that it has there.

        A share that was given back is taken again first, waiting as long as it takes.
        """
        self.request = request
        if self._ended.done():  # the process; the pod is there
            self._ended = asyncio.get_running_loop().create_future()
        if self.objects.lent:
            await self._unless_it_ends(self.objects.take_back(self._told(report)))
        assert self.share is not None
        report(Starting(self.share))
        return await self._run_kernel()

    async def adopt(self, before: str, report: Report) -> Running:
        """Take over a pod of an earlier process of this server, and the kernel that runs in it.

        Parameters
        ----------
        before: the process whose it was, which has ended.

        Raises
        ------
        EngineError: it is held by a process that is alive, is about to end, or is no kernel's pod.
        """
        self._follow()
        told = self._told(report)
        self.connection = await self.objects.adopt(before, told)
        # Before anything that may take long: the pod ends if it hears of no server.
        state = await self._unless_it_ends(self._linked(self.connection, before).greet())
        await self._unless_it_ends(self.objects.settle(told))
        self._supervise()
        assert self.share is not None
        report(Starting(self.share))
        if state.run is None or state.pid is None:
            return await self._run_kernel()
        self._run = state.run
        # Its server may have ended after it moved the kernel off the GPU, or back onto it.
        return replace(self._running(), away=self.objects.detachable)

    def _told(self, report: Report) -> Report:
        def told(news: Waiting | Starting) -> None:
            if isinstance(news, Starting):
                news = replace(news, share=_for_language(news.share, self.request.language))
            report(news)

        return told

    def _supervise(self) -> None:
        share = self.objects.share
        assert share is not None
        self.supervisor = Supervisor(share.memory_bytes * len(share.devices))

    # -- the kernel in the pod ---------------------------------------------------------------

    async def _run_kernel(self) -> Running:
        assert self.connection is not None
        if self._ended.done():
            self._ended = asyncio.get_running_loop().create_future()
        self._run = uuid4().hex
        link = self.link or self._linked(self.connection)
        argv = command_of(self.request.argv, self.inside.python)
        env = self._environment()
        try:
            await self._unless_it_ends(link.start(self._run, argv, env, None))
        except KernelStartError:
            self._check_command(argv)
            raise
        self._check_command(argv)
        return self._running()

    async def _unless_it_ends(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what is of no use any more when the kernel ends.

        Raises
        ------
        KernelStartError: the kernel, or its pod, has ended before that.
        """
        doing, ended = asyncio.ensure_future(work), asyncio.ensure_future(self.ended())
        try:
            await asyncio.wait({doing, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise KernelStartError(f"The kernel could not start. {ended.result().reason}")
            return await doing
        finally:
            for task in (doing, ended):
                task.cancel()
            await asyncio.gather(doing, ended, return_exceptions=True)

    def _check_command(self, argv: list[str]) -> None:
        state = self.link.state if self.link is not None else None
        if state is None or state.run != self._run or not state.exit_why:
            return
        if state.exit_code == _NO_COMMAND:
            image = self.inside.image_of(self.request)
            raise CommandNotFoundError(
                f"The kernel's command {argv[0]!r} is not in the image {image}. The administrator "
                "names one that has it in c.KubernetesEngine.images."
            )

    def _running(self) -> Running:
        assert self.share is not None
        assert self.connection is not None
        return Running(self.share, self.connection)

    def _linked(self, connection: Connection, replaces: str = "") -> AgentLink:
        link = self.link = AgentLink(
            connection,
            AGENT_PORT,
            instance=self.inside.instance,
            renewal=self.inside.renewal,
            changed=self._state_changed,
        )
        link.open(self.inside.zmq, replaces)
        return link

    def _environment(self, share: Share | None = None) -> dict[str, str]:
        share = share or self.share
        assert share is not None
        allowed = self.inside.allowed_environment
        env = kernel_environment(self.request.env, self.request.declared, allowed)
        return env | share_environment(share, env)

    async def signal(self, signum: int, *, alone: bool = False) -> None:
        """Send a signal to the kernel's session, or ``alone`` to its first process."""
        if self.link is not None:
            await self.link.signal(signum, alone=alone)

    # -- its share ---------------------------------------------------------------------------

    async def take_back(self, report: Report) -> Share:
        """Hold the share again that was given back, waiting as long as it takes.

        Raises
        ------
        EngineError: the kernel has ended. No share is held.
        """
        try:
            share = await self._unless_it_ends(self.objects.take_back(self._told(report)))
        except BaseException:
            if not self.objects.lent:  # whoever waited left at the moment when it was taken
                await to_the_end(self.objects.withdraw())
            raise
        return _for_language(share, self.request.language)

    async def planned(self, size: Size) -> Change | None:
        """How the kernel could hold another size on its GPU; None: it cannot, or not now."""
        if self.share is None or not self.alive:
            return None
        planned = await self.objects.planned(size)
        if planned is None:
            return None
        share = _for_language(planned[0], self.request.language)
        return Change(share, self.limits(share), planned[1])

    async def change(self, size: Size) -> Share:
        """Hold another size.

        Raises
        ------
        EngineError: it holds what it held.
        """
        share = await self.objects.change(size)
        self.request = replace(self.request, size=size)
        self._supervise()
        return _for_language(share, self.request.language)

    async def note_path(self, path: str | None) -> None:
        """Have whoever takes the kernel over know where its notebook is now."""
        self.request = replace(self.request, path=path)
        await self.objects.note_path(path)

    def limits(self, share: Share | None = None) -> Mapping[str, str | None]:
        """Of the kernel's environment what follows from its share, or another one."""
        return limits_of(self._environment(share))

    # -- the end -----------------------------------------------------------------------------

    async def end_process(self) -> None:
        """End the kernel, keep the pod."""
        if self.link is not None and self.alive:
            await self.link.end(_END_PATIENCE)

    async def unlink(self) -> None:
        """Have the pod end by itself, and stop talking to it."""
        await stopped(self._following)
        await self._quit()
        await self._hang_up()

    async def let_be(self) -> None:
        """Stop talking to the pod, and leave it as it is."""
        await stopped(self._following)
        await self._hang_up()
        await self.objects.close()

    async def _hang_up(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            await link.close()
        self._end(Exit(-signals.SIGKILL, say("was-shut-down")))

    async def delete(self) -> None:
        """Delete the pod, however long that takes; what belongs to it goes with it."""
        await self.objects.delete()


def _for_language(share: Share, language: str) -> Share:
    """Soft caps exist for Python only; of other kernels' shares it is said that nothing caps."""
    if share.isolation is Isolation.FRAMEWORK and not language.lower().startswith("python"):
        return replace(share, isolation=Isolation.NONE)
    return share
