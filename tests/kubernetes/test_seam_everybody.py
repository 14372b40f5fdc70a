"""Who makes kernels for all servers of a namespace watches it once, and asks for nobody's name."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from counted import CountedApi
from unanswered import Store
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._cluster import Cluster
from jupyter_gpu_share.engines.kubernetes._names import MANAGED, PART, PREFIX, SERVER
from jupyter_gpu_share.engines.kubernetes._rows import rows
from jupyter_gpu_share.engines.kubernetes._sweeper import Sweeper
from jupyter_gpu_share.engines.kubernetes._wanted import wanted
from jupyter_gpu_share.engines.kubernetes.api import LEASES, PODS, Change

pytestmark = pytest.mark.timeout(PATIENCE)

GROUPS = frozenset({"v1", "resource.k8s.io/v1"})


class Api(CountedApi):
    """A FAKE of the API of a cluster with DRA, in which nothing is yet."""

    namespace = "team"

    def __init__(self) -> None:
        super().__init__()
        kinds = ("resourceslices", "resourceclaims", "deviceclasses", "devicetaintrules")
        self.objects |= {kind: [] for kind in kinds}

    async def groups(self) -> frozenset[str]:
        return GROUPS

    async def create(self, resource: Any, body: Any, namespace: str | None = None) -> Any:
        self.asked[f"create {resource.plural}"] += 1
        return body


def kernel(name: str, server: str, second: int, node: str = "") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": f"2026-01-01T00:00:{second:02}Z",
            "labels": {SERVER: server, PART: "kernel", MANAGED[0]: MANAGED[1]},
            "annotations": {f"{PREFIX}kernel-id": name, f"{PREFIX}size": "1/4"},
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": "Pending"},
    }


async def opened(api: Api, told: Any = lambda change: None, *, everybody: bool = True) -> Cluster:
    settings = KubernetesEngine(backend="dra", server_name="" if everybody else "alice")
    cluster = Cluster(settings, told, everybody=everybody)
    cluster.api = api  # type: ignore[assignment]
    await cluster.open()
    return cluster


async def test_all_servers_are_watched_at_once() -> None:
    api, told = Api(), list[Change]()
    cluster = await opened(api, told.append)
    try:
        assert cluster.server == ""
        assert api.asked["create selfsubjectreviews"] == 0
        assert api.asked["create configmaps"] == 1
        for plural in ("pods", "resourceclaims"):
            await eventually(lambda plural=plural: api.following(plural), "it watches")
            assert api.asked[f"watch {plural}"] == 1
            assert api.following(plural) == 1
        asked = [query["labelSelector"] for query in api.queries if "labelSelector" in query]
        assert set(asked) == {"=".join(MANAGED)}
        api.put("pods", kernel("one", "hub-a", 1))
        api.put("pods", kernel("two", "hub-b", 2))
        await eventually(lambda: len(told) == 2, "both are told of")
        assert [each.name for each in told] == ["one", "two"]
        assert [row.kernel_id for row in rows(cluster, "hub-b", "kubernetes")] == ["two"]
    finally:
        await cluster.close()


async def test_one_server_watches_its_own() -> None:
    api = Api()
    cluster = await opened(api, everybody=False)
    try:
        asked = {query["labelSelector"] for query in api.queries if "labelSelector" in query}
        assert asked == {f"{'='.join(MANAGED)},{SERVER}=alice"}
    finally:
        await cluster.close()


async def test_the_queue_is_all_who_are_watched() -> None:
    api = Api()
    cluster = await opened(api)
    try:
        for number, name in enumerate(("third", "first", "second")):
            api.put("pods", kernel(name, f"hub-{number}", {"first": 1}.get(name, 10 * number + 5)))
        await eventually(lambda: len(cluster.pods.objects) == 3, "they are seen")
        places = {name: cluster.place(name) for name in ("first", "third", "second", "unseen")}
        assert {name: (each.position, each.of) for name, each in places.items()} == {
            "first": (1, 3),
            "third": (2, 3),
            "second": (3, 3),
            "unseen": (4, 4),
        }
        gone = kernel("first", "hub-1", 1, "node")
        cluster.pods.objects["first"] = gone
        cluster._changed(Change(kernel("first", "hub-1", 1), gone))
        assert (cluster.place("third").position, cluster.place("third").of) == (1, 2)
        await asyncio.sleep(0)
        assert api.asked["list metadata of pods"] == 0, "there are no others"
        assert await cluster.queue.pods() == []
    finally:
        await cluster.close()


async def test_a_place_is_not_counted_anew_for_each_who_asks() -> None:
    """With a thousand kernels that wait each change would be a million looks."""
    api = Api()
    cluster = await opened(api)
    try:
        counted = 0
        count = cluster._own_line

        def waiting() -> list[tuple[str, str]]:
            nonlocal counted
            counted += 1
            return count()

        cluster._own_line = waiting  # type: ignore[method-assign]
        for _ in range(100):
            cluster.place("one")
        assert counted == 1
        one = kernel("one", "hub-a", 1)
        cluster._changed(Change(one, {**one, "status": {"phase": "Pending", "conditions": []}}))
        cluster.place("one")
        for second, name in enumerate(("two", "three"), 2):
            cluster.pods.objects[name] = kernel(name, "hub-b", second)
            cluster._changed(Change(None, cluster.pods.objects[name]))
        assert (cluster.place("three").position, cluster.place("three").of) == (3, 3)
        cluster._changed(Change(cluster.pods.objects.pop("two"), None))
        assert (cluster.place("three").position, cluster.place("three").of) == (2, 2)
        assert counted == 1, "who comes and who goes is noted, and the others are not counted"
    finally:
        await cluster.close()


async def test_whoever_waits_is_seen_of_all_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    cluster = await opened(api)
    try:
        assert await wanted(cluster, {}, {}) is None
        turned_away = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 cannot allocate all claims.",
        }
        for name, server in (("one", "hub-a"), ("two", "hub-b")):
            pod = kernel(name, server, 1)
            pod["status"]["conditions"] = [turned_away]
            api.put("pods", pod)
        await eventually(lambda: len(cluster.pods.objects) == 2, "they are seen")
        seen = await wanted(cluster, {}, {})
        assert seen is not None
        assert {each.kernel_id for each in seen.waiting} == {"one", "two"}
    finally:
        await cluster.close()


async def test_who_is_alive_may_be_known_otherwise_than_by_leases() -> None:
    store = Store()
    settings = SimpleNamespace(sweep_interval=60.0)
    cluster = store.cluster(instance="broker", settings=settings)
    cluster.everybody = True
    cluster.is_own = lambda obj: True
    alive = {"process-a"}
    now = 0.0
    sweeper = Sweeper(
        cluster,
        lambda pod: pod["metadata"]["name"] == "held",
        lambda pod: pod["metadata"]["annotations"][f"{PREFIX}instance"] in alive,
    )
    sweeper.pending.clock = lambda: now
    for name, instance in (("a", "process-a"), ("b", "process-b"), ("held", "process-b")):
        pod = kernel(name, "hub-a", 1)
        pod["metadata"]["annotations"][f"{PREFIX}instance"] = instance
        await store.create(PODS, pod, "team")
    await sweeper.start()
    try:
        assert sweeper._renewing is None
        await sweeper.sweep()
        now = 11.0
        await sweeper.sweep()
        assert set(store.of(PODS)) == {"a", "held"}
        assert not store.of(LEASES), "it shows no sign of life of a server"
        alive.clear()
        await sweeper.sweep()
        assert set(store.of(PODS)) == {"held"}
    finally:
        await sweeper.close()
