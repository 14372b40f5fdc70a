"""Two processes of one name never both own a kernel, whatever their clocks say."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
import zmq.asyncio
from unanswered import Store
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.base import KernelRequest
from jupyter_gpu_share.engines.kubernetes import _sweeper
from jupyter_gpu_share.engines.kubernetes._engine import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._kernel import Inside, PodKernel
from jupyter_gpu_share.engines.kubernetes._kernel_objects import KernelObjects
from jupyter_gpu_share.engines.kubernetes._link import Owned
from jupyter_gpu_share.engines.kubernetes._names import PART, PREFIX, SERVER, annotation
from jupyter_gpu_share.engines.kubernetes._objects import KernelPlan, Owner
from jupyter_gpu_share.engines.kubernetes._ownership import claim_pod, delete_own
from jupyter_gpu_share.engines.kubernetes._pods import owner
from jupyter_gpu_share.engines.kubernetes._sweeper import Sweeper
from jupyter_gpu_share.engines.kubernetes.api import LEASES, PODS, SECRETS
from jupyter_gpu_share.errors import KernelStartError
from jupyter_gpu_share.size import Size

pytestmark = pytest.mark.timeout(PATIENCE)

NAME = "gpu-share-k"
OWNER = Owner("alice", "mine")
PLAN = KernelPlan("k-1", "python3", Size.parse("1/4"))
SETTINGS = SimpleNamespace(sweep_interval=60.0)


async def put_pod(store: Store, instance: str, phase: str = "Pending") -> None:
    notes = {"kernel-id": "k-1", "instance": instance, "size": "1/4"}
    meta = {
        "name": NAME,
        "labels": {SERVER: "alice", PART: "kernel"},
        "annotations": {PREFIX + key: value for key, value in notes.items()},
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    kind = {"apiVersion": "v1", "kind": "Pod"}
    pod = {**kind, "metadata": meta, "status": {"phase": phase, "podIP": "10.0.0.1"}}
    await store.create(PODS, pod, "team")


async def put_secret(store: Store) -> None:
    wire = {"key": "K", "signature_scheme": "hmac-sha256"}
    wire |= {f"{channel}_port": 1 for channel in ("shell", "iopub", "stdin", "control", "hb")}
    data = {"connection.json": base64.b64encode(json.dumps(wire).encode()).decode()}
    await store.create(SECRETS, {"metadata": {"name": NAME}, "data": data}, "team")


class Process:
    """A server process: its sign of life, and what it thinks of others', by clocks of its own."""

    def __init__(self, store: Store, instance: str, skew: float = 0.0) -> None:
        self.cluster = store.cluster(instance=instance, settings=SETTINGS, zmq=None)
        self.sweeper = Sweeper(self.cluster, lambda pod: False)
        self.now = 0.0
        self.sweeper.signs.clock = self.sweeper.pending.clock = lambda: self.now
        self.skew = timedelta(seconds=skew)

    async def renew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Say that it lives, with the time that its clock shows."""
        wall = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=self.now) + self.skew
        with monkeypatch.context() as patch:
            patch.setattr(_sweeper, "datetime", SimpleNamespace(now=lambda zone: wall))
            patch.setattr(_sweeper, "_this_process", lambda: "{}")
            await self.sweeper._renew()


@pytest.mark.parametrize("skew", [-90.0, 0.0, 90.0])
async def test_a_server_whose_clock_is_another_is_alive_while_it_renews(
    skew: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    alice, bob = Process(store, "a" * 32, skew), Process(store, "b" * 32)
    await put_pod(store, "a" * 32)
    for second in range(0, 600, 20):
        alice.now = bob.now = float(second)
        await alice.renew(monkeypatch)
        await bob.sweeper.sweep()
        assert NAME in store.of(PODS), f"deleted after {second} s"
    # It is silent now. It is dead when its Lease was not seen to change for as long as it is valid.
    bob.now += 60.0
    await bob.sweeper.sweep()
    assert NAME in store.of(PODS)
    bob.now += 1.0
    await bob.sweeper.sweep()
    assert NAME not in store.of(PODS)
    assert store.of(LEASES), "it may have pods that were not seen yet"
    bob.now += 120.0
    await bob.sweeper.sweep()
    assert not store.of(LEASES)


async def test_a_pod_that_was_taken_over_meanwhile_is_not_swept() -> None:
    store = Store()
    bob = Process(store, "b" * 32)
    await put_pod(store, "a" * 32)
    seen = dict(store.of(PODS))
    store.objects["pods", NAME] = json.loads(json.dumps(seen[NAME]))
    store.touch(NAME, instance="c" * 32)
    bob.cluster.pods = SimpleNamespace(objects=seen)  # a moment old
    await bob.sweeper.sweep()
    bob.now = 11.0
    await bob.sweeper.sweep()
    assert NAME in store.of(PODS)


async def test_what_holds_a_share_is_whose_the_kernel_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says who has made it. While its image cannot be had, it waits, and holds the share."""
    store = Store()
    bob, carol = Process(store, "b" * 32), Process(store, "c" * 32)
    await put_pod(store, "c" * 32, "Running")
    kernel = store.of(PODS)[NAME]
    lease = json.loads(json.dumps(kernel))
    lease["metadata"] |= {"name": "lease", "uid": "u-lease", "ownerReferences": [owner(kernel)]}
    lease["metadata"]["annotations"][PREFIX + "instance"] = "dead"
    lease["status"]["phase"] = "Pending"
    store.objects["pods", "lease"] = lease
    for second in range(0, 120, 20):
        bob.now = carol.now = float(second)
        await carol.renew(monkeypatch)
        await bob.sweeper.sweep()
        assert "lease" in store.of(PODS), f"deleted after {second} s"
    bob.now += 61.0  # carol is silent
    await bob.sweeper.sweep()
    assert "lease" not in store.of(PODS)


