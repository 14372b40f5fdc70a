"""One kernel's objects in the cluster: made, placed, watched, ended. No word with its agent."""

from __future__ import annotations

import asyncio
import signal as signals
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any
from uuid import uuid4

from ..._threads import to_the_end
from ...allocations import Isolation, Share
from ...errors import EngineError
from ...sentences import paragraph, say
from ...size import Size
from ..base import Connection, Exit, Removal, Report, Starting
from . import _failures as failures
from ._annotation import Annotation
from ._attention import Attention
from ._cluster import Cluster, Object
from ._drained import Unleased
from ._kueue import gated
from ._lease import Lease
from ._making import make
from ._names import PART, PREFIX, SERVER, label, object_name
from ._objects import KernelPlan, Owner
from ._overlooked import ask_again
from ._ownership import TAKEN_OVER, claim_pod, delete_own, taken_over
from ._parting import Parting
from ._pods import Labels, address_of, connection_of
from ._waits import PATIENCE, Told, Wait
from ._writes import PATIENCE as WRITE_PATIENCE
from ._writes import Writes
from .api import PODS, SECRETS, KubernetesError
from .backends import Rendered, dig, named

__all__ = ["KernelObjects"]


class KernelObjects:
    """The objects of one kernel, made and watched by who has the rights to.

    See :class:`~._objects.Objects` for what is not described here. Whoever watches the cluster
    calls :meth:`look` and :meth:`appeared`, for the objects that :meth:`owns` says are its.

    Parameters
    ----------
    owner: whose they are.
    name: of the pod, where there is one to be taken over; else a new one.
    """

    def __init__(self, cluster: Cluster, owner: Owner, plan: KernelPlan, name: str = "") -> None:
        self.cluster = cluster
        self.owner = owner
        #: As it is now: its size may have changed, and its keys are forgotten.
        self.plan = plan
        self.name = name or object_name(owner.server, plan.kernel_id, generation=uuid4().hex)
        self.share: Share | None = None
        self.lease: Lease | None = None
        self.annotation: Annotation | None = None
        self.rendered = Rendered()
        self.made = False
        self.lost = False
        self.on_leave: Callable[[], None] = lambda: None
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
            leave=lambda: self.on_leave(),
        )
        self._up = False  # the agent can be talked to
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._unleased: Unleased | None = None
        self._report: Report | None = None  # of the start that is under way

    # -- what is told ------------------------------------------------------------------------

    def look(self, gone: Object | None = None) -> None:
        """The pod, one of its claims, or the queue may have changed.

        ``gone`` is an object that was deleted. That the pod is merely not there yet means nothing:
        the watch may be behind our own writing.
        """
        pod = self.cluster.pod(self.name)
        cause = None
        if pod is not None:
            self.lost |= bool(self._version) and taken_over(pod, self.owner.instance, self._version)
            cause = failures.end_of(pod, None)
            if cause is None:
                self.parting.note(pod)
        elif gone is not None and self._is_own(gone):
            cause = failures.end_of(None, gone)
        if cause is None and self.lease is not None:
            cause = self.lease.taken_away(gone)
            if cause is not None and self._up:
                if self._unleased is None:
                    self._unleased = self._without_lease(pod, gone)
                    ended = Exit(cause.code, cause.text)
                    self._unleased.begin(lambda: self._end(ended))
                cause = None if self._unleased.spared else cause
        if cause is not None:
            # A pod that is deleted ends first, and is gone only then.
            last = pod or gone
            words = self.cluster.backend.reclaimed(last) if last and cause.kind == "deleted" else ""
            self._end(Exit(cause.code, words or cause.text))
        if self.lost:
            self._end(Exit(-signals.SIGKILL, TAKEN_OVER))
        self._attention.rouse()

    def _without_lease(self, pod: Object | None, gone: Object | None) -> Unleased:
        node = dig(pod, "spec", "nodeName", default="")
        server, kernel_id = self.owner.server, self.plan.kernel_id
        return Unleased(self.cluster, self.parting, server, kernel_id, node, gone)

    def appeared(self, name: str) -> None:
        """An object of the kernel's is new in the cluster."""
        if self.lease is not None and not self.lost:
            self.lease.appeared(name)

    def owns(self, obj: Object) -> bool:
        """Whether an object with this kernel's id is one of its own, or of no earlier one."""
        if label(obj, SERVER) != self.owner.server:
            return False
        return label(obj, PART) != "kernel" or obj["metadata"]["name"] == self.name

    def _is_own(self, gone: Object) -> bool:
        """Whether it is the pod. The watch may tell of its end before its creation is answered."""
        meta = gone["metadata"]
        return bool(meta["uid"] == self._uid if self._uid else meta["name"] == self.name)

    def _end(self, ended: Exit) -> None:
        if not self._ended.done():
            self._ended.set_result(ended)

    async def ended(self) -> Exit:
        """See :class:`~._objects.Objects`."""
        return await asyncio.shield(self._ended)

    @property
    def note(self) -> str:
        """See :class:`~._objects.Objects`."""
        return self.rendered.note

    @property
    def holder(self) -> Lease | Annotation | None:
        """What can give the share back and take it again while the kernel lives, if anything."""
        return self.lease or self.annotation

    @property
    def detachable(self) -> bool:
        """See :class:`~._objects.Objects`."""
        return self.holder is not None

    @property
    def lent(self) -> bool:
        """See :class:`~._objects.Objects`."""
        return self.holder is not None and self.holder.lent

    @property
    def claim_names(self) -> set[str]:
        """Names of the claims that hold the kernel's share, and go with it."""
        return self.lease.claim_names if self.lease is not None else self.own_claims

    @property
    def own_claims(self) -> set[str]:
        """Names of the claims that the kernel's pod has itself."""
        return set(self._claims.values())

    @property
    def there(self) -> bool:
        """See :class:`~._objects.Objects`."""
        pod = self.cluster.pod(self.name)
        return (
            self._unleased is None
            and not self.lost
            and pod is not None
            and failures.end_of(pod, None) is None
            and not pod["metadata"].get("deletionTimestamp")
            and self.parting.removal is None
        )

    @property
    def unanswered(self) -> bool:
        """See :class:`~._objects.Objects`."""
        return self.writes.pending

    # -- start -------------------------------------------------------------------------------

    async def start(self, report: Report) -> Connection:
        """See :class:`~._objects.Objects`; it is :meth:`make`, then :meth:`come_up`."""
        keys = self.plan.keys
        if keys is None:
            raise EngineError("The kernel has no keys; start a new one.")
        await self.make()
        return keys.connection(await self.come_up(report))

    async def make(self) -> None:
        """Create the pod and what belongs to it, and forget the keys, which are in its Secret.

        Raises
        ------
        KernelStartError, NoGpuError, EngineError: what was made is still there.
        """
        size = self.plan.size
        try:
            if not size.is_none:
                self.rendered = await self.cluster.render(size)
                self.cluster.refresh_soon()
            self.made = True
            names = [claim.name for claim in self.rendered.claims]
            self._claims = {name: f"{self.name}-{name}" for name in names}
            await self._make()
        finally:
            self.plan = replace(self.plan, keys=None)

    async def _make(self) -> None:
        plan, labels = self.plan, self._labels()
        pod = await self.writes.once(
            lambda: make(
                self.cluster, self.owner, plan, self.name, self.rendered, self._claims, labels
            )
        )
        self._owns(pod)

    async def come_up(self, report: Report) -> str:
        """Wait for a place, for the share, and until the kernel's container runs; its address.

        Raises
        ------
        KernelStartError, NoGpuError, EngineError: what was made is still there.
        """
        self._report = report
        size = self.plan.size
        settings, waits = self.cluster.settings, Told(report)
        for_place = settings.longest_wait
        with self._attention.limit(for_place, partial(waits.too_long, "no-place-in-time")):
            if settings.style == "lease" and not size.is_none:
                await self._admitted(waits)
                self.lease = self._new_lease()
                await self.lease.acquire(self.name, waits, self.until)
            await self._on_a_node(waits)
        with self._attention.limit(
            settings.node_patience, partial(waits.too_long, "node-too-slow")
        ):
            await self._placed(waits)
            if settings.style == "annotation" and not size.is_none:
                self.annotation = Annotation(self.cluster, self.name, self.writes)
            address = await self._running(waits)
        self._up = True
        return address

    def _owns(self, pod: Object) -> None:
        meta = pod["metadata"]
        self._uid, self._version = meta["uid"], meta["resourceVersion"]

    def _new_lease(self) -> Lease:
        pod = {
            "apiVersion": PODS.api_version,
            "kind": PODS.kind,
            "name": self.name,
            "uid": self._uid,
        }
        return Lease(
            self.cluster, self.owner, self.plan.size, self.writes, self._labels(), owned_by=pod
        )

    def _labels(self) -> Labels:
        owner = self.owner
        return Labels(owner.server, self.plan.kernel_id, uuid4().hex, owner.notes)

    # -- taking over -------------------------------------------------------------------------

    async def adopt(self, before: str, report: Report) -> Connection:
        """See :class:`~._objects.Objects`."""
        name = self.name
        pod = await self.writes.once(lambda: claim_pod(self.cluster, self.owner, name, before))
        self.made = True
        self._owns(pod)
        connection = await self.connection(address_of(pod))
        prefix, server = f"{self.name}-", self.owner.server
        known = self.cluster.own_claims(server, prefix)
        self._claims = {name.removeprefix(prefix): name for name in known}
        if self.cluster.settings.style == "annotation" and not self.plan.size.is_none:
            self.annotation = Annotation(self.cluster, self.name, self.writes)
            await self.annotation.adopt()
        self._up = True
        return connection

    async def connection(self, ip: str) -> Connection:
        """What the kernel's Secret holds, read now; to an address of its pod.

        Raises
        ------
        EngineError: there is none.
        """
        secret = await self.cluster.api.get(SECRETS, self.name, self.cluster.namespace)
        try:
            return connection_of(secret, ip)
        except ValueError as error:
            raise EngineError(f"The kernel cannot be taken over: {error}.") from error

    async def settle(self, report: Report) -> None:
        """See :class:`~._objects.Objects`."""
        if self.cluster.settings.style == "lease" and not self.plan.size.is_none:
            lease = self._new_lease()
            await lease.adopt(self.name)
            self.lease = lease  # it knows what is its own
        if self.holder is not None and self.holder.lent:
            await self.holder.retake(report, self.until)
        if not self._take_share():
            raise EngineError(failures.end_of_lease(None, None).text)

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
        if not self.plan.size.is_none:
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
        if self.plan.size.is_none:
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
        self.share = share
        return True

    async def _running(self, report: Report) -> str:
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
        size = self.plan.size
        asked = await ask_again(self.cluster, self.name, self._claims.values(), size)
        if self.lease is not None:
            name, size = self.lease.name, self.lease.asked
            asked |= await ask_again(self.cluster, name, {name}, size, self.own_claims)
        return asked

    # -- the share of a living kernel --------------------------------------------------------

    def _holder(self) -> Lease | Annotation:
        if self.holder is None:
            raise EngineError("The kernel's share is part of its pod; it cannot be given back.")
        return self.holder

    async def give_back(self) -> None:
        """See :class:`~._objects.Objects`."""
        await to_the_end(self._holder().drop())

    async def take_back(self, report: Report) -> Share:
        """See :class:`~._objects.Objects`."""
        holder = self._holder()
        try:
            await holder.retake(report, self.until)
        except BaseException:
            await to_the_end(holder.withdraw())
            raise
        assert self.share is not None
        return self.share

    async def withdraw(self) -> None:
        """See :class:`~._objects.Objects`."""
        await self._holder().withdraw()

    async def planned(self, size: Size) -> tuple[Share, bool] | None:
        """See :class:`~._objects.Objects`."""
        if self.share is None or not self.there:
            return None
        beside = True
        if self.lease is not None:
            share, leases = await self.lease.planned(self.share, size)
            beside = leases is not None
        elif self.annotation is not None:
            share = await self.annotation.planned(self.plan.size, size)
        else:
            return None
        return None if share is None else (share, beside)

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
        share, _ = planned
        # Who takes the kernel over goes by it.
        words = {PREFIX + "size": str(size)}
        if self.lease is not None:
            note = partial(self._note_for_sure, words)
            await self.lease.change(share, size, note, self.until)
        elif self.annotation is not None:
            await self.annotation.change(self.plan.size, size, words)
        self.plan = replace(self.plan, size=size)
        self.share = share
        return share

    async def _note_for_sure(self, words: Object) -> None:
        await self.writes.insist(lambda: self._annotate(words), refusable=True)

    async def note_path(self, path: str | None) -> None:
        """See :class:`~._objects.Objects`."""
        self.plan = replace(self.plan, path=path)
        if self.made:
            await self._annotate({PREFIX + "path": path or ""})

    async def _annotate(self, words: Object) -> None:
        change = {"metadata": {"annotations": words}}
        await self.cluster.api.patch(PODS, self.name, change, self.cluster.namespace)

    # -- the end -----------------------------------------------------------------------------

    @property
    def removal(self) -> Removal | None:
        """See :class:`~._objects.Objects`."""
        return self.parting.removal

    async def removed(self) -> Removal:
        """See :class:`~._objects.Objects`."""
        return await self.parting.wait()

    def let_go(self) -> None:
        """See :class:`~._objects.Objects`."""
        self.parting.let_go()

    def leaving(self, grace: float) -> None:
        """See :class:`~._objects.Objects`."""
        told = min(self.cluster.settings.eviction_grace, grace)
        self.parting.note(self.cluster.pod(self.name), told=told)

    async def delete(self, *, grace: int = 1) -> None:
        """Delete the pod, however long that takes; what belongs to it goes with it.

        Parameters
        ----------
        grace: seconds that the agent has to end the kernel in order.
        """
        self._up = False
        self.writes.give_up()  # what is not done yet goes with the pod
        if self._unleased is not None:
            await self._unleased.done()
        self._end(Exit(-signals.SIGKILL, say("was-shut-down")))

        async def write() -> None:
            await delete_own(self.cluster, self.owner, self.name, grace=grace)
            self.made = False

        if self.made:
            await self.writes.insist(write)

    async def settled(self, patience: float | None = None) -> bool:
        """See :class:`~._objects.Objects`."""
        return await self.writes.settled(patience)

    async def close(self) -> None:
        """See :class:`~._objects.Objects`."""
        await self.writes.close()

    async def last_words(self, lines: int = 10) -> str:
        """See :class:`~._objects.Objects`."""
        with suppress(KubernetesError):
            return await self.cluster.api.log(self.name, self.cluster.namespace, lines)
        return ""


def _running_at(pod: Object) -> str | None:
    """Where the kernel's container is reached; None while it does not run."""
    running = dig(named(dig(pod, "status", "containerStatuses")), "state", "running")
    ip = address_of(pod)
    return ip if ip and running is not None else None
