"""Style ``lease``: the share is held beside the kernel, which itself requests none.

A tiny pod holds the claim that counts. The kernel's pod uses the same device through a claim with
administrator access, which is not counted: the share can go and come back while the kernel lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from ...allocations import QueuePosition
from ...errors import EngineError
from ..base import KernelRequest, Report, Waiting
from . import _failures as failures
from ._cluster import Cluster, Object
from ._names import object_name
from ._pods import Labels, claim_body
from .api import CLAIMS, PODS
from .backends import DraBackend

__all__ = ["Lease"]

Until = Callable[[Callable[[], Any]], Awaitable[Any]]


class Lease:
    """The object that holds the share of one kernel.

    Parameters
    ----------
    labels: of the kernel's objects.
    owned_by: reference to the kernel's pod: the lease goes with it.
    """

    def __init__(
        self,
        cluster: Cluster,
        request: KernelRequest,
        labels: Labels,
        owned_by: Mapping[str, Any],
    ) -> None:
        if not isinstance(cluster.backend, DraBackend):
            raise EngineError("Style 'lease' needs the backend dra.")
        self._cluster = cluster
        self._backend: DraBackend = cluster.backend
        self._size = request.size
        self._labels = labels
        self._owner = owned_by
        self._base = object_name(cluster.server, request.kernel_id, "lease")
        #: Name of the lease's pod and claim, which changes with every lease; empty: none is held.
        self.name = ""
        self.device: tuple[str, str] | None = None
        self._seen = False  # of the lease that is named: its pod with its allocation
        self._dropping = False

    @property
    def claim_names(self) -> set[str]:
        """Names of the claims that count."""
        return {self.name} if self.name else set()

    @property
    def lent(self) -> bool:
        """Whether the share was given back, or never held."""
        return not self.name

    def adopt(self, kernel: str) -> None:
        """Find the lease of a kernel that is taken over; it may have given its share back."""
        self.device = self._device_of(f"{kernel}-gpu")
        for name, claim in self._cluster.own_claims(f"{self._base}-").items():
            if self._backend.device_of(claim):
                self.name = name
                self.device = self._backend.device_of(claim)

    def taken_away(self, gone: Object | None = None) -> failures.Cause | None:
        """Why the share is held no more, if somebody else has ended that.

        ``gone`` is an object that was deleted just now.
        """
        if not self.name or self._dropping:
            return None
        pod = self._cluster.pod(self.name)
        held = (
            pod is not None
            and failures.end_of(pod, None) is None
            and self._device_of(self.name) is not None
        )
        self._seen = self._seen or held
        return failures.end_of_lease(pod, gone) if self._seen and not held else None

    async def acquire(self, kernel: str, report: Report, until: Until) -> None:
        """Hold the share, and give the kernel's pod the device that it lies on.

        Waits in the scheduler's queue as long as it takes.
        """
        await self._post(None)
        self.device = await self._allocated(report, until)
        await self._claim_for(kernel)
        if await self._refused(kernel, until):
            # Administrator access takes nothing, but at the moment when it is allocated its
            # minimum has to be free; the lease itself has filled the device. It steps aside.
            device = self.device
            await self.drop()
            await until(lambda: self._device_of(f"{kernel}-gpu"))
            await self._post(device)
            self.device = await self._allocated(report, until)

    async def drop(self) -> None:
        """Give the share back. The kernel's pod stays as it is."""
        if not self.name:
            return
        space = self._cluster.namespace
        self._dropping = True
        try:
            await asyncio.gather(
                self._cluster.api.delete(PODS, self.name, space, grace=0),
                self._cluster.api.delete(CLAIMS, self.name, space),
            )
            self.name = ""
        finally:
            self._dropping = self._seen = False

    async def retake(self, report: Report, until: Until) -> None:
        """Hold the share again, on the device that the kernel's pod has."""
        await self._post(self.device)
        await self._allocated(report, until)

    # -- the objects -------------------------------------------------------------------------

    async def _post(self, device: tuple[str, str] | None) -> None:
        """Create the lease: a claim, and a pod that has it reserved."""
        spec, _, _ = self._backend.claim_spec(self._size, self._cluster.facts, device)
        self.name, self._seen = f"{self._base}-{uuid4().hex[:8]}", False
        labels = replace(self._labels, attempt=uuid4().hex)
        claim = claim_body(self.name, labels, spec, owned_by=self._owner, part="lease")
        await asyncio.gather(
            self._cluster.api.create(PODS, self._pod(labels), self._cluster.namespace),
            self._cluster.api.create(CLAIMS, claim, self._cluster.namespace),
        )

    async def _claim_for(self, kernel: str) -> None:
        """Give the kernel's pod access to the device of the lease."""
        assert self.device is not None
        spec = self._backend.admin_spec(self.device, self._cluster.facts)
        labels = replace(self._labels, attempt=uuid4().hex)
        body = claim_body(f"{kernel}-gpu", labels, spec, owned_by=self._owner)
        await self._cluster.api.create(CLAIMS, body, self._cluster.namespace)

    def _pod(self, labels: Labels) -> Object:
        settings = self._cluster.settings
        metadata = labels.metadata(
            self.name, "lease", size=str(self._size), instance=self._cluster.instance
        )
        metadata["ownerReferences"] = [dict(self._owner)]
        spec: Object = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65535,
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
        for key, value in (
            ("serviceAccountName", settings.service_account),
            ("nodeSelector", dict(settings.node_selector)),
            ("tolerations", list(settings.tolerations)),
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

    async def _allocated(self, report: Report, until: Until) -> tuple[str, str]:
        told: Waiting | None = None

        def look() -> tuple[str, str] | None:
            nonlocal told
            device = self._device_of(self.name)
            pod = self._cluster.pod(self.name)
            words = failures.unschedulable(pod) if pod is not None and not device else None
            if words is not None:
                known = self._backend.explain(words)
                reason = known or failures.no_place(words)
                news = Waiting(self._place(), reason)
                if news != told:
                    told = news
                    report(news)
            return device

        device: tuple[str, str] = await until(look)
        return device

    async def _refused(self, kernel: str, until: Until) -> bool:
        """Whether the kernel's claim cannot be allocated, the lease having filled the device."""

        def look() -> bool | None:
            if self._device_of(f"{kernel}-gpu") is not None:
                return False
            pod = self._cluster.pod(kernel)
            words = failures.unschedulable(pod) if pod is not None else None
            return True if words is not None and "allocate" in words else None

        refused: bool = await until(look)
        return refused

    def _place(self) -> QueuePosition:
        waiting = self._cluster.waiting()
        position = waiting.index(self.name) + 1 if self.name in waiting else len(waiting) + 1
        return QueuePosition(position, max(len(waiting), position))
