"""Who makes kernels for others goes on with what was there before it started."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from test_seam_owner import ALICE, Known, Plugin, plan
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.kubernetes._kernel_objects import KernelObjects
from jupyter_gpu_share.engines.kubernetes._making import has_gate
from jupyter_gpu_share.engines.kubernetes._objects import KernelPlan, Owner, Unfinished
from jupyter_gpu_share.engines.kubernetes.api import CLAIMS, PODS, SECRETS
from jupyter_gpu_share.engines.kubernetes.backends import DraBackend
from jupyter_gpu_share.errors import EngineError, KernelStartError

pytestmark = pytest.mark.timeout(PATIENCE)


class Dra(DraBackend):
    """A FAKE of one GPU that has room for everybody."""

    def knows(self, device: Any, facts: Any) -> bool:
        return True

    def claim_spec(self, size: Any, facts: Any) -> Any:
        return {}, None, ""

    def lease_spec(self, amount: int, device: Any, facts: Any, size: Any = None) -> Any:
        return {}

    def own_spec(self, device: Any, facts: Any) -> Any:
        return {}

    def held_on(self, claim: Any, device: Any, facts: Any) -> int:
        return 2**30

    def amount_on(self, size: Any, device: Any, facts: Any) -> int:
        return 2**31  # half of it is the kernel's own claim

    def device_of(self, claim: Any) -> tuple[str, str] | None:
        return ("node", "gpu-0") if claim["status"] else None


class Cluster(Known):
    """Whose GPUs have room once it is told that they have.

    Attributes
    ----------
    full: no claim is given a device.
    """

    full = True

    def _schedule(self) -> None:
        for claim in self.of(CLAIMS).values():
            claim.setdefault("status", {})
            if not self.full:
                claim["status"] = {"allocation": True}

    def leased(self) -> Any:
        return self.cluster(Dra(), style="lease", lease_image="pause")

    def up(self, name: str) -> None:
        """The kernel's container runs."""
        pod = self.objects["pods", name]
        pod["spec"]["nodeName"] = "gpu-1"
        state = {"name": "kernel", "state": {"running": {}}}
        pod["status"] = {"phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [state]}


async def again(store: Known, cluster: Any) -> KernelObjects:
    """What the next process knows of the only kernel: what stands on its pod."""
    (name,) = (
        name
        for name, pod in store.of(PODS).items()
        if pod["metadata"]["labels"]["gpu-share.jupyter.org/part"] == "kernel"
    )
    pod = store.of(PODS)[name]
    return KernelObjects(cluster, Owner.read(pod), KernelPlan.read(pod), name)


async def test_a_start_that_was_interrupted_before_its_keys_were_there_is_told_so() -> None:
    store = Known()
    await KernelObjects(store.cluster(), ALICE, plan()).make()
    for name in store.of(SECRETS):
        del store.objects["secrets", name]
    one = await again(store, store.cluster())
    with pytest.raises(Unfinished, match="start it again"):
        await one.recall()
    await one.delete()
    assert not store.of(PODS)


async def test_a_pod_that_is_gone_is_told_so() -> None:
    store = Known()
    await KernelObjects(store.cluster(), ALICE, plan()).make()
    one = await again(store, store.cluster())
    store.objects.clear()
    with pytest.raises(KernelStartError, match="deleted"):
        await one.recall()


async def test_a_claim_that_is_missing_is_made() -> None:
    store = Known()
    await KernelObjects(store.cluster(), ALICE, plan()).make(held_back=True)
    one = await again(store, store.cluster())
    assert not await one.recall()
    assert not store.of(CLAIMS), "its turn may not have come"
    await one._let_through()
    assert set(store.of(CLAIMS)) == {f"{one.name}-gpu"}
    two = await again(store, store.cluster())
    assert not await two.recall()
    number = len(store.writes)
    await two._let_through()
    assert len(store.writes) == number


async def test_a_pod_behind_its_gate_is_let_through() -> None:
    store = Plugin()
    await KernelObjects(store.cluster(), ALICE, plan()).make(held_back=True)
    one = await again(store, store.cluster())
    assert not await one.recall()
    await one._let_through()
    assert not has_gate(store.of(PODS)[one.name])


async def acquired(store: Cluster, one: KernelObjects) -> None:
    one.lease = one.lease or one._new_lease()

    async def until(look: Any) -> Any:
        found = look()
        if found is None:
            raise EngineError("It waits.")
        return found

    await one.lease.acquire(one.name, lambda news: None, until)


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (None, "What waited for the kernel's share was deleted in the cluster. Try again"),
        ({"phase": "Failed", "reason": "OutOfpods", "message": "no"}, "had no room after all"),
    ],
)
async def test_a_lease_that_others_end_while_it_waits_is_not_waited_for_any_more(
    ended: dict[str, str] | None, words: str
) -> None:
    """Somebody tidies up pods that are pending, or the node turns it away at the last moment."""
    store = Cluster()
    one = KernelObjects(store.leased(), ALICE, plan())
    await one.make()
    one.lease = one._new_lease()

    async def until(look: Any) -> Any:
        assert look() is None
        (lease,) = (name for name in store.of(PODS) if "lease" in name)
        if ended is None:
            del store.objects["pods", lease]
        else:
            store.objects["pods", lease]["status"] = ended
            store.full = False
            store._schedule()
        return look()

    with pytest.raises(KernelStartError, match=words):
        await one.lease.acquire(one.name, lambda news: None, until)
    assert one.lease.lent is False
    await one.lease.withdraw()
    assert not [name for name in (*store.of(PODS), *store.of(CLAIMS)) if "lease" in name]


