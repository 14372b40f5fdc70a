"""One kernel's objects in the cluster: made, placed, watched, ended. No word with its agent."""

from __future__ import annotations

import asyncio
import signal as signals
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from uuid import uuid4

from ..._threads import to_the_end
from ...allocations import Isolation, Share
from ...errors import EngineError, KernelStartError
from ...sentences import paragraph, say
from ...size import Size
from ..base import Connection, Exit, Report, Starting
from . import _failures as failures
from ._annotation import Annotation
from ._cluster import Cluster, Object
from ._kueue import gated
from ._lease import Lease
from ._making import has_gate, make, make_claims, open_gate
from ._names import PREFIX
from ._objects import KernelPlan, Owner, Unfinished
from ._overlooked import ask_again
from ._ownership import claim_pod, delete_own
from ._pods import Labels, address_of, connection_of
from ._waits import PATIENCE, Told, Wait
from ._watched_pod import WatchedPod
from ._writes import PATIENCE as WRITE_PATIENCE
from ._writes import Writes
from .api import PODS, SECRETS, KubernetesError, NotFound
from .backends import Claim, Rendered, dig, named

__all__ = ["KernelObjects"]


class KernelObjects(WatchedPod):
    """The objects of one kernel, made and watched by who has the rights to.

    See :class:`~._objects.Objects` for what is not described here.
    """

    def __init__(self, cluster: Cluster, owner: Owner, plan: KernelPlan, name: str = "") -> None:
        super().__init__(cluster, owner, plan, name)
        self.share: Share | None = None
        self.annotation: Annotation | None = None
        self.rendered = Rendered()
        self.made = False
        #: Those to the objects of the kernel.
        self.writes = Writes(self._attention.rouse)
        self._claims: dict[str, str] = {}
        self._owed: tuple[Claim, ...] = ()  # of those, what is not made yet
        self._gated = False  # no scheduler looks at the pod yet, by our own word
        self._report: Report | None = None  # of the start that is under way

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
    def held_back(self) -> bool:
        """Whether no scheduler looks at the pod yet, by our own word."""
        if self._up or self.plan.size.is_none:
            return False
        unleased = self._is_leased and (self.lease is None or self.lease.lent)
        return bool(self._owed) or self._gated or unleased

    @property
    def unanswered(self) -> bool:
        """See :class:`~._objects.Objects`."""
        return self.writes.pending

    # -- start -------------------------------------------------------------------------------

    async def start(self, report: Report) -> Connection:
        """See :class:`~._objects.Objects`; it is :meth:`make`, then :meth:`come_up`."""
        keys = self.plan.keys
        assert keys is not None  # else its pod is there already
        await self.make()
        return keys.connection(await self.come_up(report))

    async def make(self, *, held_back: bool = False) -> None:
        """Create the pod and what belongs to it, and forget the keys, which are in its Secret.

        Parameters
        ----------
        held_back: no scheduler is to look at it before :meth:`come_up`.

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
            claims = self.rendered.claims
            self._claims = {claim.name: f"{self.name}-{claim.name}" for claim in claims}
            if held_back and not self._is_leased and not size.is_none:
                self._owed, self._gated = claims, not claims
            await self._make()
        finally:
            self.plan = replace(self.plan, keys=None)

    @property
    def _is_leased(self) -> bool:
        return self.cluster.settings.style == "lease" and not self.plan.size.is_none

    @property
    def _is_annotated(self) -> bool:
        return self.cluster.settings.style == "annotation" and not self.plan.size.is_none

    async def _make(self) -> None:
        cluster, owner, plan, labels = self.cluster, self.owner, self.plan, self._labels()
        # With a lease the kernel's own claim follows from the device that the lease is given.
        now = () if self._is_leased or self._owed else self.rendered.claims
        pod = await self.writes.once(
            lambda: make(
                cluster,
                owner,
                plan,
                self.name,
                self.rendered,
                self._claims,
                labels,
                now=now,
                gated=self._gated,
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
        settings, waits = self.cluster.settings, Told(report)
        for_place = settings.longest_wait
        with self._attention.limit(for_place, partial(waits.too_long, "no-place-in-time")):
            await self._let_through()
            if self._is_leased:
                await self._admitted(waits)
                self.lease = self.lease or self._new_lease()
                await self.lease.acquire(self.name, waits, self.until)
            await self._on_a_node(waits)
        with self._attention.limit(
            settings.node_patience, partial(waits.too_long, "node-too-slow")
        ):
            await self._placed(waits)
            if self._is_annotated:
                self.annotation = Annotation(self.cluster, self.name, self.writes)
            address = await self._running(waits)
        self._up = True
        return address

    async def _let_through(self) -> None:
        """Have the scheduler look at a pod that was held back."""
        if self._owed:
            owed, labels, pod = self._owed, self._labels(), self._reference
            work = partial(make_claims, self.cluster, owed, self._claims, labels, pod)
            await self.writes.once(work)
            self._owed = ()
        if self._gated:
            work = partial(open_gate, self.cluster, self.name)
            await self.writes.insist(work, refusable=True)
            self._gated = False

    def _new_lease(self) -> Lease:
        size, labels = self.plan.size, self._labels()
        return Lease(self.cluster, self.owner, size, self.writes, labels, self._reference)

    @property
    def _reference(self) -> Object:
        """To the pod, for what belongs to it."""
        kind = {"apiVersion": PODS.api_version, "kind": PODS.kind}
        return {**kind, "name": self.name, "uid": self._uid}

    def _labels(self) -> Labels:
        owner = self.owner
        return Labels(owner.server, self.plan.kernel_id, uuid4().hex, owner.notes)

    # -- taking over -------------------------------------------------------------------------

    async def adopt(self, before: str, report: Report) -> Connection:
        """See :class:`~._objects.Objects`."""
        name = self.name
        pod = await self.writes.once(
            lambda: claim_pod(self.cluster, self.owner, name, before, self._also)
        )
        self.made = True
        self._owns(pod)
        connection = await self.connection(address_of(pod))
        self._claims = _claims_of(pod)
        if self._is_annotated:
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
        if self._is_leased:
            lease = self._new_lease()
            await lease.adopt(self.name)
            self.lease = lease  # it knows what is its own
        if self.holder is not None and self.holder.lent:
            await self.holder.retake(report, self.until)
        if not self._take_share():
            raise EngineError(failures.end_of_lease(None, None).text)

    async def resume(self, report: Report) -> str:
        """Go on with what an earlier process has made that had the same rights: its address.

        It stays its owner's. A share that was given back stays away.

        Raises
        ------
        Unfinished: it was not made to its end, and its keys are lost.
        KernelStartError, NoGpuError, EngineError: what was made is still there.
        """
        if await self.recall():
            return address_of(self.cluster.pod(self.name) or {})
        return await self.come_up(report)

    async def recall(self) -> bool:
        """Find out how far it is what an earlier process has made that had the same rights.

        True where the kernel's container runs, and its share is known or was given back; else
        :meth:`come_up` goes on with it.

        Raises
        ------
        Unfinished: it was not made to its end, and its keys are lost.
        KernelStartError, EngineError
        """
        pod = self.cluster.pod(self.name)
        if pod is None:
            raise KernelStartError(say("pod-deleted"))
        self.made = True
        self._owns(pod)
        self._claims = _claims_of(pod)
        runs = _running_at(pod) is not None
        if not runs:
            await self._recall_start(pod)
        if self._is_leased:
            lease = self._new_lease()
            await (lease.adopt(self.name, as_watched=True) if runs else lease.resume(self.name))
            self.lease = lease
        if self._is_annotated and runs:
            self.annotation = Annotation(self.cluster, self.name, self.writes)
            await self.annotation.adopt()
        self._up = runs and (self._take_share() or self.lent)
        self.look()
        return self._up

    async def _recall_start(self, pod: Object) -> None:
        """Find out what is missing of a pod that has not come up."""
        try:
            await self.connection("")
        except NotFound as error:
            raise Unfinished("The start of the kernel was interrupted; start it again.") from error
        self._gated = has_gate(pod)
        if self._is_leased or not self._claims:
            return
        self.rendered = await self.cluster.render(self.plan.size)
        known = self.cluster.own_claims(self.owner.server, f"{self.name}-")
        self._owed = tuple(
            claim for claim in self.rendered.claims if self._claims.get(claim.name) not in known
        )

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
        if self.lease is not None and self.lease.lent:
            self.share = self.lease.share_away
            return self.share is not None
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
        # Who has gone on with a kernel whose share was away has not seen it before.
        if self.share is None and not self._take_share():
            raise EngineError(failures.end_of_lease(None, None).text)
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
        await self.writes.insist(lambda: self.annotate(words), refusable=True)

    async def note_path(self, path: str | None) -> None:
        """See :class:`~._objects.Objects`."""
        self.plan = replace(self.plan, path=path)
        if self.made:
            await self.annotate({PREFIX + "path": path or ""})

    async def annotate(self, words: Mapping[str, str | None]) -> None:
        """Write annotations on the pod, by their whole names; None takes one away.

        Raises
        ------
        KubernetesError
        """
        change = {"metadata": {"annotations": dict(words)}}
        await self.cluster.api.patch(PODS, self.name, change, self.cluster.namespace)

    # -- the end -----------------------------------------------------------------------------

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
            await delete_own(self.cluster, self.owner, self.name, grace=grace, also=self._also)
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


def _claims_of(pod: Object) -> dict[str, str]:
    """Names of the claims that a pod has itself, by the names that it has for them."""
    claims = dig(pod, "spec", "resourceClaims", default=[])
    return {
        each["name"]: each["resourceClaimName"] for each in claims if "resourceClaimName" in each
    }
