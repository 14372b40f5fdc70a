"""One kernel's pod: made, placed, started, watched, ended."""

from __future__ import annotations

import asyncio
import logging
import signal as signals
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import zmq

from ...allocations import Isolation, Share
from ...errors import CommandNotFoundError, EngineError, KernelStartError
from ...sentences import paragraph, say
from ...size import Size
from .._caps import limits_of
from .._supervisor import Supervisor
from ..base import Change, Connection, Exit, KernelRequest, Report, Running, Starting
from . import _failures as failures
from ._annotation import Annotation
from ._attention import Attention
from ._cluster import Cluster, Object
from ._command import command_of
from ._drained import Unleased
from ._environment import kernel_environment, share_environment
from ._kueue import gated
from ._lease import Lease
from ._link import AgentLink, AgentState
from ._making import image_of, make
from ._names import PART, PREFIX, annotation, label, object_name
from ._overlooked import ask_again
from ._ownership import TAKEN_OVER, claim_pod, delete_own, taken_over
from ._parting import Parting
from ._pods import AGENT_PORT, Labels, address_of, connection_of, owner
from ._waits import PATIENCE, Told, Wait
from ._writes import PATIENCE as WRITE_PATIENCE
from ._writes import Writes
from .api import PODS, SECRETS, KubernetesError
from .backends import Rendered, dig, named

