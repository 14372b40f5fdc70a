"""A server's pods as rows of the table of allocations, by what its watches know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...allocations import Allocation, QueuePosition, State
from . import _failures as failures
from ._cluster import Cluster, Object
from ._names import PART, SERVER, annotation, label
from ._shares import share_of_pods
from .backends import dig

__all__ = ["rows"]


def rows(cluster: Cluster, server: str, engine: str) -> list[Allocation]:
    """Kernels of a server, of its other and earlier processes too.

    Parameters
    ----------
    server: its identity.
    engine: its name, for the rows.
    """
    places = {name: n for n, name in enumerate(cluster.waiting(), start=1)}
    pods = {
        name: pod
        for name, pod in cluster.pods.objects.items()
        if label(pod, PART) == "kernel" and label(pod, SERVER) == server
    }
    own = cluster.own_claims(server)
    claims = share_of_pods(pods, own, lambda claim: bool(dig(claim, "status", "allocation")))
    return [_row(cluster, pod, claims.get(name, []), places, engine) for name, pod in pods.items()]


def _row(
    cluster: Cluster,
    pod: Object,
    claims: Sequence[Object],
    places: Mapping[str, int],
    engine: str,
) -> Allocation:
    """What a pod holds; ``places`` are those in the queue, from 1, by the names of pods."""
    name = pod["metadata"]["name"]
    share = cluster.backend.granted(pod, claims, cluster.facts)
    cause = failures.end_of(pod, None)
    phase = (pod.get("status") or {}).get("phase")
    if cause is not None:
        state, reason = State.FAILED, cause.text
    elif pod["metadata"].get("deletionTimestamp"):
        state, reason = State.ENDED, "The kernel's pod ends."
    elif phase == "Running":
        state, reason = State.ACTIVE, ""
    elif name in places:
        state, reason = State.QUEUED, failures.unschedulable(pod) or ""
    else:
        state, reason = State.STARTING, ""
    queued = state is State.QUEUED
    return Allocation(
        kernel_id=annotation(pod, "kernel-id"),
        kernel_name=annotation(pod, "kernel-name"),
        path=annotation(pod, "path") or None,
        user=annotation(pod, "user") or None,
        size=annotation(pod, "size"),
        state=state,
        reason=reason,
        share=share,
        queue=QueuePosition(places[name], len(places)) if queued else None,
        engine=engine,
        backend=annotation(pod, "backend") or None,
        style=annotation(pod, "style") or None,
    )
