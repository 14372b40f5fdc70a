"""Whose a kernel's objects are, and that nothing but its Secret keeps its keys."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from unanswered import Store
from waiting import PATIENCE

from jupyter_gpu_share.engines.base import KernelRequest
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._kernel_objects import KernelObjects
from jupyter_gpu_share.engines.kubernetes._link import Owned
from jupyter_gpu_share.engines.kubernetes._making import TURN, has_gate
from jupyter_gpu_share.engines.kubernetes._names import SERVER, label, selector, server_name
from jupyter_gpu_share.engines.kubernetes._objects import (
    HUB_SERVER,
    HUB_USER,
    KernelPlan,
    Keys,
    Owner,
)
from jupyter_gpu_share.engines.kubernetes._ownership import claim_pod
from jupyter_gpu_share.engines.kubernetes.api import (
    CLAIMS,
    PODS,
    SECRETS,
    AlreadyExists,
    Unreachable,
)
from jupyter_gpu_share.engines.kubernetes.backends import Claim, DraBackend, Rendered
from jupyter_gpu_share.errors import GpuShareError
from jupyter_gpu_share.size import Size

pytestmark = pytest.mark.timeout(PATIENCE)

ALICE = Owner.of_hub("alice", "lab", "process-1")
NOTES = {HUB_USER: "alice", HUB_SERVER: "lab"}
PAIRS = [
    ("alice", ""),
    ("alice", "lab"),
    ("alice-lab", ""),
    ("alice-", ""),
    ("alice", "-lab"),
    ("Alice", ""),
    ("alice-", "lab"),
    ("alice\0lab", ""),
    ('alice","lab', ""),
    ("\u00e4lice", ""),
    ("\ud800", ""),
    ("", "alice"),
]


def test_no_two_servers_of_a_hub_are_one() -> None:
    owners = {pair: Owner.of_hub(*pair, "p") for pair in PAIRS}
    for one, other in combinations(owners.values(), 2):
        assert one.server != other.server
    for owner in owners.values():
        assert server_name(owner.server) == owner.server, "it is good for names and labels as it is"
        assert selector(server=owner.server)
    assert Owner.of_hub("alice", "lab", "another").server == ALICE.server


def plan(size: str = "1/4", key: bytes = b"secret") -> KernelPlan:
    keys = Keys.new(key, "hmac-sha256", encrypt=True)
    return KernelPlan("k-1", "python3", Size.parse(size), path="a.ipynb", keys=keys)


class Known(Store):
    """With what a kernel of size 1/4 asks for."""

    rendered = Rendered(claims=(Claim("gpu", {"devices": {}}),))

    def cluster(self, backend: Any = None, instance: str = "broker", **more: Any) -> Any:
        engine = KubernetesEngine(image="kernel:1", **more)
        cluster = super().cluster(backend or DraBackend(), instance, settings=engine)
        cluster.files = "files"
        cluster.render = self._render
        cluster.refresh_soon = lambda: None
        return cluster

    async def create(self, resource: Any, body: dict[str, Any], space: str) -> dict[str, Any]:
        if body["metadata"]["name"] in self.of(resource):
            raise AlreadyExists("It is there.")
        return await super().create(resource, body, space)

    def _put(self, resource: Any, name: str, item: dict[str, Any]) -> dict[str, Any]:
        texts = item.get("stringData") or {}
        item["data"] = {key: base64.b64encode(text.encode()) for key, text in texts.items()}
        return super()._put(resource, name, item)

    async def _render(self, size: Size) -> Rendered:
        return self.rendered


def made(store: Store) -> list[dict[str, Any]]:
    return [item for (_, _), item in sorted(store.objects.items(), key=lambda each: each[0])]


async def test_all_that_a_kernel_has_tells_whose_it_is() -> None:
    store = Known()
    one = KernelObjects(store.cluster(), ALICE, plan())
    await one.make()
    kinds = {plural for plural, _ in store.objects}
    assert kinds == {"pods", "secrets", "resourceclaims"}
    for item in made(store):
        notes = item["metadata"]["annotations"]
        assert notes.items() >= NOTES.items()
        assert label(item, SERVER) == ALICE.server
    (pod,) = store.of(PODS).values()
    assert Owner.read(pod) == ALICE
    assert KernelPlan.read(pod) == one.plan
    assert len(store.writes) == 3


async def test_a_lease_tells_whose_it_is() -> None:
    store = Known()
    one = KernelObjects(store.cluster(style="lease", lease_image="pause"), ALICE, plan())
    await one.make()
    assert not store.of(CLAIMS), "it follows from the device of the lease"
    lease = one._new_lease()
    lease.name = "lease-1"
    pod = lease._pod(one._labels())
    assert pod["metadata"]["annotations"].items() >= NOTES.items()
    assert Owner.read(pod).instance == ALICE.instance
    assert (
        pod["metadata"]["ownerReferences"][0]["uid"] == store.of(PODS)[one.name]["metadata"]["uid"]
    )


async def test_the_administrators_patch_does_not_say_whose_it_is() -> None:
    patch = {"metadata": {"annotations": {HUB_USER: "bob"}}}
    one = KernelObjects(Known().cluster(pod_patch=patch), ALICE, plan())
    with pytest.raises(GpuShareError, match=HUB_USER):
        await one.make()


# -- keys ------------------------------------------------------------------------------------


@pytest.fixture
def kept() -> Callable[[], bool]:
    """Whether anything in memory keeps keys of a kernel."""
    gc.collect()
    before = {id(each) for each in gc.get_objects() if isinstance(each, Keys)}

    def look() -> bool:
        gc.collect()
        return any(isinstance(each, Keys) and id(each) not in before for each in gc.get_objects())

    return look


async def test_keys_are_nowhere_but_in_the_secret(kept: Any) -> None:
    store = Known()
    one = KernelObjects(store.cluster(), ALICE, plan(key=b"very-secret"))
    assert kept()
    await one.make()
    assert one.plan.keys is None
    assert not kept()
    (secret,) = store.of(SECRETS).values()
    wire = json.loads(secret["stringData"]["connection.json"])
    assert wire["key"] == "very-secret"
    assert len(wire["curve_secretkey"]) == 40
    assert "very-secret" not in json.dumps([store.of(PODS), store.of(CLAIMS)])


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("outcome", ["lost", "refused"])
async def test_keys_of_a_start_that_fails_are_forgotten(
    kept: Any, number: int, outcome: str
) -> None:
    store = Known()
    store.count((number, outcome))
    one = KernelObjects(store.cluster(), ALICE, plan())
    with pytest.raises(GpuShareError):
        await one.make()
    assert one.plan.keys is None
    await one.settled()
    await asyncio.sleep(0)  # the loop itself holds what it has just delivered
    assert not kept()


def test_keys_are_not_printed() -> None:
    keys = Keys.new(b"very-secret", "hmac-sha256", encrypt=True)
    request = KernelRequest(
        "k-1", "python3", Size.parse("1"), ["python3"], {"TOKEN": "t"}, b"very-secret"
    )
    for shown in (keys, plan(key=b"very-secret"), KernelPlan.of(request, encrypt=True)):
        for secret in ("very-secret", keys.curve_secretkey, keys.curve_publickey):
            assert str(secret) not in repr(shown)


# -- held back -------------------------------------------------------------------------------


async def test_a_pod_that_is_held_back_is_made_without_its_claim() -> None:
    store = Known()
    one = KernelObjects(store.cluster(), ALICE, plan())
    await one.make(held_back=True)
    assert not store.of(CLAIMS)
    assert not has_gate(store.of(PODS)[one.name]), "without its claim nobody places it anyway"
    await one._let_through()
    await one._let_through()
    assert set(store.of(CLAIMS)) == {f"{one.name}-gpu"}
    assert len(store.writes) == 3


class Plugin(Known):
    """GPUs are no claims here."""

    rendered = Rendered(limits={"nvidia.com/gpu": "1"})


async def test_without_claims_a_gate_holds_a_pod_back() -> None:
    store = Plugin()
    gates = {"spec": {"schedulingGates": [{"name": "example.com/other"}]}}
    one = KernelObjects(store.cluster(pod_patch=gates), ALICE, plan())
    await one.make(held_back=True)
    names = [gate["name"] for gate in store.of(PODS)[one.name]["spec"]["schedulingGates"]]
    assert names == ["example.com/other", TURN]
    await one._let_through()
    assert store.of(PODS)[one.name]["spec"]["schedulingGates"] == [{"name": "example.com/other"}]
    number = len(store.writes)
    await one._let_through()
    assert len(store.writes) == number


async def test_a_kernel_without_a_gpu_is_never_held_back() -> None:
    store = Plugin()
    one = KernelObjects(store.cluster(), ALICE, plan("0"))
    await one.make(held_back=True)
    assert not has_gate(store.of(PODS)[one.name])


# -- of another server -----------------------------------------------------------------------


async def test_a_pod_of_another_server_is_never_taken_over() -> None:
    store = Known()
    await KernelObjects(store.cluster(), ALICE, plan()).make()
    (name,) = store.of(PODS)
    for user, server in (("bob", "lab"), ("alice", "")):
        thief = Owner.of_hub(user, server, "thief")
        with pytest.raises(Owned):
            await claim_pod(store.cluster(), thief, name, ALICE.instance)
        same = Owner.of_hub(user, server, ALICE.instance)
        with pytest.raises(Owned):
            await claim_pod(store.cluster(), same, name, "whoever")
    later = Owner.of_hub("alice", "lab", "process-2")
    taken = await claim_pod(store.cluster(), later, name, ALICE.instance)
    assert Owner.read(taken) == later


async def test_an_object_of_another_server_with_the_same_kernel_id_is_not_its() -> None:
    one = KernelObjects(Known().cluster(), ALICE, plan())
    theirs = {"metadata": {"name": "p", "labels": {SERVER: "another"}}}
    mine = {"metadata": {"name": "p", "labels": {SERVER: ALICE.server}}}
    assert (one.owns(theirs), one.owns(mine)) == (False, True)


async def test_an_answer_that_is_lost_leaves_it_to_be_deleted() -> None:
    store = Known()
    store.count((0, "lost"))
    one = KernelObjects(store.cluster(), ALICE, plan())
    with pytest.raises(Unreachable):
        await one.make()
    assert one.made
    await one.delete()
    assert not one.made
    assert not store.of(PODS)
