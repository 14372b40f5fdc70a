"""Style ``lease``: the share is held beside the kernel, which itself requests none.

A tiny pod holds a claim for the share, less the smallest amount of the device: this the kernel's
pod holds by a claim of its own, on which the kernel rests. So the share can go and come back while
the kernel lives, and be of another size. One that has grown can be made up of several leases.

Where the smallest amount of a device is large, the kernel's own claim has administrator access
instead, which is not counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

from ..._threads import to_the_end, within
from ...allocations import Share
from ...errors import EngineError, KernelStartError, NoGpuError
from ...size import Size
from ..base import Report
from . import _failures as failures
from ._cluster import Cluster, Object
from ._lease_plan import LeaseChange, exactly, least_change
from ._names import UNDISTURBED, object_name
from ._objects import Owner
from ._pods import Labels, claim_body
from ._waits import Until, Wait, until_known
from ._writes import PATIENCE, Writes, unsure
from .api import CLAIMS, PODS, KubernetesError
from .backends import GPU_TOLERATION, DraBackend, Facts

__all__ = ["Lease"]

#: Seconds that a lease may live longer than the kernel: the kernel's end is what is told.
_LONGER = 300
#: Seconds that one more lease is waited for. The scheduler is asked once again within them.
_PATIENCE = 20.0
#: Looks at the GPUs for one that is not known yet, and the seconds between; how old what was read
#: may be then, in seconds, so that one that is gone does not have them listed with each look.
_LOOKS, _PAUSE, _OLD = 45, 1.0, 5.0


class Lease:
    """The object that holds the share of one kernel.

    Parameters
    ----------
    owner: whose the kernel's objects are.
    size: of the kernel.
    writes: those to the kernel's objects.
    labels: of the kernel's objects.
    owned_by: reference to the kernel's pod: the lease goes with it.
    """

    def __init__(
        self,
        cluster: Cluster,
        owner: Owner,
        size: Size,
        writes: Writes,
        labels: Labels,
        owned_by: Mapping[str, Any],
    ) -> None:
        if not isinstance(cluster.backend, DraBackend):
            raise EngineError("Style 'lease' needs the backend dra.")
        self._cluster = cluster
        self._backend: DraBackend = cluster.backend
        self.owner = owner
        self.size = size
        self._writes = writes
        self._labels = labels
        self._owned_by = owned_by
        self._base = object_name(owner.server, labels.kernel_id, "lease")
        self._kernel = ""  # name of the kernel's pod
        self._own = ""  # name of the claim that the kernel's pod has itself
        #: Name of the pod and claim of the last lease that was asked for, and what it is of.
        self.name, self.asked = "", size
        self.device: tuple[str, str] | None = None
        self._held: set[str] = set()  # names of all leases, also of one that is asked for
        self._seen: set[str] = set()  # those that were seen: their pods with their allocations

    @property
    def claim_names(self) -> set[str]:
        """Names of the claims that go and come back with the share."""
        return set(self._held)

    @property
    def share_claims(self) -> list[Object]:
        """The claims that make up the share, the kernel's own among them.

        Empty while one of them is not seen to be allocated: the share is more than what is seen.
        """
        names = {*self._held, self._own} if self._held else set()
        seen = {name for name in names if self._device_of(name) is not None}
        return self._cluster.claims_of(seen) if seen == names else []

    @property
    def share_away(self) -> Share | None:
        """The share that comes back to a kernel that has none now; None where it is not known."""
        own, facts = self._objects().get(self._own), self._cluster.facts
        if own is None or self.device is None:
            return None
        rests = self._backend.granted({}, [own], facts)
        return self._backend.share_on(rests, self.size, self.device, facts) if rests else None

    @property
    def lent(self) -> bool:
        """Whether the share was given back, if perhaps not yet for sure, or never held."""
        return not self._held

    async def adopt(self, kernel: str, *, as_watched: bool = False) -> None:
        """Find the leases of a kernel that is taken over; it may have given its share back.

        Its server may have ended while it changed the size: the pod tells which one counts.

        Parameters
        ----------
        as_watched: nobody else had the kernel since it was last watched, and it goes on meanwhile:
            what the watch knows counts, and an API that does not answer ends no share.
        """
        self._kernel, self._own = kernel, f"{kernel}-gpu"
        self.device = self._device_of(self._own)
        claims = self._cluster.own_claims(self.owner.server, f"{self._base}-")
        held = {name: device for name in claims if (device := self._device_of(name)) is not None}
        self.device = next(iter(held.values()), self.device)
        if held:
            facts, device = await self._cluster.refresh(), next(iter(held.values()))
            amounts = {name: self._backend.held_on(claims[name], device, facts) for name in held}
            wanted = self._backend.amount_on(self.size, device, facts)
            enough = exactly(amounts, wanted - self._resting(facts)) if wanted is not None else None
            self._held = set(held if enough is None else enough)
            if as_watched:
                there = all(map(self._is_in_place, self._held))
            else:
                there = await self._in_place(self._held)
            if there:
                self._seen = set(self._held)
            else:
                self._held = set()  # what is left of it is let go, and it is taken again
            self.name = next(iter(self._held), "")
        # Also what nobody waits for any more.
        named = self._cluster.own_names(self.owner.server, f"{self._base}-")
        await self._let_go(named - self._held)

    async def resume(self, kernel: str) -> None:
        """Find the lease of a kernel that has not come up, which may be waited for still.

        :meth:`acquire` goes on with it, and so it keeps its place in the queue.
        """
        self._kernel, self._own = kernel, f"{kernel}-gpu"
        names = self._cluster.own_names(self.owner.server, f"{self._base}-")
        claims = self._objects()
        waiting = [
            name
            for name in names
            if (pod := self._cluster.pod(name)) is not None
            and failures.end_of(pod, None) is None
            and not pod["metadata"].get("deletionTimestamp")
            and name in claims
            and self._device_of(name) is None
        ]
        if len(waiting) == 1 and all(self._device_of(name) is None for name in names):
            self.name, self._held = waiting[0], set(waiting)
            await self._let_go(names - self._held)
            return
        await self.adopt(kernel)

    def taken_away(self, gone: Object | None = None) -> failures.Cause | None:
        """Why the share is held no more, if somebody else has ended that.

        ``gone`` is an object that was deleted just now.
        """
        for name in self._held:
            pod = self._cluster.pod(name)
            if (
                pod is not None
                and failures.end_of(pod, None) is None
                and self._device_of(name) is not None
            ):
                self._seen.add(name)
            elif name in self._seen:
                return failures.end_of_lease(pod, gone)
        return None

    async def acquire(self, kernel: str, report: Report, until: Until) -> None:
        """Hold the share, and give the kernel's pod the device that it lies on.

        Waits in the scheduler's queue as long as it takes.
        """
        self._kernel, self._own = kernel, f"{kernel}-gpu"
        if not self._held:
            await self._post(None, self.size)
        self.device = await self._allocated(report, until)
        if self._own not in self._objects():
            await self._claim_for(kernel)
        if await self._refused(kernel, report, until):
            # Administrator access takes nothing, but at the moment when it is allocated its
            # minimum has to be free, and the lease itself may have filled the device; or somebody
            # else was faster with what the lease has left. It steps aside.
            device, tell = self.device, self._telling(kernel, report)
            await self.drop()
            await until(lambda: self._device_of(self._own) or tell())
            await self._post(device, self.size)
            self.device = await self._allocated(report, until)

    async def drop(self) -> None:
        """Give the share back. The kernel's pod stays as it is.

        Where the cluster does not answer, that goes on in the background, and is not turned back.

        Raises
        ------
        KubernetesError: it was refused. The cluster says that the share is still held.
        """
        names, seen = set(self._held), set(self._seen)
        try:
            await self._let_go(names, refusable=True)
        except KubernetesError:
            if not await self._in_place(names):
                await self._let_go(names)
                return
            self._held |= names
            self._seen |= seen
            raise

    async def withdraw(self) -> None:
        """Hold nothing, whatever has come of an attempt to take the share again."""
        await self._let_go(self._held)

    async def retake(self, report: Report, until: Until) -> None:
        """Hold the share again, on the device that the kernel's pod has.

        What the cluster has not answered yet is waited for first.
        """
        await until_known(self._writes, report, until)
        if self._held:
            if await self._in_place(self._held):
                return
            await self._let_go(self._held)
        await self._post(self.device, self.size)
        await self._allocated(report, until)

    def appeared(self, name: str) -> None:
        """An object is new in the cluster. A lease that nobody waits for any more is let go.

        Its creation was given up before it was answered, and came to pass all the same.
        """
        if name.startswith(f"{self._base}-") and name not in self._held:
            self._writes.begin(lambda: self._delete({name}))

    # -- another size ------------------------------------------------------------------------

    async def planned(self, held: Share, size: Size) -> tuple[Share | None, LeaseChange | None]:
        """The share of another size on the same device, and the leases that would make it up.

        No share: the device gives no such one, or not now; of one that was given back it is not
        asked whether there is room now. No leases where all have to go first.
        """
        facts = await self._cluster.refresh()
        if self.device is None:
            return None, None
        share = self._backend.share_on(held, size, self.device, facts)
        if share is None or self.lent:
            return share, None
        device, wanted = self.device, share.memory_bytes - self._resting(facts)
        claims = self._cluster.own_claims(self.owner.server, f"{self._base}-")
        amounts = {
            name: self._backend.held_on(claims[name], device, facts)
            for name in self._held & claims.keys()
        }
        free = self._backend.free_on(device, facts)
        change = least_change(
            amounts, wanted, free, lambda amount: self._backend.gives(device, amount, facts)
        )
        if change is None and free is not None and free + sum(amounts.values()) < wanted:
            return None, None
        return share, change

    async def change(
        self, share: Share, size: Size, note: Callable[[], Awaitable[None]], until: Until
    ) -> None:
        """Hold another size, or have the next share be of it.

        Parameters
        ----------
        share: as it was planned.
        note: writes the size where whoever takes the kernel over reads it.

        Raises
        ------
        EngineError, KubernetesError: it holds what it held.
        """
        _, change = await self.planned(share, size)
        if self.lent:
            await note()
            self.size = size
            return
        if change is None:
            raise EngineError("Its GPU has no room for both sizes at once.")
        await self.extend(change, until)
        try:
            await note()
        except BaseException:
            await to_the_end(self.retract(change))
            raise
        await self.settle(size, change)

    async def extend(self, change: LeaseChange, until: Until) -> None:
        """Hold what a change adds, and still all else.

        Raises
        ------
        EngineError: the device has no room for it any more. Nothing has changed.
        """
        if not change.add:
            return
        before = set(self._held)
        try:
            await self._post(self.device, Size(memory=change.add), change.add)
            await within(_PATIENCE, self._allocated(lambda news: None, until))
        except asyncio.TimeoutError as error:
            await to_the_end(self._let_go(self._held - before))
            raise EngineError(
                "Others were faster: its GPU has no room for that any more."
            ) from error
        except BaseException:
            await to_the_end(self._let_go(self._held - before))
            raise

    async def settle(self, size: Size, change: LeaseChange) -> None:
        """Hold nothing but what a change has kept or added."""
        self.size = size
        await self._let_go(self._held - change.keep - ({self.name} if change.add else set()))

    async def retract(self, change: LeaseChange) -> None:
        """Hold what was held before :meth:`extend`."""
        if change.add:
            await self._let_go({self.name})

    # -- the objects -------------------------------------------------------------------------

    async def _let_go(self, names: Iterable[str], *, refusable: bool = False) -> None:
        """Delete leases, however long that takes; the caller goes on after a moment.

        Raises
        ------
        KubernetesError: it is ``refusable``, and was refused.
        """
        names = set(names)
        self._held -= names
        self._seen -= names
        if names:
            await self._writes.insist(lambda: self._delete(names), refusable=refusable)

    async def _delete(self, names: Iterable[str]) -> None:
        """Delete leases: first the pods, whose end gives the share back.

        Raises
        ------
        KubernetesError: it was not done, or only in part.
        """
        names, space, api = set(names), self._cluster.namespace, self._cluster.api
        for resource, grace in ((PODS, 0), (CLAIMS, None)):
            tried = await asyncio.gather(
                *(api.delete(resource, name, space, grace=grace) for name in names),
                return_exceptions=True,
            )
            if failed := [each for each in tried if isinstance(each, BaseException)]:
                raise max(failed, key=unsure)  # what may have been done matters most

    async def _in_place(self, names: Iterable[str]) -> bool:
        """Whether the cluster says that leases are held, and not about to end."""
        space, api = self._cluster.namespace, self._cluster.api

        async def look(name: str) -> bool:
            pod, claim = await asyncio.gather(
                api.get(PODS, name, space), api.get(CLAIMS, name, space)
            )
            leaving = any(each["metadata"].get("deletionTimestamp") for each in (pod, claim))
            ended = failures.end_of(pod, None) is not None
            return not leaving and not ended and self._backend.device_of(claim) is not None

        async def look_at_all() -> bool:
            return all(await asyncio.gather(*(look(name) for name in names)))

        try:
            return await within(PATIENCE, look_at_all())
        except (KubernetesError, asyncio.TimeoutError):
            return False

    def _is_in_place(self, name: str) -> bool:
        """Whether a lease is held and not about to end, as far as is watched."""
        pod = self._cluster.pod(name)
        objects = (pod, self._objects().get(name))
        leaving = any(each is None or each["metadata"].get("deletionTimestamp") for each in objects)
        return (
            pod is not None
            and not leaving
            and failures.end_of(pod, None) is None
            and self._device_of(name) is not None
        )

    async def _post(
        self, device: tuple[str, str] | None, size: Size, amount: int | None = None
    ) -> None:
        """Create a lease: a claim, and a pod that has it reserved.

        Parameters
        ----------
        device: the only one that will do.
        amount: its bytes; None: what a share of ``size`` is beside the kernel's own claim.

        Raises
        ------
        NoGpuError: the device is not offered any more, or gives no such share.
        """
        if device is None:
            spec, _, _ = self._backend.claim_spec(size, self._cluster.facts_for(self.size))
        else:
            facts = await self._knowing(device)
            part = None if amount is not None else size
            if amount is None:
                whole = self._backend.amount_on(size, device, facts)
                if whole is None:
                    raise NoGpuError(f"The kernel's GPU does not give {size} now.")
                amount = whole - self._resting(facts)
            spec = self._backend.lease_spec(amount, device, facts, part)
        self.name, self.asked = f"{self._base}-{uuid4().hex[:8]}", size
        self._held.add(self.name)
        labels = replace(self._labels, attempt=uuid4().hex)
        claim = claim_body(self.name, labels, spec, owned_by=self._owned_by, part="lease")
        pod, api, space = self._pod(labels), self._cluster.api, self._cluster.namespace

        async def create() -> None:
            await asyncio.gather(api.create(PODS, pod, space), api.create(CLAIMS, claim, space))

        await self._writes.once(create)

    async def _claim_for(self, kernel: str) -> None:
        """Give the kernel's pod access to the device of the lease."""
        assert self.device is not None
        spec = self._backend.own_spec(self.device, await self._knowing(self.device))
        labels = replace(self._labels, attempt=uuid4().hex)
        body = claim_body(self._own, labels, spec, owned_by=self._owned_by)
        api, space = self._cluster.api, self._cluster.namespace
        await self._writes.once(lambda: api.create(CLAIMS, body, space))

    async def _knowing(self, device: tuple[str, str]) -> Facts:
        """What is known of the GPUs, this one among them if it is there.

        One of a node that has just come is known with the next look at them.
        """
        cluster = self._cluster
        for look in range(_LOOKS):
            if self._backend.knows(device, cluster.facts):
                break
            if look:
                await asyncio.sleep(_PAUSE)
            with suppress(KubernetesError):  # looked at again
                await (
                    cluster.refresh(0.0, slices=True, nodes=_OLD) if look else cluster.read_gpus()
                )
        return cluster.facts

    def _pod(self, labels: Labels) -> Object:
        settings = self._cluster.settings
        facts = self._cluster.facts_for(self.size)
        where = settings.profile(self.size).placement + self._backend.placement(self.asked, facts)
        # Others have their say in where the kernel's pod goes: a patch, Kueue, admission.
        kernel = (self._cluster.pod(self._kernel) or {}).get("spec") or {}
        selector = {**where.node_selector, **settings.node_selector}
        selector |= kernel.get("nodeSelector") or {}
        tolerations = [*settings.tolerations, *where.tolerations, GPU_TOLERATION]
        tolerations += [one for one in kernel.get("tolerations") or [] if one not in tolerations]
        on_nodes = (kernel.get("affinity") or {}).get("nodeAffinity")
        metadata = labels.metadata(
            self.name, "lease", size=str(self.asked), instance=self.owner.instance
        )
        metadata["annotations"] |= UNDISTURBED
        metadata["ownerReferences"] = [dict(self._owned_by)]
        spec: Object = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                # Which user is the image's matter, or that of OpenShift, which allows no other.
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "lease",
                    "image": settings.lease_image,
                    "imagePullPolicy": settings.image_pull_policy,
                    "resources": {
                        "requests": {"cpu": "1m", "memory": "4Mi"},
                        "claims": [{"name": "gpu"}],
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
            "resourceClaims": [{"name": "gpu", "resourceClaimName": self.name}],
        }
        # Where no server is left that deletes the ended pod of the kernel, its lease would stay.
        life = settings.longest_life
        for key, value in (
            ("activeDeadlineSeconds", life + _LONGER if life else None),
            ("serviceAccountName", settings.service_account),
            # Its image may be in the same registry, and it may not be put off a node sooner.
            ("imagePullSecrets", kernel.get("imagePullSecrets") or settings.pull_secrets),
            ("priorityClassName", kernel.get("priorityClassName")),
            ("nodeSelector", selector),
            ("tolerations", tolerations),
            ("affinity", {"nodeAffinity": on_nodes} if on_nodes else None),
        ):
            if value:
                spec[key] = value
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    # -- what has become of them -------------------------------------------------------------

    def _objects(self) -> dict[str, Object]:
        return self._cluster.claims.objects if self._cluster.claims is not None else {}

    def _device_of(self, name: str) -> tuple[str, str] | None:
        claim = self._objects().get(name)
        return self._backend.device_of(claim) if claim is not None else None

    def _resting(self, facts: Facts) -> int:
        """Bytes that the kernel's own claim holds, whether its share is there or away."""
        own = self._objects().get(self._own)
        if own is None or self.device is None:
            return 0
        return self._backend.held_on(own, self.device, facts)

    async def _allocated(self, report: Report, until: Until) -> tuple[str, str]:
        """Wait until the last lease that was asked for has its device: which one that is.

        Raises
        ------
        KernelStartError: somebody else has ended it meanwhile.
        """
        place = partial(self._cluster.place, self.name)
        wait = Wait(self._backend, report, place, self._cluster.events.words)
        there = False  # the watch has seen it

        def look() -> tuple[str, str] | None:
            nonlocal there
            device = self._device_of(self.name)
            pod = self._cluster.pod(self.name)
            there |= pod is not None
            if self.name in self._held:  # else it was given up, and so is this wait
                if pod is not None and (ended := failures.end_of(pod, None)) is not None:
                    raise KernelStartError(ended.text)
                if pod is None and there:
                    raise KernelStartError(
                        "What waited for the kernel's share was deleted in the cluster. Try again."
                    )
            if pod is not None and not device:
                wait.tell(pod)
            return device

        device: tuple[str, str] = await until(look)
        return device

    def _telling(self, kernel: str, report: Report) -> Callable[[], None]:
        """Tells why the kernel's pod waits, if it does for long: its node may lack more than GPUs.

        What the scheduler has said before the claim was there is over soon.
        """
        cluster, place = self._cluster, partial(self._cluster.place, self.name)
        wait = Wait(self._backend, report, place, cluster.events.words, patient=True)

        def tell() -> None:
            if (pod := cluster.pod(kernel)) is not None:
                wait.tell(pod)

        return tell

    async def _refused(self, kernel: str, report: Report, until: Until) -> bool:
        """Whether the kernel's claim cannot be allocated, the lease having filled the device."""
        tell = self._telling(kernel, report)

        def look() -> bool | None:
            if self._device_of(self._own) is not None:
                return False
            pod = self._cluster.pod(kernel)
            words = failures.unschedulable(pod) if pod is not None else None
            if words is not None and "cannot allocate" in words:
                return True
            tell()
            return None

        refused: bool = await until(look)
        return refused
