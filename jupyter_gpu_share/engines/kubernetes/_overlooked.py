"""Shares that the scheduler has overlooked.

While a claim is being allocated, the scheduler (Kubernetes 1.37, ``claimTracker`` in
``dra_manager.go``) may count it twice for a moment. Whoever that turns away is not looked at again
until another claim is given back, or for five minutes, although there is room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable

from ...errors import NoGpuError
from ...size import Size
from . import _failures as failures
from ._as_read import delete_as_read
from ._cluster import Cluster, Object
from ._snapshot import without
from .api import CLAIMS, KubernetesError
from .backends import dig

__all__ = ["ask_again"]

_log = logging.getLogger(__name__)


async def ask_again(
    cluster: Cluster, pod: str, claims: Iterable[str], size: Size, held: Collection[str] = ()
) -> bool:
    """Have the scheduler look again at a pod that waits although there is room for its claims.

    A claim that is new makes it look: those of the pod are posted anew under their names. True
    where that was done.

    Parameters
    ----------
    held: names of claims that hold a part of the size already.

    Raises
    ------
    KubernetesError: a claim could be taken back, and not be posted again.
    """
    names = list(claims)
    if not _waiting(cluster, pod, names):
        return False
    try:
        if not await _has_room(cluster, size, held):
            return False
    except KubernetesError:
        return False  # asked again later
    asked = await asyncio.gather(
        *(_post_anew(cluster, claim) for claim in _waiting(cluster, pod, names))
    )
    return any(asked)


def _waiting(cluster: Cluster, name: str, claims: Iterable[str]) -> list[Object]:
    """Claims that a pod was turned away for."""
    pod = cluster.pod(name)
    if cluster.claims is None or pod is None or dig(pod, "spec", "nodeName"):
        return []
    words = failures.unschedulable(pod)
    if words is None or cluster.backend.explain(words) is None:
        return []
    known = cluster.claims.objects
    found = [known[claim] for claim in claims if claim in known]
    return [claim for claim in found if not dig(claim, "status", "allocation")]


async def _has_room(cluster: Cluster, size: Size, held: Collection[str]) -> bool:
    facts = without(await cluster.refresh(), cluster.namespace, held)
    if cluster.backend.reads & facts.missing:
        return False  # this server may not see what is free
    try:
        return cluster.backend.room(size, cluster.facts_for(size, facts)) >= size.count
    except NoGpuError:
        return False


async def _post_anew(cluster: Cluster, claim: Object) -> bool:
    known = claim["metadata"]
    try:
        # One that was allocated meanwhile is not as it was read, and stays.
        await delete_as_read(cluster, CLAIMS, claim)
    except KubernetesError as error:
        _log.debug("A claim was not posted anew: %s", error)
        if not error.unsure:
            return False
        # It may be gone. It is put back, or found as it was.
    kept = ("name", "labels", "annotations", "ownerReferences")
    body: Object = {
        "apiVersion": CLAIMS.api_version,
        "kind": CLAIMS.kind,
        "metadata": {key: known[key] for key in kept if key in known},
        "spec": claim["spec"],
    }
    await cluster.api.create(CLAIMS, body, cluster.namespace)
    return True
