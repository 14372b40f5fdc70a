"""In style lease: a kernel that rests holds a part of what it asks for already."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from backends.shapes import GIB, MIB, Shapes
from test_looks import NO_PLACE, Known, engine, obj
from unanswered import Store

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine, _overlooked
from jupyter_gpu_share.engines.kubernetes._lease import Lease
from jupyter_gpu_share.engines.kubernetes._names import PREFIX
from jupyter_gpu_share.engines.kubernetes._objects import Owner
from jupyter_gpu_share.engines.kubernetes._pods import Labels
from jupyter_gpu_share.engines.kubernetes._writes import Writes
from jupyter_gpu_share.engines.kubernetes.api import CLAIMS, PODS
from jupyter_gpu_share.engines.kubernetes.backends import DraBackend, Facts
from jupyter_gpu_share.size import Size

DRA = Shapes("dra")
OWNER = Owner("alice", "mine")
HALF = Size.parse("40GiB")


def claim(name: str, amount: int) -> Any:
    found = DRA.claim
    found["metadata"]["name"] = name
    (result,) = found["status"]["allocation"]["devices"]["results"]
    result |= {"pool": "node-5", "device": "gpu-0", "consumedCapacity": {"memory": str(amount)}}
    return found


@pytest.fixture
def cluster() -> Known:
    """One GPU. A kernel of half of it rests, another has the other half."""
    backend = DraBackend()
    backend.style = "lease"
    lease = obj("wake", "lease", size="40GiB", conditions=[NO_PLACE])
    lease["metadata"]["annotations"][f"{PREFIX}kernel-id"] = "rests"
    known = Known(backend, [lease], [])
    known.settings = KubernetesEngine(style="lease")
    slices = DRA.nvidia80
    del slices["spec"]["devices"][1:]
    held = [claim("a-gpu", MIB), claim("b-gpu", MIB), claim("b-lease", 40 * GIB - MIB)]
    known.facts = Facts(slices=[slices], claims=held)
    return known


async def test_a_wake_fits_beside_what_the_kernel_rests_on(cluster: Known) -> None:
    one = engine(cluster)
    own: Any = SimpleNamespace(
        name="a",
        claim_names=set(),
        own_claims={"a-gpu"},
        share=SimpleNamespace(devices=[SimpleNamespace(uuid="GPU-0050")]),
    )
    one._kernels["rests"] = SimpleNamespace(objects=own)  # type: ignore[assignment]
    assert await one.fits("rests", HALF) is None
    assert await one.fits(None, HALF) == "No GPU of the cluster has 40GiB free now."
    snapshot = await one.snapshot()
    assert snapshot is not None
    assert snapshot.served(()) == {0}
    assert await _overlooked._has_room(cluster, HALF, own.own_claims)
    assert not await _overlooked._has_room(cluster, HALF, ())


class Scheduled(Store):
    """Claims hold what they were put with."""

    def _schedule(self) -> None:
        pass


@pytest.mark.parametrize("privileged", [True, False])
async def test_a_kernel_of_an_earlier_version_keeps_its_lease(privileged: bool) -> None:
    """Its own claim has administrator access, and its lease all of the share."""
    backend = DraBackend()
    backend.style = "lease"
    store = Scheduled()
    facts = Facts(slices=[DRA.nvidia80])

    async def refresh() -> Facts:
        return facts

    settings = KubernetesEngine(lease_image="pause")
    cluster = store.cluster(backend, settings=settings)
    cluster.refresh, cluster.facts, cluster.facts_for = refresh, facts, lambda size: facts
    labels = Labels("alice", "k-1", "attempt")
    lease = Lease(cluster, OWNER, Size.parse("1/4"), Writes(), labels, {"name": "k", "uid": "u"})
    own = claim("k-gpu", MIB)
    amount = 20 * GIB if privileged else 20458 * MIB
    if privileged:
        own["status"]["allocation"]["devices"]["results"][0]["adminAccess"] = True
    name = f"{lease._base}-1"
    store.objects[CLAIMS.plural, "k-gpu"] = own
    store.objects[CLAIMS.plural, name] = claim(name, amount)
    store.objects[PODS.plural, name] = {"metadata": {"name": name}, "status": {}}
    if not privileged:  # a change of its size was not noted any more
        store.objects[CLAIMS.plural, f"{name}-more"] = claim(f"{name}-more", 20460 * MIB)
    await lease.adopt("k")
    assert lease.claim_names == {name}
    share = backend.granted({}, [own, claim(name, amount)], facts)
    assert share is not None
    assert share.memory_bytes == (amount if privileged else amount + MIB)
    grown, change = await lease.planned(share, Size.parse("1/2"))
    assert grown is not None
    assert change is not None
    assert change.keep == {name}
    assert amount + change.add + (0 if privileged else MIB) == grown.memory_bytes
    await lease._post(lease.device, lease.size)
    asked = store.of(CLAIMS)[lease.name]["spec"]["devices"]["requests"][0]["exactly"]
    again = "20459Mi" if privileged else "20458Mi"
    assert asked["capacity"] == {"requests": {"memory": again}}


async def test_a_share_is_none_before_all_of_it_is_there() -> None:
    """What a kernel rests on is no share, and a share that has grown is not a part of it."""
    backend = DraBackend()
    backend.style = "lease"
    store = Store()
    cluster = store.cluster(backend, claims_of=lambda names: [store.of(CLAIMS)[n] for n in names])
    labels = Labels("alice", "k-1", "attempt")
    lease = Lease(cluster, OWNER, HALF, Writes(), labels, {"name": "k", "uid": "u"})
    lease._own = "a-gpu"
    lease._held = {"a-lease-1", "a-lease-2"}
    for name, amount in (("a-gpu", MIB), ("a-lease-1", 20 * GIB), ("a-lease-2", 20 * GIB - MIB)):
        assert lease.share_claims == []
        store.objects[CLAIMS.plural, name] = {**claim(name, amount), "status": {}}
        assert lease.share_claims == []
        store.objects[CLAIMS.plural, name] = claim(name, amount)
    share = backend.granted({}, lease.share_claims, Facts(slices=[DRA.nvidia80]))
    assert share is not None
    assert share.memory_bytes == 40 * GIB
    lease._held = set()
    assert lease.share_claims == []