async def test_the_share_of_a_kernel_that_was_taken_over_meanwhile_is_not_swept() -> None:
    """What the sweep sees is a moment old; the pod that waits for the share has not changed."""
    store = Store()
    bob = Process(store, "b" * 32)
    await put_pod(store, "a" * 32, "Running")
    kernel = store.of(PODS)[NAME]
    lease = json.loads(json.dumps(kernel))
    lease["metadata"] |= {"name": "lease", "uid": "u-lease", "ownerReferences": [owner(kernel)]}
    lease["status"]["phase"] = "Pending"
    store.objects["pods", "lease"] = lease
    bob.cluster.pods = SimpleNamespace(objects=json.loads(json.dumps(store.of(PODS))))
    store.touch(NAME, instance="c" * 32)
    for bob.now in (0.0, 11.0):
        await bob.sweeper.sweep()
        assert "lease" in store.of(PODS)
    del store.objects["pods", NAME]
    await bob.sweeper.sweep()
    assert "lease" not in store.of(PODS), "its kernel is gone"


async def test_a_pod_of_a_server_that_has_just_ended_is_left_to_who_takes_it_over() -> None:
    store = Store()
    bob = Process(store, "b" * 32)
    await put_pod(store, "a" * 32)
    for bob.now in (0.0, 9.0):
        await bob.sweeper.sweep()
        assert NAME in store.of(PODS)
    bob.now = 11.0
    await bob.sweeper.sweep()
    assert NAME not in store.of(PODS)


@pytest.mark.parametrize("fails", [(), ((0, "lost"),), ((1, "lost"),)])
async def test_of_two_that_take_a_kernel_over_one_gets_it(fails: Any) -> None:
    store = Store()
    await put_pod(store, "dead")
    store.count(*fails)

    async def claim(instance: str) -> Any:
        cluster, owner = store.cluster(), Owner("alice", instance)
        try:
            return await claim_pod(cluster, owner, NAME, "dead")
        except Owned:
            return None
        except Exception:  # no answer: it looks again, as a server does
            return await claim_pod(cluster, owner, NAME, "dead")

    got = await asyncio.gather(claim("bob"), claim("carol"), return_exceptions=True)
    told = store.note(NAME, "instance")
    mine = [pod for pod in got if isinstance(pod, dict)]
    assert [pod["metadata"]["annotations"][PREFIX + "instance"] for pod in mine] == [told]


