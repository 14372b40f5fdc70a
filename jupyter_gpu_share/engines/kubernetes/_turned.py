"""The objects of a kernel of another process's, made by whoever makes those of all servers.

They wait for their turn before a scheduler sees them, and who made them may be another process
than the one that goes on with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ...errors import EngineError
from ..base import Report
from . import _failures as failures
from ._annotation import Annotation
from ._cluster import Cluster
from ._kernel_objects import KernelObjects, running_at
from ._making import gated_for_turn, let, make
from ._names import KERNEL, PART, label
from ._objects import KernelPlan, Owner
from .api import PODS, SECRETS, NotFound

__all__ = ["TurnedObjects", "Unfinished"]

#: Waits until a kernel may be shown to a scheduler, and tells of that wait.
Turn = Callable[[Report], Awaitable[None]]


class Unfinished(EngineError):  # noqa: N818
    """A start that an earlier process has left half done, and that cannot be gone on with."""


class TurnedObjects(KernelObjects):
    """See :class:`KernelObjects`.

    Parameters
    ----------
    turn: waited for before the scheduler sees the kernel; None: it sees all at once.
    """

    def __init__(
        self,
        cluster: Cluster,
        owner: Owner,
        plan: KernelPlan,
        name: str = "",
        *,
        turn: Turn | None = None,
    ) -> None:
        super().__init__(cluster, owner, plan, name)
        self._turn = turn if not plan.size.is_none else None

    async def _make(self) -> None:
        plan, labels, later = self.plan, self._labels(), self._turn is not None
        pod = await self.writes.once(
            lambda: make(
                self.cluster,
                self.owner,
                plan,
                self.name,
                self.rendered,
                self._claims,
                labels,
                later=later,
            )
        )
        self._owns(pod)

    async def come_up(self, report: Report) -> str:
        """See :meth:`KernelObjects.come_up`; the kernel's turn comes first."""
        if self._turn is not None:
            await self._its_turn(self._turn, report)
            pod = await self.cluster.api.get(PODS, self.name, self.cluster.namespace)
            labels = self._labels()
            await self.writes.once(
                lambda: let(self.cluster, pod, self.rendered, self._claims, labels)
            )
        return await super().come_up(report)

    async def _its_turn(self, turn: Turn, report: Report) -> None:
        """Wait for the turn, or until the pod has ended.

        Raises
        ------
        EngineError
        """
        waiting = asyncio.ensure_future(turn(report))
        waiting.add_done_callback(lambda _: self._attention.rouse())
        try:
            await self.until(lambda: True if waiting.done() else None)
            await waiting
        finally:
            waiting.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await waiting

    # -- after another process ---------------------------------------------------------------

    @property
    def shown(self) -> bool:
        """Whether a scheduler has seen the kernel that an earlier process has made."""
        pod = self.cluster.pod(self.name)
        if pod is None or self.plan.size.is_none or pod["spec"].get("nodeName"):
            return True
        if self.cluster.settings.style == "lease":
            own = self.cluster.own_claims(self.owner.server)
            return any(
                label(claim, PART) == "lease" and label(claim, KERNEL) == label(pod, KERNEL)
                for claim in own.values()
            )
        wanted = {each["resourceClaimName"] for each in pod["spec"].get("resourceClaims") or []}
        return not gated_for_turn(pod) and wanted <= self._found_claims().keys()

    async def resume(self, report: Report) -> str:
        """Go on with a pod that an earlier process has made for the same owner.

        The address is returned when the container runs, with the share found, or found to be given
        back. Nothing is written that is written already.

        Raises
        ------
        Unfinished: it was not made to its end, and cannot be any more: its keys are lost.
        KernelStartError, NoGpuError, EngineError
        """
        pod = self.cluster.pod(self.name)
        if pod is None:
            raise Unfinished(_HALF_DONE)
        self.made = True
        self._owns(pod)
        self._claims = {name.removeprefix(f"{self.name}-"): name for name in self._found_claims()}
        size, style = self.plan.size, self.cluster.settings.style
        if (address := running_at(pod)) is not None:
            if style == "annotation" and not size.is_none:
                self.annotation = Annotation(self.cluster, self.name, self.writes)
                await self.annotation.adopt()
            if style == "lease" and not size.is_none:
                lease = self._new_lease()
                await lease.adopt(self.name)
                self.lease = lease
            self._up = True
            if not self._take_share() and not self.lent:
                raise EngineError(failures.end_of_lease(None, None).text)
            return address
        try:
            await self.cluster.api.get(SECRETS, self.name, self.cluster.namespace)
        except NotFound:
            raise Unfinished(_HALF_DONE) from None
        if not size.is_none:
            self.rendered = await self.cluster.render(size)
            if style == "lease":
                if self._claims:
                    # Between its lease and its place: which is whose cannot be told any more.
                    raise Unfinished(_HALF_DONE)
                lease = self._new_lease()
                await lease.adopt(self.name)
                await lease.withdraw()  # it asks for its share anew
            elif {each.name for each in self.rendered.claims} - self._claims.keys():
                self._claims = {
                    each.name: f"{self.name}-{each.name}" for each in self.rendered.claims
                }
        return await self.come_up(report)

    def _found_claims(self) -> dict[str, object]:
        found = self.cluster.own_claims(self.owner.server, f"{self.name}-")
        return dict(found)


_HALF_DONE = (
    "The broker was started again while it made this kernel, and what it is reached by is lost. It "
    "is started again."
)
