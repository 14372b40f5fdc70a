"""What engines have in common whose kernels run in pods, whoever makes those."""

from __future__ import annotations

import asyncio
import signal
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from ..._threads import to_the_end
from ...allocations import QueuePosition, Share
from ...errors import EngineError, GpuShareError
from ...sentences import say
from ...size import Size
from ..base import Change, Engine, Exit, KernelRequest, Removal, Report, Running, Usage, Waiting
from ._kernel import PodKernel

__all__ = ["PodEngine"]

#: Seconds that closing waits for a cluster that does not answer.
_CLOSE_PATIENCE = 5.0


class PodEngine(Engine):
    """Runs kernels in pods."""

    name: ClassVar[str] = "kubernetes"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kernels: dict[str, PodKernel] = {}
        #: Kernels that wait for a share.
        self._waiting: set[str] = set()
        #: Kernels that were ended, if perhaps not yet for sure.
        self._leaving: set[PodKernel] = set()

    @abstractmethod
    async def _new_kernel(self, request: KernelRequest) -> PodKernel:
        """A kernel of which nothing is made yet.

        Raises
        ------
        EngineError
        """

    @abstractmethod
    async def _begin(self, kernel: PodKernel, report: Report) -> Running:
        """Have a new kernel run: in the pod that an earlier process has left, or in a new one.

        Raises
        ------
        KernelStartError, NoGpuError, EngineError: the kernel is stopped then.
        """

    # -- start and end -----------------------------------------------------------------------

    async def start(self, request: KernelRequest, report: Report) -> Running:
        """See :meth:`Engine.start <jupyter_gpu_share.engines.base.Engine.start>`."""
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
        kernel = await self._new_kernel(request)
        self._kernels[request.kernel_id] = kernel
        self._waiting.add(request.kernel_id)
        try:
            return await self._begin(kernel, report)
        except BaseException as error:
            if isinstance(error, GpuShareError) and kernel.link is not None:
                words = await kernel.objects.last_words()
                if words:
                    self.log.warning("Kernel %s printed last:\n%s", request.kernel_id, words)
            await to_the_end(self.stop(request.kernel_id))
            raise
        finally:
            self._waiting.discard(request.kernel_id)

    async def _left(self, kernel_id: str, report: Report) -> None:
        """Wait until the cluster has told that earlier pods of the kernel are to end."""
        for kernel in [each for each in self._leaving if each.request.kernel_id == kernel_id]:
            if kernel.objects.unanswered:
                report(Waiting(QueuePosition(1, 1), say("outcome-unknown")))
            await kernel.objects.settled()

    async def wait(self, kernel_id: str) -> Exit:
        """See :meth:`Engine.wait <jupyter_gpu_share.engines.base.Engine.wait>`."""
        kernel = self._kernels.get(kernel_id)
        return await kernel.ended() if kernel is not None else Exit(0, say("no-process"))

    async def removed(self, kernel_id: str) -> Removal:
        """See :meth:`Engine.removed <jupyter_gpu_share.engines.base.Engine.removed>`."""
        kernel = self._kernels.get(kernel_id)
        if kernel is None:
            return await super().removed(kernel_id)
        return await kernel.objects.removed()

    def removal(self, kernel_id: str) -> Removal | None:
        """See :meth:`Engine.removal <jupyter_gpu_share.engines.base.Engine.removal>`."""
        kernel = self._kernels.get(kernel_id)
        return kernel.objects.removal if kernel is not None else None

    async def let_go(self, kernel_id: str) -> None:
        """See :meth:`Engine.let_go <jupyter_gpu_share.engines.base.Engine.let_go>`."""
        if kernel := self._kernels.get(kernel_id):
            kernel.objects.let_go()

    async def signal(self, kernel_id: str, signum: int, *, alone: bool = False) -> None:
        """See :meth:`Engine.signal <jupyter_gpu_share.engines.base.Engine.signal>`."""
        if kernel := self._kernels.get(kernel_id):
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
        self._leaving = {each for each in self._leaving if each.objects.made}

    async def _stop_all(self) -> None:
        """End all kernels, and in the end also what is not answered."""
        await asyncio.gather(*(self.stop(kernel_id) for kernel_id in list(self._kernels)))
        if leaving := [kernel.objects for kernel in self._leaving]:
            await asyncio.gather(*(objects.settled(_CLOSE_PATIENCE) for objects in leaving))
            await asyncio.gather(*(objects.close() for objects in leaving))

    async def note_path(self, kernel_id: str, path: str | None) -> None:
        """See :meth:`Engine.note_path <jupyter_gpu_share.engines.base.Engine.note_path>`."""
        if kernel := self._kernels.get(kernel_id):
            await kernel.note_path(path)

    # -- shares of living kernels ------------------------------------------------------------

    def detachable(self, kernel_id: str) -> bool:
        """See :meth:`Engine.detachable <jupyter_gpu_share.engines.base.Engine.detachable>`."""
        kernel = self._kernels.get(kernel_id)
        return kernel is not None and kernel.objects.detachable

    async def give_back(self, kernel_id: str) -> None:
        """See :meth:`Engine.give_back <jupyter_gpu_share.engines.base.Engine.give_back>`."""
        await self._detachable(kernel_id).objects.give_back()

    def unanswered(self, kernel_id: str) -> bool:
        """See :meth:`Engine.unanswered <jupyter_gpu_share.engines.base.Engine.unanswered>`."""
        kernels = [*self._kernels.values(), *self._leaving]
        return any(
            kernel.objects.unanswered for kernel in kernels if kernel.request.kernel_id == kernel_id
        )

    async def take_back(self, kernel_id: str, report: Report) -> Share:
        """See :meth:`Engine.take_back <jupyter_gpu_share.engines.base.Engine.take_back>`."""
        kernel = self._detachable(kernel_id)
        self._waiting.add(kernel_id)
        try:
            return await kernel.take_back(report)
        finally:
            self._waiting.discard(kernel_id)

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

    def _detachable(self, kernel_id: str) -> PodKernel:
        kernel = self._kernels.get(kernel_id)
        if kernel is None or not kernel.objects.detachable:
            raise EngineError("The kernel's share is part of its pod; it cannot be given back.")
        return kernel

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
