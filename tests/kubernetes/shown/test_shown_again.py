"""Looks that meet an end, a refusal, or nothing new (FAKE API)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from counted import Clock, CountedApi, gpu_node, gpu_pod, looked_at
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.kubernetes import _live
from jupyter_gpu_share.engines.kubernetes._cluster import Cluster
from jupyter_gpu_share.engines.kubernetes.api import Forbidden, KubernetesError, Resource, _watch
from jupyter_gpu_share.engines.kubernetes.backends import UndecidedBackend

pytestmark = pytest.mark.timeout(PATIENCE)


class SlowToSay(CountedApi):
    """Takes its time to say what is allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.says = asyncio.Event()

    async def allowed(self, verb: str, resource: Resource, namespace: str | None) -> bool:
        found = await super().allowed(verb, resource, namespace)
        await self.says.wait()
        return found


def following() -> list[str]:
    """Names of the tasks that follow something."""
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name == "looks" or name.startswith("watch ")]


# -- the end -------------------------------------------------------------------------------------


async def test_no_watch_begins_after_the_end() -> None:
    """A page asks while its server is stopped."""
    api = SlowToSay()
    cluster = looked_at(api)
    look = asyncio.ensure_future(cluster.shown())
    await eventually(lambda: api.asked["may watch pods"], "it is asked")
    await cluster.close()
    api.says.set()
    await look
    assert following() == []


async def test_the_first_look_may_come_during_the_end(api: CountedApi) -> None:
    cluster = looked_at(api)
    await cluster.close()
    await cluster.shown()
    assert following() == []


async def test_who_waits_for_a_first_list_is_not_kept_at_the_end(
    api: CountedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live, "_PATIENCE", 3600.0)
    api.sends.clear()
    cluster = looked_at(api)
    look = asyncio.ensure_future(cluster.shown())
    await eventually(lambda: api.asked["stream pods"], "the list is asked for")
    await cluster.close()
    await asyncio.wait_for(look, 60.0)
    assert following() == []


async def test_who_waits_for_a_list_at_the_end_is_told_and_not_cancelled(api: CountedApi) -> None:
    cluster = looked_at(api)
    api.answers.clear()
    asked = [asyncio.ensure_future(cluster.refresh()) for _ in range(2)]
    await eventually(lambda: api.asked["list pods"] and api.asked["list nodes"], "it is asked")
    await cluster.close()
    answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60.0)
    assert [str(each) for each in answers] == ["The access to Kubernetes has been closed."] * 2
    with pytest.raises(KubernetesError, match="closed"):
        await cluster.refresh(0.0)
    assert api.asked["list pods"] == 1


# -- refusals ------------------------------------------------------------------------------------


async def test_what_may_be_watched_and_not_listed_is_not_tried_with_each_look(
    api: CountedApi, cluster: Cluster, clock: Clock
) -> None:
    api.streams_lists = False
    api.fails["pods"] = [Forbidden("no")] * 50
    for _ in range(10):
        clock.now += 15.0
        assert "pods" in (await cluster.shown()).missing
    assert api.asked["list pods"] == 2, "for a watch, and instead of it"


