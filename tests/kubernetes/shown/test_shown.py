"""What pages that are open cost the API server (FAKE API)."""

from __future__ import annotations

import asyncio

import pytest
from counted import Clock, CountedApi, gpu_pod
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine, _live
from jupyter_gpu_share.engines.kubernetes._cluster import Cluster
from jupyter_gpu_share.engines.kubernetes._shared import Shared
from jupyter_gpu_share.engines.kubernetes.api import Change, Forbidden, Unreachable
from jupyter_gpu_share.engines.kubernetes.backends import Facts, make_backend

pytestmark = pytest.mark.timeout(PATIENCE)


async def free(cluster: Cluster) -> int:
    """GPUs that nobody has."""
    gpus = cluster.backend.capacity(await cluster.shown())
    return sum(gpu.free_bytes == gpu.memory_bytes for gpu in gpus)


# -- followed ----------------------------------------------------------------------------------


async def test_looks_at_a_cluster_that_stands_still_cost_nothing(
    api: CountedApi, cluster: Cluster, clock: Clock
) -> None:
    assert await free(cluster) == 3
    first = api.asked.copy()
    assert not first["list pods"], "they came as a stream"
    await eventually(lambda: api.following("pods") and api.following("nodes"), "it follows")
    first = api.asked.copy()
    for _ in range(100):
        clock.now += 15.0
        assert await free(cluster) == 3
    assert api.asked == first


async def test_what_changes_is_seen_by_the_next_look(api: CountedApi, cluster: Cluster) -> None:
    assert await free(cluster) == 3
    await eventually(lambda: api.following("pods"), "it follows")
    before = api.asked.copy()
    api.put("pods", gpu_pod("more", "node-1", 2))
    while await free(cluster) != 1:
        await asyncio.sleep(0)
    assert api.asked == before


async def test_what_nobody_looks_at_is_not_followed(
    api: CountedApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live, "_LINGER", 0.05)
    await free(cluster)
    await eventually(lambda: not api.following("pods") + api.following("nodes"), "it has ended")
    assert not cluster._live._watches  # type: ignore[union-attr]
    await eventually(lambda: cluster._live._ending.done(), "nothing runs on")  # type: ignore
    assert await free(cluster) == 3, "and it begins anew"
    assert api.asked["may watch pods"] == 1


async def test_no_decision_goes_by_what_is_shown(api: CountedApi, cluster: Cluster) -> None:
    await free(cluster)
    api.silent = True  # the watch hears of nothing any more, and has not noticed
    api.put("pods", gpu_pod("more", "node-1", 3))
    gpus = cluster.backend.capacity(await cluster.refresh())
    assert [gpu.free_bytes for gpu in gpus] == [0, 0, 0, 0]
    assert api.asked["list pods"] == 1


async def test_a_watch_that_hears_nothing_is_not_believed_for_long(
    api: CountedApi, cluster: Cluster, clock: Clock
) -> None:
    await free(cluster)
    (watch,) = (w for r, w in cluster._live._watches.items() if r.plural == "pods")  # type: ignore
    watch._error = "The Kubernetes API cannot be reached."
    await free(cluster)
    assert not api.asked["list pods"], "a moment is no reason to list"
    assert watch._heard is not None
    watch._heard -= 60.0
    await free(cluster)
    assert api.asked["list pods"] == 1


async def test_what_comes_slowly_is_not_begun_again(
    api: CountedApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live, "_PATIENCE", 0.05)
    api.sends.clear()
    assert await free(cluster) == 3, "it is listed"
    monkeypatch.setattr(_live, "_PATIENCE", 3600.0)  # only the first look waits
    assert await asyncio.wait_for(free(cluster), 60.0) == 3
    assert (api.asked["list pods"], api.asked["stream pods"]) == (1, 1)
    api.sends.set()
    await eventually(lambda: api.following("pods"), "it has come")
    before = api.asked.copy()
    api.put("pods", gpu_pod("more", "node-1", 2))
    while await free(cluster) != 1:
        await asyncio.sleep(0)
    assert api.asked == before


# -- listed, where it may not be followed --------------------------------------------------------


async def test_a_list_is_used_for_a_while_and_not_for_ever(
    api: CountedApi, cluster: Cluster, clock: Clock
) -> None:
    api.watchable.clear()
    cluster._moved = clock.now - 1000.0
    assert await free(cluster) == 3
    for _ in range(5):
        clock.now += 10.0
        api.put("pods", gpu_pod(f"pod-{clock.now}", "nowhere"))
        assert await free(cluster) == 3
    assert api.asked["list pods"] == 1, "nothing of ours has changed"
    clock.now += 11.0
    api.put("pods", gpu_pod("more", "node-1"))
    assert await free(cluster) == 2
    assert api.asked["list pods"] == 2
    assert api.asked["may watch pods"] == 1


async def test_who_looks_all_the_time_lists_every_ten_seconds(
    api: CountedApi, cluster: Cluster, clock: Clock
) -> None:
    """Who waits is looked at every 2 s where a kernel is idle."""
    api.watchable.clear()
    cluster._moved = clock.now - 1000.0
    for _ in range(20):
        clock.now += 2.0
        await cluster.shown(now_and_then=False)
    assert api.asked["list pods"] == 4