async def test_a_lease_that_is_waited_for_keeps_its_place() -> None:
    store = Cluster()
    first = KernelObjects(store.leased(), ALICE, plan())
    await first.make()
    with pytest.raises(EngineError, match="It waits"):
        await acquired(store, first)
    (lease,) = store.of(CLAIMS)
    one = await again(store, store.leased())
    assert not await one.recall()
    assert one.lease is not None
    assert one.lease.claim_names == {lease}
    store.full = False
    store._schedule()
    await acquired(store, one)
    assert set(store.of(CLAIMS)) == {lease, f"{one.name}-gpu"}, "and no second lease"


async def test_a_lease_that_was_given_is_not_asked_for_again() -> None:
    store = Cluster()
    store.full = False
    first = KernelObjects(store.leased(), ALICE, plan())
    await first.make()
    await acquired(store, first)
    before = set(store.objects)
    one = await again(store, store.leased())
    assert not await one.recall()
    await acquired(store, one)
    assert set(store.objects) == before


async def test_of_a_lease_without_the_kernels_own_claim_the_claim_is_made() -> None:
    store = Cluster()
    store.full = False
    first = KernelObjects(store.leased(), ALICE, plan())
    await first.make()
    await acquired(store, first)
    del store.objects[CLAIMS.plural, f"{first.name}-gpu"]
    one = await again(store, store.leased())
    assert not await one.recall()
    await acquired(store, one)
    assert f"{first.name}-gpu" in store.of(CLAIMS)


async def test_a_share_that_is_not_known_yet_is_waited_for() -> None:
    """What is known of the GPUs may be read a moment later than the pod."""
    store = Cluster()
    store.full = False
    first = KernelObjects(store.leased(), ALICE, plan())
    await first.make()
    await acquired(store, first)
    store.up(first.name)
    cluster = store.leased()
    share: Any = None
    cluster.backend.granted = lambda pod, claims, facts: share
    cluster.backend.told_beside = False
    cluster.know_node = lambda name: asyncio.sleep(0)
    cluster.claims_of = lambda names: [store.of(CLAIMS)[name] for name in names]
    one = await again(store, cluster)
    store.count()
    told: list[Any] = []
    resuming = asyncio.ensure_future(one.resume(told.append))
    await eventually(lambda: one._report is not None, "it goes on")
    assert not resuming.done()
    share = object()
    one.look()
    assert await resuming == "10.0.0.7"
    assert one.share is share
    assert store.writes == []


@pytest.mark.parametrize(("lent", "known"), [(False, True), (True, True), (True, False)])
async def test_a_share_stays_where_it_is(lent: bool, known: bool) -> None:
    store = Cluster()
    store.full = False
    first = KernelObjects(store.leased(), ALICE, plan())
    await first.make()
    await acquired(store, first)
    store.up(first.name)
    if lent:
        assert first.lease is not None
        await first.lease.drop()
    cluster = store.leased()
    share: Any = object()
    cluster.backend.granted = lambda pod, claims, facts: share if claims else None
    cluster.backend.share_on = lambda held, size, device, facts: held if known else None
    cluster.claims_of = lambda names: [store.of(CLAIMS)[name] for name in names]
    store.count()
    one = await again(store, cluster)
    assert await one.resume(lambda news: None) == "10.0.0.7"
    assert store.writes == []
    assert one.lent is lent
    assert one.share is (share if known else None)
    assert one.owner == ALICE
    assert one.there
    if lent:
        assert await one.take_back(lambda news: None) is share
        assert not one.lent
