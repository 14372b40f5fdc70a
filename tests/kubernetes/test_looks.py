"""What the engine `kubernetes` tells of the pods that it knows, without a cluster."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from jupyter_gpu_share.engines.base import Capacity
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._cluster import Cluster
from jupyter_gpu_share.engines.kubernetes._names import PART, PREFIX, SERVER, label
from jupyter_gpu_share.engines.kubernetes.backends import Backend, DraBackend, Facts
from jupyter_gpu_share.size import Size

NO_PLACE = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}


class Known(Cluster):
    """What the watches know of a cluster that is not there."""

    def __init__(self, backend: Backend, pods: list[Any], claims: list[Any]) -> None:
        self.settings = KubernetesEngine(style="pod")
        self.backend = backend
        self.facts = Facts()
        self.namespace, self.server = "notebooks", "alice"
        self.everybody = False
        own = {_name(pod): pod for pod in pods if label(pod, SERVER) == self.server}
        self.pods: Any = SimpleNamespace(objects=own)
        self.queue: Any = Others([pod for pod in pods if _name(pod) not in own])
        self.queue.waiting = set(own)
        self.claims: Any = SimpleNamespace(objects={_name(claim): claim for claim in claims})
        self.reads = self.looks = 0

    async def refresh(self, stale: float = 0.0, *, slices: bool = False) -> Facts:
        self.reads += 1
        return self.facts

    async def shown(self, *, now_and_then: bool = True) -> Facts:
        self.looks += 1
        return self.facts


class Others:
    """Other servers' pods that wait, and the names of this one's that do now."""

    def __init__(self, pods: list[Any]) -> None:
        self._pods = pods
        self.waiting: set[str] = set()
        self.others = [(pod["metadata"]["creationTimestamp"], _name(pod)) for pod in pods]

    async def pods(self) -> list[Any]:
        return self._pods

    async def own(self) -> set[str]:
        return self.waiting


def _name(obj: Any) -> str:
    return str(obj["metadata"]["name"])


def obj(name: str, part: str, *, server: str = "alice", size: str = "1/4", **status: Any) -> Any:
    return {
        "metadata": {
            "name": name,
            "namespace": "notebooks",
            "creationTimestamp": f"2026-11-28T12:00:{len(name):02}Z",
            "labels": {PART: part, SERVER: server},
            "annotations": {f"{PREFIX}kernel-id": f"id of {name}", f"{PREFIX}size": size},
        },
        "spec": {},
        "status": {"phase": "Pending", **status},
    }


def engine(cluster: Cluster) -> KubernetesEngine:
    own = KubernetesEngine()
    own._cluster = cluster
    return own


class Noting(DraBackend):
    """Notes which claims are said to be a pod's."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, list[str]] = {}

    def granted(self, pod: Any, claims: Any, facts: Facts) -> None:
        self.told[_name(pod)] = [_name(claim) for claim in claims]


async def test_each_pod_is_told_with_its_claims_and_its_place() -> None:
    backend = Noting()
    pods = [obj("gpu-share-a", "kernel"), obj("gpu-share-a-b", "kernel"), obj("x", "kernel")]
    pods.append(obj("bob-1", "kernel", server="bob"))
    pods[2]["spec"]["nodeName"] = "node-1"
    claims = [
        obj("gpu-share-a-gpu", "claim"),
        obj("gpu-share-a-b-gpu", "claim"),
        obj("gpu-share-a-more", "claim", server="bob"),
        obj("x-gpu", "claim"),
        obj("xy-gpu", "claim"),
    ]
    rows = await engine(Known(backend, pods, claims)).allocations()
    assert backend.told == {
        # By its name the second could be of either.
        "gpu-share-a": ["gpu-share-a-gpu", "gpu-share-a-b-gpu"],
        "gpu-share-a-b": ["gpu-share-a-b-gpu"],
        "x": ["x-gpu"],
    }
    places = {row.kernel_id: row.queue and (row.queue.position, row.queue.of) for row in rows}
    assert places == {"id of gpu-share-a": (2, 3), "id of gpu-share-a-b": (3, 3), "id of x": None}