async def test_after_a_change_of_ours_it_is_listed_again(
    api: CountedApi, cluster: Cluster, clock: Clock
) -> None:
    api.watchable.clear()
    await free(cluster)
    clock.now += 5.0
    cluster._changed(Change(None, gpu_pod("ours", "node-1")))
    await free(cluster)
    assert api.asked["list pods"] == 1, "ten looks in a moment are no ten lists"
    clock.now += 6.0
    await free(cluster)
    assert api.asked["list pods"] == 2


async def test_a_right_that_is_missing_is_not_asked_for_all_the_time(
    api: CountedApi, cluster: Cluster, clock: Clock
) -> None:
    api.watchable.clear()
    api.fails["pods"] = [Forbidden("no"), Forbidden("no")]
    for _ in range(30):
        clock.now += 15.0
        assert "pods" in (await cluster.refresh()).missing
        assert "pods" in (await cluster.shown()).missing
    assert api.asked["list pods"] == 1
    clock.now += 600.0
    assert "pods" in (await cluster.refresh()).missing
    clock.now += 601.0
    assert "pods" not in (await cluster.refresh()).missing, "it was granted"


async def test_a_list_that_failed_is_not_kept(api: CountedApi, cluster: Cluster) -> None:
    api.fails["pods"] = [Unreachable("away")]
    api.answers.clear()
    both = [asyncio.ensure_future(cluster.refresh(0.0)) for _ in range(2)]
    await eventually(lambda: api.asked["list pods"], "it is asked")
    api.answers.set()
    answers = await asyncio.gather(*both, return_exceptions=True)
    assert all(isinstance(each, Unreachable) for each in answers)
    assert len((await cluster.refresh()).pods) == 1


# -- all who ask at once -------------------------------------------------------------------------


async def test_ten_who_ask_at_once_share_one_list(api: CountedApi, cluster: Cluster) -> None:
    api.answers.clear()
    ten = [asyncio.ensure_future(cluster.refresh()) for _ in range(10)]
    await eventually(lambda: api.asked["list pods"], "it is asked")
    ten[0].cancel()
    api.answers.set()
    answers = await asyncio.gather(*ten, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(len(facts.pods) == 1 for facts in answers[1:])  # type: ignore[union-attr]
    assert api.asked == {"list pods": 1, "list nodes": 1}


async def test_who_wants_to_know_it_as_it_is_now_gets_no_earlier_list(
    api: CountedApi, cluster: Cluster, clock: Clock
) -> None:
    api.answers.clear()
    early = asyncio.ensure_future(cluster.refresh())
    await eventually(lambda: api.asked["list pods"], "it is asked")
    clock.now += 5.0
    api.put("pods", gpu_pod("more", "node-1"))
    late = [asyncio.ensure_future(cluster.refresh()) for _ in range(3)]
    await asyncio.sleep(0)
    api.answers.set()
    assert [len((await each).pods) for each in late] == [2, 2, 2]
    await early
    assert len(cluster.facts.pods) == 2, "what is older does not replace it"
    assert api.asked["list pods"] == 2


async def test_what_began_earlier_does_not_replace_what_is_known(
    api: CountedApi, cluster: Cluster, clock: Clock
) -> None:
    await cluster.refresh()
    began = clock.now - 50.0

    async def slow(since: float) -> tuple[list[object], float]:
        return [], began

    cluster._readings["pods"].get = slow  # type: ignore[method-assign, assignment]
    clock.now += 5.0
    assert len((await cluster.refresh()).pods) == 1


async def test_a_reading_that_nobody_waits_for_can_be_given_up() -> None:
    shared = Shared(lambda: asyncio.sleep(3600.0))
    asked = asyncio.ensure_future(shared.get(0.0))
    await asyncio.sleep(0)
    asked.cancel()
    await shared.close()
    assert len(asyncio.all_tasks()) == 1


# -- a start -------------------------------------------------------------------------------------


async def test_a_start_lists_no_pods(api: CountedApi, cluster: Cluster) -> None:
    engine = KubernetesEngine()
    engine._cluster = cluster
    assert await engine.gpus(known=True) == []
    assert not api.asked, "what is known is told"
    gpus = await engine.gpus()
    assert len(gpus) == 4
    assert gpus[0].memory_bytes == 40960 * 2**20
    assert api.asked == {"list nodes": 1}
    assert await engine.gpus(known=True) == gpus


async def test_what_the_cluster_does_not_have_is_asked_for_seldom(
    api: CountedApi, cluster: Cluster, clock: Clock
) -> None:
    # DeviceTaintRules are of a group that older clusters have without them.
    api.objects |= {each: [] for each in ("resourceslices", "deviceclasses", "resourceclaims")}
    cluster.backend = make_backend("dra", {}, "pod")
    cluster._reads = cluster.backend.reads | cluster.backend.uses
    cluster.facts = Facts(groups=frozenset({"v1", "resource.k8s.io/v1"}))
    api.watchable |= {"devicetaintrules"}  # the administrator's rights are for everything
    api.missing.add("devicetaintrules")

    def asked() -> int:
        tries = ("list", "stream", "watch")
        return sum(api.asked[f"{each} devicetaintrules"] for each in tries)

    await cluster.shown()
    first = asked()
    for _ in range(50):
        clock.now += 10.0
        await cluster.shown()
        await cluster.refresh()
    assert asked() == first
    assert not cluster.backend.reads & cluster.facts.missing, "all that is needed is known"
    api.missing.clear()
    api.objects["devicetaintrules"] = []
    clock.now += 200.0
    await cluster.shown()
    assert asked() > first, "it may have come with a new version"
