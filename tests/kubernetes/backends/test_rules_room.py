"""What is free in a cluster, shared out to those who wait, as far as its objects tell."""

from __future__ import annotations

from datetime import datetime, timezone
from fractions import Fraction
from typing import Any, cast

from shapes import Shapes, facts, renamed

from jupyter_gpu_share.broker.claim import Claim
from jupyter_gpu_share.broker.cluster.sight import ClusterSight, Part
from jupyter_gpu_share.engines.base import Waiter
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._snapshot import ClusterRoom, ClusterSnapshot
from jupyter_gpu_share.engines.kubernetes.backends import (
    Backend,
    DevicePluginBackend,
    DraBackend,
    Facts,
)
from jupyter_gpu_share.size import Size

DRA, PLUGIN = Shapes("dra"), Shapes("device_plugin")


def held(*names: str, device: str = "gpu-0") -> list[Any]:
    """Claims of 20 of the 80 GiB of a device."""
    found = []
    for name in names:
        claim = renamed(DRA.claim, name)
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        result["device"] = device
        found.append(claim)
    return found


def room(backend: Backend, known: Facts, *waiting: str) -> ClusterRoom:
    sizes = tuple(Waiter(None, Size.parse(text)) for text in waiting)
    return ClusterRoom(ClusterSnapshot(sizes, backend, known, "ns", {}))


def test_room_is_taken_where_the_least_is_left() -> None:
    known = Facts(slices=[DRA.shared80], claims=held("a", "b"))  # 40 and 80 GiB are free
    found = room(DraBackend(), known, "1/2", "1", "1/4")
    assert [found.take(n) for n in (0, 1, 2)] == [True, True, False]


def test_room_is_held_on_the_gpus_on_which_least_has_to_be_freed() -> None:
    known = Facts(slices=[DRA.shared80], claims=[*held("a", "b"), *held("c", device="gpu-1")])
    found = room(DraBackend(), known, "1", "1/2", "1/4")
    assert not found.take(0)
    found.hold(0)
    assert found.take(1), "the other one is left to everybody"
    assert not found.take(2)
    found = room(DraBackend(), known, "2x1", "1/4")
    found.hold(0)
    assert not found.take(1)


def test_gpus_that_are_not_parted_are_held_by_their_number() -> None:
    pod = renamed(PLUGIN.pod, "p")
    pod["spec"]["nodeName"] = PLUGIN.whole["metadata"]["name"]
    known = facts(PLUGIN.whole)
    number = DevicePluginBackend().room(Size.parse("1"), known)
    found = room(DevicePluginBackend(), known, *["1"] * number, "1", "2x1", "1")
    for each in range(number - 1):
        assert found.take(each)
    assert not found.take(number + 1), "one is left"
    found.hold(number + 1)
    assert not found.take(number + 2)


def test_a_kernels_gpus_are_on_one_node() -> None:
    """One is free on each of two nodes: that is no room for two, and one node is held."""
    known = Facts(slices=[DRA.shared80, DRA.shared40], claims=held("a", "b", "c", "d"))
    assert [gpu.node for gpu in DraBackend().capacity(known)] == ["node-1", "node-1", "node-2"]
    found = room(DraBackend(), known, "2x20GiB", *["20GiB"] * 3)
    assert not found.take(0)
    found.hold(0)
    assert [found.take(each) for each in (1, 2, 3)] == [True, True, False]


def test_nothing_is_free_where_that_is_not_known_and_for_what_can_never_be() -> None:
    known = Facts(slices=[DRA.shared80], missing=frozenset({"resourceclaims"}))
    found = room(DraBackend(), known, "1/4")
    assert not found.take(0)
    found.hold(0)
    found = room(DraBackend(), Facts(slices=[DRA.shared80]), "3x1", "1/4")
    assert not found.take(0)
    found.hold(0)
    assert found.take(1), "room is not held for what there will never be room for"


# -- as the rules see it ---------------------------------------------------------------------------


def claim(name: str, size: str = "1/4") -> Claim:
    moment = datetime(2026, 11, 23, tzinfo=timezone.utc)
    return Claim("ann", name, Size.parse(size), Fraction(1, 4), 20 * 2**30, moment)


class FakeCluster:
    """A fake of what is watched: old facts are shown, new ones read anew."""

    namespace = DRA.claim["metadata"]["namespace"]

    def __init__(self, shown: Facts, fresh: Facts) -> None:
        self.backend = DraBackend()
        self._shown, self._fresh = shown, fresh
        self.read = 0
        self.settings = KubernetesEngine()

    async def shown(self, **how: Any) -> Facts:
        return self._shown

    async def refresh(self) -> Facts:
        self.read += 1
        return self._fresh


def sight(cluster: FakeCluster, **parts: Part) -> ClusterSight:
    return ClusterSight(cast("Any", cluster), lambda: parts, {})


def full(*others: Any) -> Facts:
    mine = [*held("a", "b", "c", "d"), *held("e", "f", "g", "h", device="gpu-1")]
    return Facts(slices=[DRA.shared80], claims=[*mine, *others])


async def test_shares_are_given_back_by_what_is_there_now() -> None:
    cluster = FakeCluster(full(), Facts(slices=[DRA.shared80], claims=held("a", "b", "c", "d")))
    waiting = [claim("w")]
    found = await sight(cluster, k=Part(frozenset({"a"}))).snapshot(waiting)
    assert (found.served(()), cluster.read) == ({0}, 1), "there is room by now"
    found = await sight(cluster, k=Part(frozenset({"none"}))).snapshot(waiting)
    assert cluster.read == 1, "nothing would help"
    assert found.served({"k"}) == frozenset()


async def test_a_process_that_is_on_a_gpu_takes_its_share_there_and_no_other() -> None:
    known = full()
    cluster = FakeCluster(known, known)
    on_second = Part(frozenset(), only=frozenset({"GPU-0001"}), resting=frozenset({"h"}))
    parts = {"w": on_second, "k": Part(frozenset({"a"})), "m": Part(frozenset({"e"}))}
    found = await sight(cluster, **parts).snapshot([claim("w", "1/2"), claim("x")])
    assert found.served({"k"}) == {1}
    assert 0 in found.served({"m"}), "what it rests on is a part of its share"
    rooms = await sight(cluster, **parts).room([claim("w"), claim("x")])
    assert rooms.take(claim("w")), "what it rests on"
    assert not rooms.take(claim("x"))
    assert not rooms.take(claim("of another look"))


async def test_gpus_are_told_as_the_backend_has_them_and_as_they_are_declared() -> None:
    cluster = FakeCluster(full(), full())
    kind = {"memory": "80GiB", "node_selector": {"pool": "a"}, "model": "A100"}
    cluster.settings = KubernetesEngine(kinds=[kind])
    assert [(gpu.memory_bytes, gpu.profile) for gpu in sight(cluster).to_come()] == [
        (80 * 2**30, None)
    ]
    assert [gpu.free_bytes for gpu in await sight(cluster).gpus()] == [0, 0]