async def test_who_waits_for_a_gpu_is_in_the_snapshot_in_the_order_of_the_queue() -> None:
    pods = [
        obj("longest", "kernel", size="1/2", conditions=[NO_PLACE]),
        obj("short", "kernel", server="bob", conditions=[NO_PLACE]),
        obj("no-gpu", "kernel", size="0", conditions=[NO_PLACE]),
        obj("unseen", "kernel"),
        obj("placed", "kernel", conditions=[NO_PLACE]),
    ]
    pods[4]["spec"]["nodeName"] = "node-1"
    one = engine(Known(DraBackend(), pods, []))
    snapshot = await one.snapshot()
    assert snapshot is not None
    assert [(waiter.kernel_id, str(waiter.size)) for waiter in snapshot.waiting] == [
        ("id of short", "1/4"),
        ("id of longest", "1/2"),
    ]
    assert snapshot.served({"id of placed"}) == frozenset(), "there is no GPU"


class Fitting(DraBackend):
    """Says what a snapshot with these kernels' shares freed comes to."""

    helps = False

    def render(self, size: Size, facts: Facts) -> Any:
        """Any size can be had."""

    def capacity(self, facts: Facts) -> list[Capacity]:
        free = 10 if self.helps and not facts.pods else 0
        return [Capacity("gpu-1", "A", "node-1", 20, free)]


async def test_who_can_help_nobody_lists_nothing_and_who_can_looks_again() -> None:
    pods = [obj("waits", "kernel", server="bob", size="1/2", conditions=[NO_PLACE])]
    for helps in (False, True):
        backend = Fitting()
        backend.helps = helps
        cluster = Known(backend, pods, [])
        mine = {"metadata": {"name": "gpu-share-mine", "namespace": "notebooks"}}
        cluster.facts = Facts(pods=[mine])
        own = engine(cluster)
        kernel = SimpleNamespace(name="gpu-share-mine", claim_names=set(), share=None)
        own._kernels = {"mine": SimpleNamespace(objects=kernel)}  # type: ignore[dict-item]
        snapshot = await own.snapshot()
        assert snapshot is not None
        assert snapshot.served({"mine"}) == (frozenset({0}) if helps else frozenset())
        assert (cluster.looks, cluster.reads) == (1, 1 if helps else 0)


async def test_no_share_goes_for_who_has_one_by_now() -> None:
    """The watch can have heard nothing for a while, and then shows who waited then."""
    backend = Fitting()
    backend.helps = True
    for still in (True, False):
        pods = [obj("waits", "kernel", size="1/2", conditions=[NO_PLACE])]
        cluster = Known(backend, pods, [])
        cluster.facts = Facts(
            pods=[{"metadata": {"name": "gpu-share-mine", "namespace": "notebooks"}}]
        )
        cluster.queue.waiting = {"waits"} if still else set()
        own = engine(cluster)
        kernel = SimpleNamespace(name="gpu-share-mine", claim_names=set(), share=None)
        own._kernels = {"mine": SimpleNamespace(objects=kernel)}  # type: ignore[dict-item]
        snapshot = await own.snapshot()
        assert (snapshot is not None and bool(snapshot.served({"mine"}))) == still


async def test_without_anybody_who_waits_nothing_is_read() -> None:
    cluster = Known(DraBackend(), [obj("unseen", "kernel")], [])
    assert await engine(cluster).snapshot() is None
    assert cluster.reads == cluster.looks == 0
    assert await KubernetesEngine().snapshot() is None


async def test_all_sizes_are_held_against_one_reading() -> None:
    cluster = Known(DraBackend(), [], [])
    one = engine(cluster)
    sizes = [Size.parse(text) for text in ("1/4", "0", "1")]
    answers = await one.fits_each(None, sizes)
    assert cluster.reads == 1
    assert answers == [await one.fits(None, size) for size in sizes]
    assert [why is None for why in answers] == [False, True, False]


async def test_others_go_on_while_many_sizes_are_reckoned() -> None:
    """On thousands of nodes all of them together would hold up the kernels of the server."""
    one = engine(Known(DraBackend(), [], []))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(others())
    await one.fits_each(None, [Size.parse(f"1/{n}") for n in range(2, 42)])
    other.cancel()
    assert turns >= 40
