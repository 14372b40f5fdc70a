"""Whether what a kernel has on its GPU stays nobody else's, though its lease was taken away.

A drain takes the pod of the lease as well as the kernel's, and that of the lease is gone at once.
But a drained node takes no more pods, so nobody gets the share before the kernel's pod is gone.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from ..._threads import within
from . import _failures as failures
from ._cluster import Cluster, Object
from ._names import SERVER, annotation, label
from ._parting import Parting
from .api import NODES, KubernetesError
from .backends import dig

__all__ = ["Unleased", "takes_no_more"]

#: Seconds in which the cluster has to say it: till then the memory may be somebody else's.
_PATIENCE = 2.0
#: Taints that keep pods out while a node is emptied. An administrator's own may be tolerated.
_EMPTIED = re.compile(
    r"node\.kubernetes\.io/unschedulable|karpenter\.sh/.*|ToBeDeletedByClusterAutoscaler"
)


class Unleased:
    """A kernel whose lease others have ended: it leaves its GPU at once, but for a drain.

    Parameters
    ----------
    server, kernel_id: whose kernel it is, and which.
    node: on which the kernel's pod is.
    gone: an object of the kernel's that was deleted just now, or None.

    Attributes
    ----------
    spared: it goes on, as far as is known by now.
    """

    def __init__(
        self,
        cluster: Cluster,
        parting: Parting,
        server: str,
        kernel_id: str,
        node: str,
        gone: Object | None,
    ) -> None:
        self._cluster = cluster
        self._parting = parting
        self._node = node
        pods = [gone or {}, *cluster.pods.objects.values()]
        self._evicted = next(
            (
                pod
                for pod in pods
                if annotation(pod, "kernel-id") == kernel_id
                and label(pod, SERVER) == server
                and failures.is_evicted(pod)
            ),
            None,
        )
        self.spared = self._evicted is not None
        self._work: asyncio.Future[None] | None = None

    def begin(self, end: Callable[[], None]) -> None:
        """Find out what is to be done, and do it; ``end`` is told if the kernel is to end."""
        self._work = asyncio.ensure_future(self._leave(end))

    async def _leave(self, end: Callable[[], None]) -> None:
        if self._evicted is not None and await drained(self._cluster, self._node):
            # The kernel's own pod is about to go too.
            grace = self._cluster.settings.eviction_grace
            self._parting.note({"status": self._evicted["status"]}, told=grace)
            return
        self.spared = False
        end()

    async def done(self) -> None:
        """Wait until that is known."""
        if self._work is not None:
            await asyncio.gather(self._work, return_exceptions=True)


def takes_no_more(node: Object) -> bool:
    """Whether the scheduler puts no more pods on a node, since it is being emptied."""
    taints: list[Any] = dig(node, "spec", "taints", default=[])
    return bool(dig(node, "spec", "unschedulable", default=False)) or any(
        taint.get("effect") in ("NoSchedule", "NoExecute")
        and _EMPTIED.fullmatch(str(taint.get("key", "")))
        for taint in taints
    )


async def drained(cluster: Cluster, name: str) -> bool:
    """Whether the cluster says at once that a node takes no more pods."""
    if not name:
        return False
    try:
        reading = cluster.api.list_once(NODES, fieldSelector=f"metadata.name={name}")
        nodes, _ = await within(_PATIENCE, reading)
    except (KubernetesError, asyncio.TimeoutError):  # this server may not see nodes
        return False
    return bool(nodes) and all(takes_no_more(node) for node in nodes)
