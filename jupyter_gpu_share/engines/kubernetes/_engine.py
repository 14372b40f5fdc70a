"""The engine ``kubernetes``: kernels as pods of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

from ...allocations import Allocation
from ...errors import GpuShareError, SizeError
from ...size import Size
from ..base import (
    Adoptable,
    Capacity,
    Finding,
    KernelRequest,
    Report,
    Running,
    Snapshot,
)
from . import _doctor
from ._as_read import delete_as_read
from ._cluster import Cluster, Object
from ._fitting import why_not
from ._kernel import Inside, PodKernel
from ._kernel_objects import KernelObjects
from ._link import Owned
from ._making import image_of
from ._names import PART, SERVER, annotation, label
from ._objects import KernelPlan, Owner
from ._ownership import TAKEN_OVER
from ._pod_engine import PodEngine
from ._pods import address_of, connection_of, size_of
from ._queue import waits
from ._rows import rows
from ._settings import KubernetesSettings
from ._snapshot import without
from ._sweeper import Sweeper
from ._wanted import wanted
from .api import PODS, SECRETS, Conflict, Forbidden, NotFound
from .api import Change as ObjectChange

__all__ = ["KubernetesEngine"]


class KubernetesEngine(PodEngine, KubernetesSettings):
    """Runs kernels in pods. Truth lives in the cluster; this is one server's view of it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._cluster: Cluster | None = None
        self._opening = asyncio.Lock()
        self._sweeper: Sweeper | None = None
        #: Keys of kernels that were found to be taken over, by their ids.
        self._found: dict[str, bytes] = {}

    # -- the cluster -------------------------------------------------------------------------

    async def _opened(self) -> Cluster:
        """The cluster, got to know when it is first needed.

        Raises
        ------
        KubernetesError, EngineError
        """
        async with self._opening:
            if self._cluster is None:
                cluster = Cluster(self, self._changed, self._queue_moved)
                try:
                    await cluster.open()
                    self._sweeper = Sweeper(cluster, self._runs)
                    await self._sweeper.start()
                except BaseException:
                    await cluster.close()
                    raise
                self._cluster = cluster
            return self._cluster

    def _runs(self, pod: Object) -> bool:
        """Whether a pod is of a kernel that this process runs."""
        kernel = self._kernels.get(annotation(pod, "kernel-id"))
        return kernel is not None and _objects_of(kernel).owns(pod)

    def _changed(self, change: ObjectChange) -> None:
        kernel_id = annotation(change.new or change.old, "kernel-id")
        if kernel := self._kernels.get(kernel_id):
            objects = _objects_of(kernel)
            if change.old is None:
                objects.appeared(change.name)
            objects.look(change.old if change.new is None else None)
        part = "lease" if self.style == "lease" else "kernel"
        if waits(change.old, part) != waits(change.new, part):
            self._queue_moved(but=kernel_id)

    def _queue_moved(self, but: str = "") -> None:
        """Have those kernels look that wait for a place."""
        for kernel_id in self._waiting - {but}:
            if waiter := self._kernels.get(kernel_id):
                _objects_of(waiter).look()

    # -- start -------------------------------------------------------------------------------

    async def _new_kernel(self, request: KernelRequest) -> PodKernel:
        cluster = await self._opened()
        owner = Owner(cluster.server, cluster.instance, request.user or "")
        objects = KernelObjects(cluster, owner, KernelPlan.of(request, encrypt=self.encrypt))
        inside = Inside(
            instance=cluster.instance,
            python=self.python,
            renewal=self.renewal,
            allowed_environment=self.allowed_environment,
            zmq=cluster.zmq,
            image_of=partial(image_of, self),
        )
        return PodKernel(objects, request, inside)

    async def _begin(self, kernel: PodKernel, report: Report) -> Running:
        cluster, request = await self._opened(), kernel.request
        found = self._found.pop(request.kernel_id, None)
        if (pod := await self._earlier(cluster, request)) is not None:
            _objects_of(kernel).name = pod["metadata"]["name"]
            return await kernel.adopt(annotation(pod, "instance"), report)
        if found == request.key:
            raise Owned(TAKEN_OVER)  # since it was found: it is not to be there twice
        return await kernel.start(report)

    async def _earlier(self, cluster: Cluster, request: KernelRequest) -> Object | None:
        """A pod in which the kernel runs already, with the keys of the request.

        The process whose it is has ended, or is this one, which has let go of it.
        """
        for name, pod in list(cluster.pods.objects.items()):
            if (
                annotation(pod, "kernel-id") != request.kernel_id
                or not self._adoptable(pod, cluster)
                or size_of(pod) != request.size
                or not await self._ownerless(pod, cluster)
            ):
                continue
            try:
                secret = await cluster.api.get(SECRETS, name, cluster.namespace)
                if connection_of(secret, "").key == request.key:
                    return pod
            except (Forbidden, NotFound, ValueError):
                continue
        return None

    # -- readings ----------------------------------------------------------------------------

    async def capacity(self) -> list[Capacity]:
        """See :meth:`Engine.capacity <jupyter_gpu_share.engines.base.Engine.capacity>`."""
        return await (await self._opened()).capacity()

    async def gpus(self, *, known: bool = False) -> list[Capacity]:
        """See :meth:`Engine.gpus <jupyter_gpu_share.engines.base.Engine.gpus>`."""
        cluster = await self._opened()
        facts = cluster.facts if known else await cluster.refresh(slices=True)
        return cluster.backend.capacity(facts)

    async def allocations(self) -> list[Allocation]:
        """Kernels of this server, of its other and earlier processes too.

        Other servers' kernels are other people's, and are not shown.
        """
        cluster = await self._opened()
        return rows(cluster, cluster.server, self.name)

    async def fits(self, kernel_id: str | None, size: Size) -> str | None:
        """See :meth:`Engine.fits <jupyter_gpu_share.engines.base.Engine.fits>`."""
        return (await self.fits_each(kernel_id, [size]))[0]

    async def fits_each(self, kernel_id: str | None, sizes: Sequence[Size]) -> list[str | None]:
        """See :meth:`Engine.fits_each <jupyter_gpu_share.engines.base.Engine.fits_each>`."""
        if all(size.is_none for size in sizes):
            return [None] * len(sizes)
        cluster = await self._opened()
        facts = await cluster.refresh()
        if kernel := self._kernels.get(kernel_id or ""):
            objects = _objects_of(kernel)
            own = {objects.name} | objects.claim_names | objects.own_claims
            facts = without(facts, cluster.namespace, own)
        answers = []
        for size in sizes:
            await asyncio.sleep(0)  # with thousands of nodes all sizes together take a while
            answers.append(why_not(cluster, size, facts))
        return answers

    async def snapshot(self) -> Snapshot | None:
        """See :meth:`Engine.snapshot <jupyter_gpu_share.engines.base.Engine.snapshot>`.

        Those wait for a GPU whom the scheduler has turned away. Only kernels of this process hold
        something in it that can be freed.
        """
        cluster = self._cluster
        if cluster is None:
            return None
        placements = {size: profile.placement for size, profile in self.profiles.items()}
        kernels = {kernel_id: _objects_of(one) for kernel_id, one in self._kernels.items()}
        return await wanted(cluster, kernels, placements)

    async def rounding(self, size: Size) -> str:
        """See :meth:`Engine.rounding <jupyter_gpu_share.engines.base.Engine.rounding>`."""
        if size.is_none:
            return ""
        cluster = await self._opened()
        return cluster.backend.render(size, cluster.facts_for(size)).note

    @property
    def sharing(self) -> tuple[str | None, str | None]:
        """See :attr:`Engine.sharing <jupyter_gpu_share.engines.base.Engine.sharing>`."""
        if self._cluster is None:
            return None, None
        return None if self._cluster.undecided else self._cluster.backend.name, self.style

    @property
    def place(self) -> str:
        """See :attr:`Engine.place <jupyter_gpu_share.engines.base.Engine.place>`."""
        if self._cluster is None:
            return ""
        return f"{self._cluster.api.access}, namespace {self._cluster.namespace!r}"

    async def adoptable(self) -> list[Adoptable]:
        """See :meth:`Engine.adoptable <jupyter_gpu_share.engines.base.Engine.adoptable>`."""
        cluster = await self._opened()
        found = []
        for pod in list(cluster.pods.objects.values()):
            kernel_id = annotation(pod, "kernel-id")
            if not self._adoptable(pod, cluster) or kernel_id in self._kernels:
                continue
            if not await self._ownerless(pod, cluster):
                continue
            if not self.adopt:
                with suppress(Conflict):  # it has changed, and is looked at again
                    await delete_as_read(cluster, PODS, pod, grace=1)
                continue
            try:
                secret = await cluster.api.get(SECRETS, pod["metadata"]["name"], cluster.namespace)
                connection = connection_of(secret, "")
                size = size_of(pod)
            except (Forbidden, NotFound, ValueError, SizeError) as error:
                self.log.warning("A running kernel cannot be taken over: %s", error)
                continue
            found.append(
                Adoptable(
                    kernel_id=kernel_id,
                    kernel_name=annotation(pod, "kernel-name"),
                    size=size,
                    key=connection.key,
                    signature_scheme=connection.signature_scheme,
                    path=annotation(pod, "path") or None,
                )
            )
        self._found = {each.kernel_id: each.key for each in found}
        return found

    def _adoptable(self, pod: Object, cluster: Cluster) -> bool:
        name = pod["metadata"]["name"]
        return _adoptable(pod, cluster.server) and all(
            name != each.objects.name for each in self._leaving
        )

    async def _ownerless(self, pod: Object, cluster: Cluster) -> bool:
        """Whether no process runs the kernel of a pod that this one does not run."""
        assert self._sweeper is not None
        if annotation(pod, "instance") != cluster.instance:
            return not await self._sweeper.owner_alive(pod)
        # This one has let go of it, and may have deleted it: the watch can be behind that.
        try:
            now = await cluster.api.get(PODS, pod["metadata"]["name"], cluster.namespace)
        except NotFound:
            return False
        return self._adoptable(now, cluster)

    async def diagnose(self) -> list[Finding]:
        """See :meth:`Engine.diagnose <jupyter_gpu_share.engines.base.Engine.diagnose>`."""
        try:
            cluster = await self._opened()
        except GpuShareError as error:
            return [Finding("error", str(error), _doctor.how_to_reach(error))]
        return await _doctor.examine(cluster)

    async def close(self) -> None:
        """See :meth:`Engine.close <jupyter_gpu_share.engines.base.Engine.close>`."""
        try:
            await self._stop_all()
            if self._sweeper is not None:
                await self._sweeper.close()
        finally:  # whoever waits for this may not wait for a cluster that is away
            cluster, self._cluster = self._cluster, None
            if cluster is not None:
                await cluster.close()


def _objects_of(kernel: PodKernel) -> KernelObjects:
    """They are made here, with this server's own rights."""
    return cast("KernelObjects", kernel.objects)


def _adoptable(pod: Object, server: str) -> bool:
    return (
        label(pod, PART) == "kernel"
        and label(pod, SERVER) == server
        and not pod["metadata"].get("deletionTimestamp")
        and (pod.get("status") or {}).get("phase") == "Running"
        and bool(address_of(pod))
    )