async def test_a_page_does_not_wait_long_for_what_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the API server does not answer, a list tells so; twice as late is no use."""
    monkeypatch.setattr(_live, "_PATIENCE", 0.05)
    api = SlowToSay()
    api.put("nodes", gpu_node("node-1"))
    cluster = looked_at(api)
    assert len(await asyncio.wait_for(cluster.capacity(), 60.0)) == 4
    assert api.asked["list nodes"] == 1
    await cluster.close()


class Denying(CountedApi):
    """Takes the right to watch away when told to."""

    denies = False

    @asynccontextmanager
    async def stream(self, path: str, what: str, query: Any, silence: float) -> AsyncIterator[Any]:
        if self.denies and "sendInitialEvents" not in query:
            self.asked["denied"] += 1
            raise Forbidden("no")
        async with super().stream(path, what, query, silence) as lines:
            yield lines


async def test_where_the_right_to_watch_is_taken_away_it_lists_and_where_it_is_back_it_watches(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(_watch, "_LONGEST_PAUSE", 0.05)
    api = Denying()
    api.put("nodes", gpu_node("node-1"))
    api.denies = True
    cluster = looked_at(api)
    await cluster.shown()
    await eventually(lambda: api.asked["denied"] > 4, "it is tried again")
    for watch in cluster._looks._watches.values():
        assert watch._heard is not None
        watch._heard -= 60.0
    api.put("pods", gpu_pod("theirs", "node-1"))
    for seconds in (0.0, 61.0, 61.0):
        clock.now += seconds
        assert len((await cluster.shown()).pods) == 1
    assert (api.asked["list pods"], api.asked["stream pods"]) == (3, 1)
    api.denies = False
    await eventually(lambda: api.following("pods") and api.following("nodes"), "it watches")
    clock.now += 61.0
    await cluster.shown()
    assert (api.asked["list pods"], api.asked["stream pods"]) == (3, 1)
    await cluster.close()


async def test_a_right_that_was_there_is_asked_for_again_soon(
    api: CountedApi, cluster: Cluster, clock: Clock
) -> None:
    """An API server that has just come back refuses until it has read who may do what."""
    await cluster.refresh()
    api.fails["pods"] = [Forbidden("no")]
    clock.now += 2.0
    both = await asyncio.gather(cluster.refresh(), cluster.refresh())
    assert all("pods" in facts.missing for facts in both)
    before = api.asked["list pods"]
    clock.now += 29.0
    await cluster.refresh()
    assert api.asked["list pods"] == before
    clock.now += 2.0
    assert "pods" not in (await cluster.refresh()).missing
    api.fails["pods"] = [Forbidden("no")] * 50
    for _ in range(300):
        clock.now += 2.0
        await cluster.refresh()
    assert api.asked["list pods"] == before + 3, "and less often once it stays so"


# -- nothing new ---------------------------------------------------------------------------------


async def test_what_is_free_is_reckoned_when_something_has_changed(
    api: CountedApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    reckoned = 0
    reckon = cluster.backend.capacity

    def counted(facts: Any) -> Any:
        nonlocal reckoned
        reckoned += 1
        return reckon(facts)

    monkeypatch.setattr(cluster.backend, "capacity", counted)

    async def free() -> int:
        return sum(gpu.free_bytes == gpu.memory_bytes for gpu in await cluster.capacity())

    assert await free() == 3
    await eventually(lambda: api.following("pods") and api.following("nodes"), "it follows")
    (await cluster.capacity()).clear()  # what a caller does with it is its own affair
    for _ in range(20):
        assert await free() == 3
    assert reckoned == 1
    watch = cluster._looks._watches
    (pods,) = (each for resource, each in watch.items() if resource.plural == "pods")
    without = gpu_pod("without", "node-1")
    del without["spec"]["containers"][0]["resources"]
    api.put("pods", without)
    await eventually(lambda: pods._position == str(api.version), "it has heard of it")
    assert await free() == 3
    assert reckoned == 1, "it asks for no GPU"
    api.put("pods", gpu_pod("more", "node-1", 2))
    await eventually(lambda: pods._position == str(api.version), "it has heard of it")
    assert await free() == 1
    assert reckoned == 2
    api.put("nodes", gpu_node("node-2"))
    while await free() != 5:
        await asyncio.sleep(0)
    assert reckoned == 3


async def test_a_cluster_without_gpus_costs_a_page_nothing_either(
    api: CountedApi, cluster: Cluster, clock: Clock
) -> None:
    """All nodes of a cluster were listed every 30 s until one had a GPU."""
    api.objects["nodes"].clear()
    api.put("nodes", {"metadata": {"name": "plain", "labels": {}}, "status": {}})
    cluster.backend = UndecidedBackend()
    cluster._reads = frozenset({"nodes", "resourceslices", "deviceclasses"})
    assert await cluster.capacity() == []
    await eventually(lambda: api.following("nodes"), "it follows")
    before = api.asked.copy()
    for _ in range(100):
        clock.now += 15.0
        assert await cluster.capacity() == []
    assert api.asked == before
    api.put("nodes", gpu_node("node-1"))
    while not await cluster.capacity():
        await asyncio.sleep(0)
    assert not cluster.undecided
    assert len(await cluster.capacity()) == 4


async def test_what_is_followed_again_after_a_pause_is_not_what_it_was(
    api: CountedApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live, "_LINGER", 0.05)
    assert len((await cluster.shown()).pods) == 1
    await eventually(lambda: not following(), "it is not followed any more")
    api.objects["pods"].clear()
    assert (await cluster.shown()).pods == []
