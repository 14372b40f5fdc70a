"""The engine ``kubernetes``: kernels as pods of a cluster."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from ..._threads import to_the_end
from ...allocations import Allocation, QueuePosition, Share
from ...errors import EngineError, GpuShareError, NoGpuError, SizeError
from ...sentences import say
from ...size import Size
from ..base import (
    Adoptable,
    Capacity,
    Change,
    Exit,
    Finding,
    KernelRequest,
    Removal,
    Report,
    Running,
    Snapshot,
    Usage,
    Waiting,
)
from . import _doctor
from ._annotation import Annotation
from ._cluster import Cluster, Object
from ._kernel import PodKernel, size_of
from ._lease import Lease
from ._link import Owned
from ._names import PART, SERVER, annotation, label
from ._ownership import TAKEN_OVER
from ._pods import address_of, connection_of
from ._queue import waits
from ._rows import rows
from ._settings import KubernetesSettings
from ._snapshot import without
from ._sweeper import Sweeper
from ._wanted import wanted
from .api import PODS, SECRETS, Conflict, Forbidden, NotFound
from .api import Change as ObjectChange
from .backends import Facts

__all__ = ["KubernetesEngine"]

#: Seconds that closing waits for an API that does not answer.
_CLOSE_PATIENCE = 5.0


class KubernetesEngine(KubernetesSettings):
    """Runs kernels in pods. Truth lives in the cluster; this is one server's view of it."""

    name: ClassVar[str] = "kubernetes"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._cluster: Cluster | None = None
        self._opening = asyncio.Lock()
        self._kernels: dict[str, PodKernel] = {}
        #: Kernels whose pod waits for a place: they are told of every change of the queue.
        self._waiting: set[str] = set()
        self._sweeper: Sweeper | None = None
        #: Kernels that were ended, if perhaps not yet for sure.
        self._leaving: set[PodKernel] = set()
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
        return kernel is not None and kernel.owns(pod)

    def _changed(self, change: ObjectChange) -> None:
        kernel_id = annotation(change.new or change.old, "kernel-id")
        if kernel := self._kernels.get(kernel_id):
            if change.old is None:
                kernel.appeared(change.name)
            kernel.note(change.old if change.new is None else None)
        part = "lease" if self.style == "lease" else "kernel"
        if waits(change.old, part) != waits(change.new, part):
            self._queue_moved(but=kernel_id)

    def _queue_moved(self, but: str = "") -> None:
        """Have those kernels look that wait for a place."""
        for kernel_id in self._waiting - {but}:
            if waiter := self._kernels.get(kernel_id):
                waiter.note()

    # -- start and end -----------------------------------------------------------------------

    async def start(self, request: KernelRequest, report: Report) -> Running:
        """See :meth:`Engine.start <jupyter_gpu_share.engines.base.Engine.start>`."""
        cluster = await self._opened()
        kernel = self._kernels.get(request.kernel_id)
        if kernel is not None and kernel.alive and kernel.request.size == request.size:
            try:
                return await kernel.restart(request, report)
            except BaseException:
                await to_the_end(self.stop(request.kernel_id))
                raise
        if kernel is not None:
            await self.stop(request.kernel_id)
        await self._left(request.kernel_id, report)
        kernel = self._kernels[request.kernel_id] = PodKernel(cluster, request)
        self._waiting.add(request.kernel_id)
        found = self._found.pop(request.kernel_id, None)
        try:
            if (pod := await self._earlier(cluster, request)) is not None:
                name, before = pod["metadata"]["name"], annotation(pod, "instance")
                return await kernel.adopt(name, before, report)
            if found == request.key:
                raise Owned(TAKEN_OVER)  # since it was found: it is not to be there twice
            return await kernel.start(report)
        except BaseException as error:
            if isinstance(error, GpuShareError) and kernel.link is not None:
                words = await kernel.last_words()
                if words:
                    self.log.warning("Kernel %s printed last:\n%s", request.kernel_id, words)
            await to_the_end(self.stop(request.kernel_id))
            raise
        finally:
            self._waiting.discard(request.kernel_id)

    async def _left(self, kernel_id: str, report: Report) -> None:
        """Wait until the cluster has told that earlier pods of the kernel are to end."""
        for kernel in [each for each in self._leaving if each.request.kernel_id == kernel_id]:
            if kernel.writes.pending:
                report(Waiting(QueuePosition(1, 1), say("outcome-unknown")))
            await kernel.writes.settled()

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

    async def wait(self, kernel_id: str) -> Exit:
        """See :meth:`Engine.wait <jupyter_gpu_share.engines.base.Engine.wait>`."""
        kernel = self._kernels.get(kernel_id)
        return await kernel.ended() if kernel is not None else Exit(0, say("no-process"))

    async def removed(self, kernel_id: str) -> Removal:
        """See :meth:`Engine.removed <jupyter_gpu_share.engines.base.Engine.removed>`."""
        kernel = self._kernels.get(kernel_id)
        if kernel is None:
            return await super().removed(kernel_id)
        return await kernel.parting.wait()

    def removal(self, kernel_id: str) -> Removal | None:
        """See :meth:`Engine.removal <jupyter_gpu_share.engines.base.Engine.removal>`."""
        kernel = self._kernels.get(kernel_id)
        return kernel.parting.removal if kernel is not None else None

    async def let_go(self, kernel_id: str) -> None:
        """See :meth:`Engine.let_go <jupyter_gpu_share.engines.base.Engine.let_go>`."""
        if kernel := self._kernels.get(kernel_id):
            kernel.parting.let_go()

    async def signal(self, kernel_id: str, signum: int, *, alone: bool = False) -> None:
        """See :meth:`Engine.signal <jupyter_gpu_share.engines.base.Engine.signal>`."""
        kernel = self._kernels.get(kernel_id)
        if kernel is not None:
            await kernel.signal(signum, alone=alone)

    async def stop(self, kernel_id: str, *, keep_share: bool = False) -> None:
        """See :meth:`Engine.stop <jupyter_gpu_share.engines.base.Engine.stop>`."""
        kernel = self._kernels.get(kernel_id)
        if kernel is None:
            return
        if keep_share and kernel.alive:
            await kernel.end_process()
            return
        self._kernels.pop(kernel_id, None)
        self._leaving.add(kernel)
        await kernel.unlink()
        await kernel.delete()
        self._leaving = {each for each in self._leaving if each.made}

    async def note_path(self, kernel_id: str, path: str | None) -> None:
        """See :meth:`Engine.note_path <jupyter_gpu_share.engines.base.Engine.note_path>`."""
        if kernel := self._kernels.get(kernel_id):
            await kernel.note_path(path)

    # -- shares of living kernels ------------------------------------------------------------

    def detachable(self, kernel_id: str) -> bool:
        """See :meth:`Engine.detachable <jupyter_gpu_share.engines.base.Engine.detachable>`."""
        kernel = self._kernels.get(kernel_id)
        return kernel is not None and kernel.holder is not None

    async def give_back(self, kernel_id: str) -> None:
        """See :meth:`Engine.give_back <jupyter_gpu_share.engines.base.Engine.give_back>`."""
        await to_the_end(self._holder(kernel_id).drop())

    def unanswered(self, kernel_id: str) -> bool:
        """See :meth:`Engine.unanswered <jupyter_gpu_share.engines.base.Engine.unanswered>`."""
        kernels = [*self._kernels.values(), *self._leaving]
        return any(
            kernel.writes.pending for kernel in kernels if kernel.request.kernel_id == kernel_id
        )

    async def take_back(self, kernel_id: str, report: Report) -> Share:
        """See :meth:`Engine.take_back <jupyter_gpu_share.engines.base.Engine.take_back>`."""
        holder = self._holder(kernel_id)
        kernel = self._kernels[kernel_id]
        self._waiting.add(kernel_id)
        try:
            await holder.retake(report, kernel.until)
        except BaseException:
            await to_the_end(holder.withdraw())
            raise
        finally:
            self._waiting.discard(kernel_id)
        assert kernel.share is not None
        return kernel.share

    async def plan_change(self, kernel_id: str, size: Size) -> Change | None:
        """See :meth:`Engine.plan_change <jupyter_gpu_share.engines.base.Engine.plan_change>`."""
        kernel = self._kernels.get(kernel_id)
        return await kernel.planned(size) if kernel is not None else None

    async def change(self, kernel_id: str, size: Size) -> Share:
        """See :meth:`Engine.change <jupyter_gpu_share.engines.base.Engine.change>`."""
        kernel = self._kernels.get(kernel_id)
        if kernel is None:
            raise EngineError(say("no-process"))
        return await kernel.change(size)

    async def limits(self, kernel_id: str) -> Mapping[str, str | None]:
        """See :meth:`Engine.limits <jupyter_gpu_share.engines.base.Engine.limits>`."""
        kernel = self._kernels.get(kernel_id)
        return kernel.limits() if kernel is not None and kernel.share is not None else {}

    def _holder(self, kernel_id: str) -> Lease | Annotation:
        kernel = self._kernels.get(kernel_id)
        if kernel is None or kernel.holder is None:
            raise EngineError("The kernel's share is part of its pod; it cannot be given back.")
        return kernel.holder

    # -- readings ----------------------------------------------------------------------------

    async def usage(self, busy: frozenset[str]) -> dict[str, Usage]:
        """See :meth:`Engine.usage <jupyter_gpu_share.engines.base.Engine.usage>`."""
        result: dict[str, Usage] = {}
        for kernel_id, kernel in list(self._kernels.items()):
            state = kernel.link.state if kernel.link is not None else None
            if state is None or kernel.supervisor is None or not kernel.share:
                continue
            verdict = kernel.supervisor.judge(state.used_bytes, busy=kernel_id in busy)
            if verdict.interrupt:
                await self.signal(kernel_id, signal.SIGINT)
            result[kernel_id] = Usage(state.used_bytes, state.utilization, verdict.notice)
        return result

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
        return rows(await self._opened(), self.name)

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
            own = {kernel.name} | kernel.claim_names | kernel.own_claims
            facts = without(facts, cluster.namespace, own)
        answers = []
        for size in sizes:
            await asyncio.sleep(0)  # with thousands of nodes all sizes together take a while
            answers.append(_why_not(cluster, size, facts))
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
        return await wanted(cluster, self._kernels, placements)

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
                    await cluster.api.delete(
                        PODS,
                        pod["metadata"]["name"],
                        cluster.namespace,
                        grace=1,
                        uid=pod["metadata"]["uid"],
                        version=pod["metadata"]["resourceVersion"],
                    )
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
        return _adoptable(pod, cluster.server) and all(name != each.name for each in self._leaving)

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
        await asyncio.gather(*(self.stop(kernel_id) for kernel_id in list(self._kernels)))
        if leaving := [kernel.writes for kernel in self._leaving]:
            await asyncio.gather(*(writes.settled(_CLOSE_PATIENCE) for writes in leaving))
            await asyncio.gather(*(writes.close() for writes in leaving))
        if self._sweeper is not None:
            await self._sweeper.close()
        if self._cluster is not None:
            cluster, self._cluster = self._cluster, None
            await cluster.close()


def _adoptable(pod: Object, server: str) -> bool:
    return (
        label(pod, PART) == "kernel"
        and label(pod, SERVER) == server
        and not pod["metadata"].get("deletionTimestamp")
        and (pod.get("status") or {}).get("phase") == "Running"
        and bool(address_of(pod))
    )


def _why_not(cluster: Cluster, size: Size, facts: Facts) -> str | None:
    """Why a size cannot be had at once; None if it can."""
    if size.is_none:
        return None
    try:
        facts = cluster.facts_for(size, facts)
        cluster.backend.render(size, facts)
        room = cluster.backend.room(size, facts)
    except NoGpuError as error:
        return str(error)
    if room >= size.count:
        return None
    if cluster.backend.reads & facts.missing:
        return None  # what is free is not known to this server: the scheduler will tell
    return f"No GPU of the cluster has {size} free now."
