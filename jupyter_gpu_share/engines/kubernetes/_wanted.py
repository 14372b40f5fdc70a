"""Who waits for a share of a cluster's GPUs, and which of this server's kernels hold one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...size import Size
from ..base import Waiter
from . import _failures as failures
from ._cluster import Cluster, Object
from ._kernel_objects import KernelObjects
from ._names import annotation
from ._pods import size_of
from ._snapshot import ClusterSnapshot, without
from .backends import Facts, Placement

__all__ = ["wanted"]


async def wanted(
    cluster: Cluster, kernels: Mapping[str, KernelObjects], placements: Mapping[Size, Placement]
) -> ClusterSnapshot | None:
    """Who waits for a GPU, and what the GPUs hold; None where nobody waits.

    Those wait whom the scheduler has turned away.

    Parameters
    ----------
    kernels: those of this process, by id: what they hold can be freed.
    placements: where kernels of a size go, besides what holds for all.

    Raises
    ------
    KubernetesError, EngineError
    """
    own = [pod for pod in cluster.pods.objects.values() if cluster.waits(pod)]
    pods = sorted([*own, *await cluster.queue.pods()], key=_turn)
    pods = [pod for pod in pods if failures.unschedulable(pod) and not size_of(pod).is_none]
    if not pods:
        return None
    snapshot = _seen(cluster, pods, await cluster.shown(now_and_then=False), kernels, placements)
    if snapshot.served(snapshot.held) == snapshot.served(()):
        return snapshot  # nothing of this server's would help anybody who waits
    # Shares are given back by it: so by what is there now, not by what was shown.
    if any(cluster.is_own(pod) for pod in pods):
        still = await cluster.queue.own()
        pods = [pod for pod in pods if not cluster.is_own(pod) or pod["metadata"]["name"] in still]
    return _seen(cluster, pods, await cluster.refresh(), kernels, placements) if pods else None


def _seen(
    cluster: Cluster,
    pods: Sequence[Object],
    facts: Facts,
    kernels: Mapping[str, KernelObjects],
    placements: Mapping[Size, Placement],
) -> ClusterSnapshot:
    """Who waits, by their pods, and what the GPUs hold."""
    waiting: list[Waiter] = []
    only: dict[int, frozenset[str]] = {}
    resting: set[str] = set()
    for pod in pods:
        kernel_id = annotation(pod, "kernel-id")
        kernel = kernels.get(kernel_id)
        if kernel is not None and kernel.share is not None and kernel.share.devices:
            # Its process is on a GPU already, and can go back to no other.
            only[len(waiting)] = frozenset(device.uuid for device in kernel.share.devices)
            resting |= kernel.own_claims  # a part of the share that it waits for
        waiting.append(Waiter(kernel_id or None, size_of(pod)))
    return ClusterSnapshot(
        waiting=tuple(waiting),
        backend=cluster.backend,
        facts=without(facts, cluster.namespace, resting),
        namespace=cluster.namespace,
        held={
            kernel_id: frozenset({kernel.name} | kernel.claim_names)
            for kernel_id, kernel in kernels.items()
        },
        only=only,
        placements=placements,
    )


def _turn(pod: Object) -> tuple[str, str]:
    """By what pods are in the order of the queue."""
    return pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]
