"""A lease is found again by what is watched: an API that does not answer ends no share."""

from __future__ import annotations

from typing import Any

import pytest
from test_seam_owner import ALICE, plan
from test_seam_resume import Cluster, acquired, again
from waiting import PATIENCE

from jupyter_gpu_share.engines.kubernetes._kernel_objects import KernelObjects
from jupyter_gpu_share.engines.kubernetes.api import CLAIMS, PODS, Unreachable

pytestmark = pytest.mark.timeout(PATIENCE)


async def running(store: Cluster) -> Any:
    """A kernel that runs on its lease, and the cluster as the next process sees it."""
    store.full = False
    first = KernelObjects(store.leased(), ALICE, plan())
    await first.make()
    await acquired(store, first)
    store.up(first.name)
    cluster = store.leased()
    share: Any = object()
    cluster.backend.granted = lambda pod, claims, facts: share if claims else None
    cluster.claims_of = lambda names: [store.of(CLAIMS)[name] for name in names]
    store.count()
    return cluster


async def test_an_api_that_does_not_answer_ends_no_share() -> None:
    store = Cluster()
    cluster = await running(store)

    async def away(*args: Any, **more: Any) -> Any:
        raise Unreachable("The Kubernetes API cannot be reached.")

    one = await again(store, cluster)
    cluster.api.get = away
    assert await one.recall()
    assert not one.lent and one.share is not None
    assert store.writes == []


async def test_a_lease_that_has_ended_meanwhile_is_none() -> None:
    store = Cluster()
    cluster = await running(store)
    (lease,) = (name for name in store.of(PODS) if "lease" in name)
    store.objects["pods", lease]["status"] = {"phase": "Failed", "reason": "Evicted"}
    one = await again(store, cluster)
    await one.recall()
    assert one.lent