__all__ = ["PodKernel"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

_END_PATIENCE = 5.0
#: Seconds that the cluster has to tell why a pod was ended.
_CAUSE_PATIENCE = 30.0
#: Seconds that a node may give which ends pods without a word in the cluster, as it shuts down.
_UNTOLD_GRACE = 30.0
#: By the agent's word, the image has not the kernel's command; the code that shells give.
_NO_COMMAND = 127


class PodKernel:
    """A kernel that this process runs in a pod.

    Parameters
    ----------
    request: the last one; a restart brings another.
    """

    def __init__(self, cluster: Cluster, request: KernelRequest) -> None:
        self.cluster = cluster
        self.request = request
        self.name = object_name(cluster.server, request.kernel_id, generation=uuid4().hex)
        self.share: Share | None = None
        self.connection: Connection | None = None
        self.link: AgentLink | None = None
        self.lease: Lease | None = None
        self.annotation: Annotation | None = None
        self.supervisor: Supervisor | None = None
        self.rendered = Rendered()
        #: True from the first attempt to create anything until all of it was deleted.
        self.made = False
        self._attention = Attention(
            pod=lambda: cluster.pod(self.name),
            ended=lambda: self._ended.result() if self._ended.done() else None,
            tell=self._hindered,
            ask_again=self._ask_again,
            patience=lambda: cluster.settings.image_patience,
        )
        #: Those to the objects of the kernel.
        self.writes = Writes(self._attention.rouse)
        self._claims: dict[str, str] = {}
        self._uid = self._version = ""  # of the pod, and when it came to be this process's
        #: The pod's end by others.
        self.parting = Parting(
            grace=lambda: cluster.settings.eviction_grace,
            reclaimed=lambda pod: cluster.backend.reclaimed(pod),
            leave=self._leave,
        )
        self._lost = False  # to another process of this server
        self._run = ""
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._unleased: Unleased | None = None
        self._leaving: asyncio.Future[None] | None = None
        self._report: Report | None = None  # of the start that is under way

    # -- what is told ------------------------------------------------------------------------

    def note(self, gone: Object | None = None) -> None:
        """The pod, one of its claims, or the queue may have changed.

        ``gone`` is an object that was deleted. That the pod is merely not there yet means nothing:
        the watch may be behind our own writing.
        """
        pod = self.cluster.pod(self.name)
        cause = None
        if pod is not None:
            self._lost |= bool(self._version) and taken_over(
                pod, self.cluster.instance, self._version
            )
            cause = failures.end_of(pod, None)
            if cause is None:
                self.parting.note(pod)
        elif gone is not None and self._is_own(gone):
            cause = failures.end_of(None, gone)
        if cause is None and self.lease is not None:
            cause = self.lease.taken_away(gone)
            if cause is not None and self.link is not None:
                if self._unleased is None:
                    node = dig(pod, "spec", "nodeName", default="")
                    self._unleased = Unleased(
                        self.cluster, self.link, self.parting, self.request.kernel_id, node, gone
                    )
                    ended = Exit(cause.code, cause.text)
                    self._unleased.begin(lambda: self._end(ended))
                cause = None if self._unleased.spared else cause
        if cause is not None:
            # A pod that is deleted ends first, and is gone only then.
            last = pod or gone
            words = self.cluster.backend.reclaimed(last) if last and cause.kind == "deleted" else ""
            self._end(Exit(cause.code, words or cause.text))
        if self._lost:
            self._end(Exit(-signals.SIGKILL, TAKEN_OVER))
        self._attention.rouse()

    def _leave(self) -> None:
        if self.link is not None:
            self._leaving = asyncio.ensure_future(self.link.leave())

    def appeared(self, name: str) -> None:
        """An object of the kernel's is new in the cluster."""
        if self.lease is not None and not self._lost:
            self.lease.appeared(name)

    def owns(self, pod: Object) -> bool:
        """Whether a pod with this kernel's id is one of its own, or of no earlier one."""
        return label(pod, PART) != "kernel" or pod["metadata"]["name"] == self.name

    def _is_own(self, gone: Object) -> bool:
        """Whether it is the pod. The watch may tell of its end before its creation is answered."""
        meta = gone["metadata"]
        return bool(meta["uid"] == self._uid if self._uid else meta["name"] == self.name)

    def _state_changed(self, state: AgentState) -> None:
        if state.leaving:
            grace = min(self.cluster.settings.eviction_grace, _UNTOLD_GRACE)
            self.parting.note(self.cluster.pod(self.name), told=grace)
        if state.exit_code is not None and state.run == self._run:
            words = failures.end_of_process(state.exit_code, state.exit_why)
            ended = Exit(state.exit_code, words)
            if state.exit_why == "terminated":
                # The pod was told to end. The watch brings the reason, if it is not away.
                asyncio.get_running_loop().call_later(_CAUSE_PATIENCE, self._end, ended)
            else:
                self._end(ended)
        self._attention.rouse()

    def _end(self, ended: Exit) -> None:
        if not self._ended.done():
            self._ended.set_result(ended)

    async def ended(self) -> Exit:
        """Wait until the kernel's process, or the pod around it, has ended."""
        return await asyncio.shield(self._ended)

    @property
    def holder(self) -> Lease | Annotation | None:
        """What can give the share back and take it again while the kernel lives, if anything."""
        return self.lease or self.annotation

    @property
    def claim_names(self) -> set[str]:
        """Names of the claims that hold the kernel's share, and go with it."""
        return self.lease.claim_names if self.lease is not None else self.own_claims

    @property
    def own_claims(self) -> set[str]:
        """Names of the claims that the kernel's pod has itself."""
        return set(self._claims.values())

    @property
    def alive(self) -> bool:
        """True while the pod is there with an agent to talk to."""
        pod = self.cluster.pod(self.name)
        return (
            self.link is not None
            and self._unleased is None
            and not self._lost
            and pod is not None
            and failures.end_of(pod, None) is None
            and not pod["metadata"].get("deletionTimestamp")
            and self.parting.removal is None
        )

    # -- start -------------------------------------------------------------------------------

    async def start(self, report: Report) -> Running:
        """Make the pod, wait for its place, and start the kernel in it.

        Raises
        ------
        KernelStartError, NoGpuError, EngineError: it cannot start. What was made is still there.
        """
        size = self.request.size
        self._report = report
        if not size.is_none:
            self.rendered = await self.cluster.render(size)
            self.cluster.refresh_soon()
        self.made = True
        names = [claim.name for claim in self.rendered.claims]
        self._claims = {name: f"{self.name}-{name}" for name in names}
        pod = await self._make()
        settings, waits = self.cluster.settings, Told(report)
        for_place = settings.longest_wait
        with self._attention.limit(for_place, partial(waits.too_long, "no-place-in-time")):
            if settings.style == "lease" and not size.is_none:
                await self._admitted(waits)
                self.lease = self._new_lease(pod)
                await self.lease.acquire(self.name, waits, self.until)
            await self._on_a_node(waits)
        with self._attention.limit(
            settings.node_patience, partial(waits.too_long, "node-too-slow")
        ):
            await self._placed(waits)
            if settings.style == "annotation" and not size.is_none:
                self.annotation = Annotation(self.cluster, self.name, self.writes)
            address = await self._up(waits)
        return await self._run_kernel(address)

    async def _make(self) -> Object:
        labels = self._labels()
        made = await self.writes.once(
            lambda: make(self.cluster, self.request, self.name, self.rendered, self._claims, labels)
        )
        self.connection = made.connection
        self._owns(made.pod)
        return made.pod

    def _owns(self, pod: Object) -> None:
        meta = pod["metadata"]
        self._uid, self._version = meta["uid"], meta["resourceVersion"]

    def _new_lease(self, pod: Object) -> Lease:
        return Lease(self.cluster, self.request, self.writes, self._labels(), owner(pod))

    async def restart(self, request: KernelRequest, report: Report) -> Running:
        """Start a kernel again in the pod that is there, with the share that it has there.

        A share that was given back is taken again first, waiting as long as it takes.
        """
        self.request = request
        if self.holder is not None and self.holder.lent:
            if self._ended.done():  # the process; the pod is there
                self._ended = asyncio.get_running_loop().create_future()
            await self.holder.retake(report, self.until)
        assert self.share is not None
        assert self.connection is not None
        report(Starting(self.share))
        return await self._run_kernel(self.connection.ip)

    async def adopt(self, name: str, before: str, report: Report) -> Running:
        """Take over a pod of an earlier process of this server, and the kernel that runs in it.

        Parameters
        ----------
        before: the process whose it was, which has ended.

        Raises
        ------
        EngineError: it is held by a process that is alive, is about to end, or is no kernel's pod.
        """
        self.name = name
        pod = await self.writes.once(lambda: claim_pod(self.cluster, name, before))
        self.made = True
        self._owns(pod)
        secret = await self.cluster.api.get(SECRETS, self.name, self.cluster.namespace)
        address = address_of(pod)
        try:
            self.connection = connection_of(secret, address)
        except ValueError as error:
            raise EngineError(f"The kernel cannot be taken over: {error}.") from error
        prefix = f"{self.name}-"
        self._claims = {name.removeprefix(prefix): name for name in self.cluster.own_claims(prefix)}
        lease = None
        if self.cluster.settings.style == "lease" and not self.request.size.is_none:
            lease = self._new_lease(pod)
        if self.cluster.settings.style == "annotation" and not self.request.size.is_none:
            self.annotation = Annotation(self.cluster, self.name, self.writes)
            await self.annotation.adopt()
        # Before anything that may take long: the pod ends if it hears of no server.
        state = await self._unless_it_ends(self._linked(self.connection).greet(before))
        if lease is not None:
            await lease.adopt(self.name)
            self.lease = lease  # it knows what is its own
        if self.holder is not None and self.holder.lent:
            await self.holder.retake(report, self.until)
        if not self._take_share():
            raise EngineError(failures.end_of_lease(None, None).text)
        assert self.share is not None
        report(Starting(self.share))
        if state.run is None or state.pid is None:
            return await self._run_kernel(address)
        self._run = state.run
        # Its server may have ended after it moved the kernel off the GPU, or back onto it.
        return replace(self._running(), away=self.holder is not None)

    def _labels(self) -> Labels:
        return Labels(self.cluster.server, self.request.kernel_id, uuid4().hex)

    # -- waiting for a place -----------------------------------------------------------------

    async def _admitted(self, report: Report) -> None:
        """Wait until Kueue lets the pod go: nothing is held beside a pod that may wait for long."""
        await self._until_pod(report, lambda pod: not gated(pod))

    async def _on_a_node(self, report: Report) -> None:
        """Wait until the pod has its place."""
        # With a lease what it waited for is there: that it is not placed soon has another reason.
        patient = self.lease is not None
        await self._until_pod(report, lambda pod: bool(pod["spec"].get("nodeName")), patient)

    async def _placed(self, report: Report) -> None:
        """Wait until the share of the pod, which has its place, is known."""
        if not self.request.size.is_none:
            pod = self.cluster.pod(self.name)
            await self.cluster.know_node(dig(pod, "spec", "nodeName", default=""))
        await self._until_pod(report, lambda pod: self._take_share())
        if self.cluster.backend.told_beside:
            with suppress(KubernetesError):  # then the GPU goes by the name that its pods have
                await self.cluster.refresh(0.0)
            self._take_share()
        assert self.share is not None
        report(Starting(self.share, self.rendered.note))

    async def _until_pod(
        self, report: Report, holds: Callable[[Object], bool], patient: bool = False
    ) -> None:
        """Wait until something holds of the pod, and tell of it; if ``patient``, only when late."""
        place, said = partial(self.cluster.place, self.name), self.cluster.events.words
        wait = Wait(self.cluster.backend, report, place, said, patient=patient)

        def look() -> bool | None:
            pod = self.cluster.pod(self.name)
            if pod is None:
                return None
            if holds(pod):
                return True
            wait.tell(pod)
            return None

        await self.until(look)

    def _take_share(self) -> bool:
        """Read from the claims what was granted. False while that is not known."""
        if self.request.size.is_none:
            self.share = Share((), 0, Fraction(0), Isolation.NONE)
            return True
        pod = self.cluster.pod(self.name)
        claims = (
            self.lease.share_claims
            if self.lease is not None
            else self.cluster.claims_of(self.claim_names)
        )
        share = self.cluster.backend.granted(pod or {}, claims, self.cluster.facts)
        if share is None:
            return False
        self.share = _for_language(share, self.request.language)
        self.supervisor = Supervisor(share.memory_bytes * len(share.devices))
        return True

    async def _up(self, report: Report) -> str:
        """Wait until the kernel's container runs; the address of its pod."""
        clock = asyncio.get_running_loop().time
        slow, told = clock() + PATIENCE, ""

        def look() -> str | None:
            nonlocal told
            pod = self.cluster.pod(self.name) or {}
            address = _running_at(pod)
            if address is None and clock() >= slow and not failures.hindrance(pod):
                node = dig(pod, "spec", "nodeName", default="")
                news = paragraph(say("node-prepares", node=node), self.cluster.events.words(pod))
                if news != told:
                    told = news
                    assert self.share is not None
                    report(Starting(self.share, news))
            return address

        address: str = await self.until(look)
        return address

    async def until(self, look: Callable[[], Any]) -> Any:
        """Wait until ``look`` gives something, looking at every change.

        Raises
        ------
        KernelStartError: the pod has ended, or will not come up.
        """
        return await self._attention.until(look)

    def _hindered(self, why: str) -> bool:
        """Tell of what the node tries again. False where nobody listens yet."""
        if self.share is None or self._report is None:
            return False
        self._report(Starting(self.share, paragraph(why, say("node-tries-again"))))
        return True

    async def _ask_again(self) -> bool:
        """Have the scheduler look again at what it may have overlooked. True where it was asked."""
        size = self.request.size
        asked = await ask_again(self.cluster, self.name, self._claims.values(), size)
        if self.lease is not None:
            name, size = self.lease.name, self.lease.asked
            asked |= await ask_again(self.cluster, name, {name}, size, self.own_claims)
        return asked

    # -- the kernel in the pod ---------------------------------------------------------------

    async def _run_kernel(self, address: str) -> Running:
        assert self.connection is not None
        if self.connection.ip != address:
            self.connection = _at(self.connection, address)
        if self._ended.done():
            self._ended = asyncio.get_running_loop().create_future()
        self._run = uuid4().hex
        link = self.link or self._linked(self.connection)
        argv = command_of(self.request.argv, self.cluster.settings.python)
        env = self._environment()
        try:
            await self._unless_it_ends(link.start(self._run, argv, env, None))
        except KernelStartError:
            self._check_command(argv)
            raise
        self._check_command(argv)
        return self._running()

    async def _unless_it_ends(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what the kernel's agent has to answer.

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
            image = image_of(self.cluster.settings, self.request)
            raise CommandNotFoundError(
                f"The kernel's command {argv[0]!r} is not in the image {image}. The administrator "
                "names one that has it in c.KubernetesEngine.images."
            )

    def _running(self) -> Running:
        assert self.share is not None
        assert self.connection is not None
        return Running(self.share, self.connection)

    def _linked(self, connection: Connection) -> AgentLink:
        link = self.link = AgentLink(
            connection,
            AGENT_PORT,
            instance=self.cluster.instance,
            renewal=self.cluster.settings.renewal,
            changed=self._state_changed,
        )
        link.open(self.cluster.zmq)
        return link

    def _environment(self, share: Share | None = None) -> dict[str, str]:
        share = share or self.share
        assert share is not None
        allowed = self.cluster.settings.allowed_environment
        env = kernel_environment(self.request.env, self.request.declared, allowed)
        return env | share_environment(share, env)

    async def signal(self, signum: int, *, alone: bool = False) -> None:
        """Send a signal to the kernel's session, or ``alone`` to its first process."""
        if self.link is not None:
            await self.link.signal(signum, alone=alone)

    # -- another size ------------------------------------------------------------------------

    async def planned(self, size: Size) -> Change | None:
        """How the kernel could hold another size on its GPU; None: it cannot, or not now."""
        if self.share is None or not self.alive:
            return None
        beside = True
        if self.lease is not None:
            share, leases = await self.lease.planned(self.share, size)
            beside = leases is not None
        elif self.annotation is not None:
            share = await self.annotation.planned(self.request.size, size)
        else:
            return None
        if share is None:
            return None
        share = _for_language(share, self.request.language)
        return Change(share, self.limits(share), beside)

    async def change(self, size: Size) -> Share:
        """Hold another size. What is written on the pod is never more than what is held.

        What the cluster does not answer goes on in the background: nothing of it is more than the
        kernel may use, and whatever is asked of its share next waits for that.

        Raises
        ------
        EngineError, KubernetesError: it holds what it held.
        """
        if not await self.writes.settled(WRITE_PATIENCE):
            raise EngineError(say("outcome-unknown"))
        planned = await self.planned(size)
        if planned is None:
            raise EngineError(say("no-room", size=size))
        # Who takes the kernel over goes by it.
        words = {PREFIX + "size": str(size)}
        if self.lease is not None:
            note = partial(self._note_for_sure, words)
            await self.lease.change(planned.share, size, note, self.until)
        elif self.annotation is not None:
            await self.annotation.change(self.request.size, size, words)
        self.request = replace(self.request, size=size)
        self.share = planned.share
        self.supervisor = Supervisor(self.share.memory_bytes * len(self.share.devices))
        return self.share

    async def _note_for_sure(self, words: Object) -> None:
        await self.writes.insist(lambda: self._annotate(words), refusable=True)

    async def note_path(self, path: str | None) -> None:
        """Have whoever takes the kernel over know where its notebook is now."""
        self.request = replace(self.request, path=path)
        if self.made:
            await self._annotate({PREFIX + "path": path or ""})

    async def _annotate(self, words: Object) -> None:
        change = {"metadata": {"annotations": words}}
        await self.cluster.api.patch(PODS, self.name, change, self.cluster.namespace)

    def limits(self, share: Share | None = None) -> dict[str, str | None]:
        """Of the kernel's environment what follows from its share, or another one."""
        return limits_of(self._environment(share))

    # -- the end -----------------------------------------------------------------------------

    async def end_process(self) -> None:
        """End the kernel, keep the pod."""
        if self.link is not None and self.alive:
            await self.link.end(_END_PATIENCE)

    async def unlink(self) -> None:
        """Have the pod end by itself, and stop talking to it."""
        link, self.link = self.link, None
        self.writes.give_up()  # what is not done yet goes with the pod
        if self._unleased is not None:
            await self._unleased.done()
        if link is not None:
            if not self._lost:
                with suppress(zmq.ZMQError):
                    await link.quit()
            await link.close()
        self._end(Exit(-signals.SIGKILL, say("was-shut-down")))

    async def delete(self) -> None:
        """Delete the pod, however long that takes; what belongs to it goes with it."""

        async def write() -> None:
            await delete_own(self.cluster, self.name)
            self.made = False

        if self.made:
            await self.writes.insist(write)

    async def last_words(self, lines: int = 10) -> str:
        """What the kernel printed last; empty where that cannot be read."""
        with suppress(KubernetesError):
            return await self.cluster.api.log(self.name, self.cluster.namespace, lines)
        return ""


def size_of(pod: Object) -> Size:
    """The size that a pod was made for."""
    return Size.parse(annotation(pod, "size") or "0")


def _running_at(pod: Object) -> str | None:
    """Where the kernel's container is reached; None while it does not run."""
    running = dig(named(dig(pod, "status", "containerStatuses")), "state", "running")
    ip = address_of(pod)
    return ip if ip and running is not None else None


def _at(connection: Connection, ip: str) -> Connection:
    return replace(connection, ip=ip)


def _for_language(share: Share, language: str) -> Share:
    """Soft caps exist for Python only; of other kernels' shares it is said that nothing caps."""
    if share.isolation is Isolation.FRAMEWORK and not language.lower().startswith("python"):
        return replace(share, isolation=Isolation.NONE)
    return share
