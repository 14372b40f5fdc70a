"""Who else waits in a namespace, and whom what changes concerns (FAKE API)."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from counted import Clock, CountedApi, looked_at
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine, _queue
from jupyter_gpu_share.engines.kubernetes._names import PART, PREFIX, SERVER
from jupyter_gpu_share.engines.kubernetes._queue import Queue
from jupyter_gpu_share.engines.kubernetes._sweeper import Sweeper
from jupyter_gpu_share.engines.kubernetes.api import PODS, Change, Unreachable

pytestmark = pytest.mark.timeout(PATIENCE)


def pod(name: str, second: int, server: str = "bob", node: str | None = None) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "team",
            "creationTimestamp": f"2026-11-29T12:00:{second:02}Z",
            "labels": {PART: "kernel", SERVER: server},
            "annotations": {f"{PREFIX}kernel-id": name},
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": "Pending"},
    }


def queue_of(api: Any, read: Any = lambda: None) -> Queue:
    return Queue(api, "team", "alice", "kernel", read)


async def test_the_place_counts_who_waits_elsewhere() -> None:
    api = CountedApi()
    api.put("pods", pod("first", 1))
    api.put("pods", pod("third", 30))
    cluster = looked_at(api)
    cluster.pods = SimpleNamespace(  # type: ignore[assignment]
        objects={"second": pod("second", 20, "alice")}, close=lambda: asyncio.sleep(0)
    )
    cluster.queue = queue_of(api)
    cluster.place("second")
    await eventually(lambda: cluster.queue.others, "it was read")
    place = cluster.place("second")
    assert (place.position, place.of) == (2, 3)
    assert api.asked == {"list metadata of pods": 1}
    (query,) = api.queries
    assert query["resourceVersion"] == "0"
    assert query["fieldSelector"] == "spec.nodeName=,status.phase=Pending"
    assert query["labelSelector"].endswith(f"{PART}=kernel,{SERVER}!=alice")
    await cluster.close()


async def test_who_was_anothers_a_moment_ago_is_counted_once() -> None:
    """A server takes over what an earlier one of another name had."""
    api = CountedApi()
    api.put("pods", pod("first", 1))
    cluster = looked_at(api)
    cluster.pods = SimpleNamespace(  # type: ignore[assignment]
        objects={"second": pod("second", 20, "alice")}, close=lambda: asyncio.sleep(0)
    )
    cluster.queue = queue_of(api)
    cluster.place("second")
    await eventually(lambda: cluster.queue.others, "it was read")
    cluster.pods.objects["first"] = pod("first", 1, "alice")
    place = cluster.place("second")
    assert (place.position, place.of) == (2, 2)
    await cluster.close()


async def test_it_is_read_only_while_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_queue, "_AGAIN", 0.01)
    api = CountedApi()
    api.put("pods", pod("first", 1))
    asking = True

    def read() -> None:
        if asking:  # as a kernel that waits does when it looks again
            queue.ask()

    queue = queue_of(api, read)
    queue.ask()
    queue.ask()
    await eventually(lambda: api.asked["list metadata of pods"] >= 3, "it is read again")
    asking = False
    assert queue._task is not None
    await eventually(queue._task.done, "nobody waits any more")
    assert queue.others == [], "what is known grows old"
    await queue.close()


class Failing(CountedApi):
    """Answers once, and then so many times not."""

    failures = 3

    async def list_metadata(self, resource: Any, namespace: str, **query: str) -> Any:
        found = await super().list_metadata(resource, namespace, **query)
        if 1 < self.asked["list metadata of pods"] <= 1 + self.failures:
            raise Unreachable("away")
        return found


async def test_nobody_seems_to_be_the_first_because_no_answer_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_queue, "_AGAIN", 0.01)
    api = Failing()
    api.put("pods", pod("first", 1))
    read, known = 0, list[bool]()

    def told() -> None:
        nonlocal read
        read += 1
        known.append(bool(queue.others))
        if read == 1:
            queue.ask()

    queue = queue_of(api, told)
    queue.ask()
    task = queue._task
    await eventually(lambda: read == 2, "it is read again after the failures")
    assert queue._task is task, "and was not given up meanwhile"
    assert known == [True, True]
    await eventually(task.done, "nobody waits any more")  # type: ignore[union-attr]
    await queue.close()


async def test_that_nobody_waits_is_believed_for_a_while(clock: Clock) -> None:
    api = CountedApi()
    queue = queue_of(api)
    for _ in range(9):
        assert await queue.pods() == []
        clock.now += 1.0
    assert api.asked["list pods"] == 1
    api.put("pods", pod("first", 1))
    clock.now += 2.0
    assert len(await queue.pods()) == 1
    queue.alone = True
    api.objects["pods"].clear()
    clock.now += 2.0
    assert await queue.pods() == []
    before = api.asked["list pods"]
    clock.now += 59.0
    assert await queue.pods() == []
    assert api.asked["list pods"] == before
    clock.now += 2.0
    await queue.pods()
    assert api.asked["list pods"] == before + 1


async def test_that_somebody_waits_is_read_just_now(clock: Clock) -> None:
    """Shares are given back for them."""
    api = CountedApi()
    api.put("pods", pod("first", 1))
    queue = queue_of(api)
    assert len(await queue.pods()) == 1
    api.objects["pods"][0]["spec"]["nodeName"] = "node-1"
    clock.now += 2.0
    assert await queue.pods() == []


async def test_who_waits_of_ones_own_is_read_from_the_storage() -> None:
    api = CountedApi()
    api.put("pods", pod("waits", 1, "alice"))
    api.put("pods", pod("ends", 2, "alice"))
    api.objects["pods"][1]["metadata"]["deletionTimestamp"] = "2026-11-29T12:00:00Z"
    assert await queue_of(api).own() == {"waits"}
    (query,) = api.queries
    assert "resourceVersion" not in query, "what the server has in its memory may be old"
    assert query["fieldSelector"] == "spec.nodeName=,status.phase=Pending"
    assert f"{SERVER}=alice" in query["labelSelector"]
    assert f"{PART}=kernel" in query["labelSelector"]


async def test_a_reading_that_failed_says_nothing() -> None:
    api = CountedApi()
    api.put("pods", pod("first", 1))
    api.fails["pods"] = [Unreachable("away")]
    queue = queue_of(api)
    with pytest.raises(Unreachable):
        await queue.pods()
    assert len(await queue.pods()) == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# -- whom it concerns ----------------------------------------------------------------------------


async def test_only_this_servers_objects_are_watched() -> None:
    """What another server's pod does is not told here, and so wakes nobody."""
    api = CountedApi()
    cluster = looked_at(api)
    cluster.namespace, cluster.server = "team", "alice"
    cluster.pods = cluster._watch(PODS)
    await cluster.pods.synced()
    await eventually(lambda: api.following("pods"), "it watches")
    assert len(api.queries) == 2
    for query in api.queries:
        assert query["labelSelector"].endswith(f",{SERVER}=alice")
    await cluster.close()


