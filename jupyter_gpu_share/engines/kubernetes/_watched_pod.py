"""One kernel's pod as the cluster tells of it: whether it is there, and how it ends."""

from __future__ import annotations

import asyncio
import signal as signals
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from ..base import Exit, Removal
from . import _failures as failures
from ._attention import Attention
from ._cluster import Cluster, Object
from ._drained import Unleased
from ._lease import Lease
from ._names import PART, SERVER, label, object_name
from ._objects import KernelPlan, Owner
from ._ownership import TAKEN_OVER, taken_over
from ._parting import Parting
from .backends import dig

__all__ = ["WatchedPod"]


class WatchedPod:
    """A pod and what holds its share, followed by who watches the cluster.

    The base of :class:`~._kernel_objects.KernelObjects`, which makes them. Whoever watches calls
    :meth:`look` and :meth:`appeared`, for the objects that :meth:`owns` says are its.

    Parameters
    ----------
    owner: whose they are.
    name: of the pod, where there is one already; else a new one.

    Attributes
    ----------
    plan: as the kernel is now: its size may have changed, and its keys are forgotten.
    lease: what holds the share beside the pod, in that style.
    lost: see :class:`~._objects.Objects`, as for all that is not described here.
    """

    def __init__(self, cluster: Cluster, owner: Owner, plan: KernelPlan, name: str = "") -> None:
        self.cluster = cluster
        self.owner = owner
        self.plan = plan
        self.name = name or object_name(owner.server, plan.kernel_id, generation=uuid4().hex)
        self.lease: Lease | None = None
        self.lost = False
        self.on_leave: Callable[[], None] = lambda: None
        self._attention = Attention(
            pod=lambda: cluster.pod(self.name),
            ended=lambda: self._ended.result() if self._ended.done() else None,
            tell=self._hindered,
            ask_again=self._ask_again,
            patience=lambda: cluster.settings.image_patience,
        )
        #: The pod's end by others.
        self.parting = Parting(
            grace=lambda: cluster.settings.eviction_grace,
            reclaimed=lambda pod: cluster.backend.reclaimed(pod),
            leave=lambda: self.on_leave(),
        )
        self._uid = self._version = ""  # of the pod, and when it came to be this process's
        self._also: set[str] = set()  # other processes as whose the pod may be known
        self._up = False  # the agent can be talked to
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._unleased: Unleased | None = None

    def _hindered(self, why: str) -> bool:
        """Tell of what the node tries again. False where nobody listens yet."""
        return False

    async def _ask_again(self) -> bool:
        """Have the scheduler look again at what it may have overlooked. True where it was asked."""
        return False

    def look(self, gone: Object | None = None) -> None:
        """The pod, one of its claims, or the queue may have changed.

        ``gone`` is an object that was deleted. That the pod is merely not there yet means nothing:
        the watch may be behind our own writing.
        """
        pod = self.cluster.pod(self.name)
        cause = None
        if pod is not None:
            self.lost |= bool(self._version) and taken_over(
                pod, self.owner.instance, self._version, self._also
            )
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

    def also_of(self, other: WatchedPod) -> None:
        """The pod may be that of ``other``, too, which has asked for it and was not answered.

        Where one process makes all pods, it is nobody else's by that.
        """
        self._also |= {other.owner.instance, *other._also}

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

    def _owns(self, pod: Object) -> None:
        meta = pod["metadata"]
        self._uid, self._version = meta["uid"], meta["resourceVersion"]

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

    async def until(self, look: Callable[[], Any]) -> Any:
        """Wait until ``look`` gives something, looking at every change.

        Raises
        ------
        KernelStartError: the pod has ended, or will not come up.
        """
        return await self._attention.until(look)

    # -- its end by others -------------------------------------------------------------------

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