async def test_a_kernel_of_a_process_that_is_alive_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither when it starts at the same time nor when a watch is a moment old."""
    store = Store()
    alice, bob = Process(store, "a" * 32), Process(store, "b" * 32)
    await put_pod(store, "a" * 32, "Running")
    await alice.renew(monkeypatch)
    await put_secret(store)
    engine: Any = KubernetesEngine()
    engine._sweeper = bob.sweeper
    request: Any = SimpleNamespace(kernel_id="k-1", key=b"K", size=Size.parse("1/4"))
    assert await engine._earlier(bob.cluster, request) is None
    bob.now = 61.0
    found = await engine._earlier(bob.cluster, request)
    assert found["metadata"]["name"] == NAME
    with pytest.raises(Owned):
        await claim_pod(bob.cluster, Owner("alice", "b" * 32), NAME, "another that is dead")


async def test_a_kernel_that_another_took_over_since_it_was_found_is_not_started_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store()
    alice, bob = Process(store, "a" * 32), Process(store, "b" * 32)
    await put_pod(store, "dead", "Running")
    await put_secret(store)
    engine: Any = KubernetesEngine()
    engine._sweeper = bob.sweeper

    async def opened() -> Any:
        return bob.cluster

    monkeypatch.setattr(engine, "_opened", opened)
    assert [each.kernel_id for each in await engine.adoptable()] == ["k-1"]
    await alice.renew(monkeypatch)
    store.touch(NAME, instance="a" * 32)
    size = Size.parse("1/4")
    request = KernelRequest("k-1", "python3", size, argv=["python3"], env={}, key=b"K")
    with pytest.raises(Owned):
        await engine.start(request, lambda news: None)
    assert list(store.of(PODS)) == [NAME]
    assert store.note(NAME, "instance") == "a" * 32


@pytest.mark.parametrize("gone", [False, True])
async def test_a_kernel_that_was_let_go_of_is_not_found_again_while_its_pod_ends(
    gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that is run right after a release meets a watch that is behind it."""
    store = Store()
    bob = Process(store, "b" * 32)
    await put_pod(store, "b" * 32, "Running")
    await put_secret(store)
    before = json.loads(json.dumps(store.of(PODS)))
    bob.cluster.pods = SimpleNamespace(objects=before)
    engine: Any = KubernetesEngine()
    engine._sweeper = bob.sweeper

    async def opened() -> Any:
        return bob.cluster

    monkeypatch.setattr(engine, "_opened", opened)
    request: Any = SimpleNamespace(kernel_id="k-1", key=b"K", size=Size.parse("1/4"))
    assert await engine._earlier(bob.cluster, request) is not None
    assert [each.kernel_id for each in await engine.adoptable()] == ["k-1"]
    if gone:
        del store.objects["pods", NAME]
    else:
        store.objects["pods", NAME]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert await engine._earlier(bob.cluster, request) is None
    assert await engine.adoptable() == []


async def test_a_pod_that_is_about_to_end_is_not_taken_over() -> None:
    store = Store()
    await put_pod(store, "dead", "Running")
    store.objects["pods", NAME]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    with pytest.raises(KernelStartError, match="was deleted in the cluster"):
        await claim_pod(store.cluster(), OWNER, NAME, "dead")


def talking(objects: KernelObjects, context: Any = None) -> PodKernel:
    """A kernel whose agent can be talked to."""
    request: Any = SimpleNamespace(kernel_id="k-1", size=Size.parse("1/4"), language="python")
    inside = Inside("mine", "python3", 1.0, (), context, lambda request: "image")
    return PodKernel(objects, request, inside)