class Noting:
    """A kernel that notes that it was woken."""

    def __init__(self) -> None:
        self.woken = 0

    @property
    def objects(self) -> Noting:
        """What it has in the cluster."""
        return self

    def look(self, gone: Any = None) -> None:
        self.woken += 1

    def appeared(self, name: str) -> None:
        """An object of it is new."""


async def test_a_change_wakes_whom_it_concerns() -> None:
    engine = KubernetesEngine()
    kernels: Any = {name: Noting() for name in ("one", "two", "three")}
    engine._kernels = kernels
    engine._waiting = {"one", "two"}

    def woken() -> dict[str, int]:
        counts = Counter({name: each.woken for name, each in kernels.items() if each.woken})
        for each in kernels.values():
            each.woken = 0
        return dict(counts)

    waiting, told = pod("one", 1, "alice"), pod("one", 1, "alice")
    told["status"]["conditions"] = [{"type": "PodScheduled", "status": "False"}]
    engine._changed(Change(None, waiting))
    assert woken() == {"one": 1, "two": 1}, "it is new in the queue"
    engine._changed(Change(waiting, told))
    assert woken() == {"one": 1}
    engine._changed(Change(told, pod("one", 1, "alice", "node-1")))
    assert woken() == {"one": 1, "two": 1}, "it has left the queue"
    engine._changed(Change(pod("three", 1, "alice", "n"), None))
    assert woken() == {"three": 1}
    engine._queue_moved()
    assert woken() == {"one": 1, "two": 1}, "others' places were read"


# -- what others have left -----------------------------------------------------------------------


@pytest.mark.parametrize(("servers", "sweeps"), [(0, 1), (2, 3), (50, 10)])
async def test_many_servers_sweep_as_often_as_one(servers: int, sweeps: int) -> None:
    api: Any = CountedApi()
    api.objects["leases"] = []
    for number in range(servers):
        meta = {"name": f"s-{number}", "uid": f"u-{number}", "labels": {SERVER: f"s-{number}"}}
        lease = {"metadata": meta, "spec": {"leaseDurationSeconds": 60, "renewTime": "now"}}
        api.objects["leases"].append(lease)
    cluster = looked_at(api)
    cluster.namespace, cluster.server = "team", "alice"
    cluster.pods = SimpleNamespace(  # type: ignore[assignment]
        objects={}, close=lambda: asyncio.sleep(0)
    )
    cluster.queue = queue_of(api)
    sweeper = Sweeper(cluster, lambda pod: False)
    for _ in range(2 * sweeps):
        await sweeper.sweep()
    assert api.asked == {"list pods": 2, "list leases": 2}
    assert cluster.queue.alone is (servers == 0)
    assert api.queries[0]["labelSelector"].endswith(f",{SERVER}!=alice")
    await cluster.close()