async def test_a_pod_that_ends_before_it_answers_who_takes_it_over_is_not_waited_for() -> None:
    store = Store()
    context = zmq.asyncio.Context()
    settings = SimpleNamespace(style="pod")
    backend = SimpleNamespace(reclaimed=lambda pod: "")
    cluster = store.cluster(backend, settings=settings)
    await put_pod(store, "dead", "Running")
    store.objects["pods", NAME]["status"]["podIP"] = "127.0.0.1"  # where no agent is
    await put_secret(store)
    objects = KernelObjects(cluster, OWNER, PLAN, NAME)
    one = talking(objects, context)
    taking = asyncio.ensure_future(one.adopt("dead", lambda news: None))
    try:
        await eventually(lambda: one.link is not None or taking.done(), "the agent is asked")
        objects.look(store.objects.pop(("pods", NAME)))
        with pytest.raises(KernelStartError, match="was deleted in the cluster"):
            await taking
    finally:
        taking.cancel()
        await one.unlink()
        context.destroy(linger=0)


async def test_a_kernel_that_another_process_took_over_is_its_alone() -> None:
    store = Store()
    cluster = store.cluster(SimpleNamespace(reclaimed=lambda pod: ""))
    objects = KernelObjects(cluster, OWNER, PLAN, NAME)
    objects.made = True
    one = talking(objects)
    one._follow()
    await put_pod(store, "dead", "Running")
    late = json.loads(json.dumps(store.of(PODS)[NAME]))
    objects._owns(await claim_pod(cluster, OWNER, NAME, "dead"))
    said: list[str] = []

    async def quit_() -> None:
        said.append("quit")

    one.link = SimpleNamespace(quit=quit_, close=lambda: asyncio.sleep(0))  # type: ignore[assignment]
    # The watch may be behind: it shows whose the pod was.
    now, store.objects["pods", NAME] = store.objects["pods", NAME], late
    objects.look()
    assert one.alive
    store.objects["pods", NAME] = now
    objects.look()
    assert one.alive
    store.touch(NAME, instance="carol")
    objects.look()
    assert not one.alive
    assert "Another Jupyter server" in (await one.ended()).reason
    await one.unlink()
    await one.delete()
    assert said == []
    assert store.note(NAME, "instance") == "carol"


async def test_an_own_pod_is_deleted_though_it_changes_all_the_time() -> None:
    store = Store()
    await put_pod(store, "mine", "Running")
    read = store.get
    changes = 3

    async def changed(*where: Any) -> Any:
        nonlocal changes
        found = await read(*where)
        if changes:
            changes -= 1
            store.touch(NAME, path="elsewhere")
        return found

    store.get = changed  # type: ignore[method-assign]
    await delete_own(store.cluster(), OWNER, NAME)
    assert not store.of(PODS)


async def test_a_pod_may_be_anybodys_who_was_not_answered() -> None:
    """Where one process makes the pods of all others, none of them is lost by that."""
    store = Store()
    await put_pod(store, "asked", "Running")
    await put_secret(store)
    cluster = store.cluster(settings=SimpleNamespace(style="pod"))
    last = KernelObjects(cluster, Owner("alice", "last"), PLAN, NAME)
    asked = KernelObjects(cluster, Owner("alice", "asked"), PLAN, NAME)
    last.made = True
    last._uid, last._version = "u", "0"
    last.also_of(asked)
    last.look()
    assert not last.lost
    third = KernelObjects(cluster, Owner("alice", "third"), PLAN, NAME)
    with pytest.raises(Owned):
        await third.adopt("last", lambda news: None)
    third.also_of(last)
    await third.adopt("last", lambda news: None)
    assert annotation(store.of(PODS)[NAME], "instance") == "third"
    await last.delete()
    assert NAME in store.of(PODS), "it is the third one's for certain"
    last.also_of(third)
    last.made = True
    await last.delete()
    assert NAME not in store.of(PODS)
