"""Whose return would serve whom in a cluster, as far as its objects tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from shapes import Shapes, facts, renamed

from jupyter_gpu_share.engines.base import Waiter
from jupyter_gpu_share.engines.kubernetes._snapshot import ClusterSnapshot, without
from jupyter_gpu_share.engines.kubernetes.backends import (
    Backend,
    DevicePluginBackend,
    DraBackend,
    Facts,
    Placement,
)
from jupyter_gpu_share.kernels.reclaim import chosen
from jupyter_gpu_share.size import Size

DRA, PLUGIN = Shapes("dra"), Shapes("device_plugin")


def snapshot(
    backend: Backend,
    known: Facts,
    *waiting: str,
    only: Mapping[int, frozenset[str]] | None = None,
    pools: Mapping[str, str] | None = None,
) -> ClusterSnapshot:
    """Every pod and claim is a kernel's of its name, in the namespace of the first."""
    objects = [*known.pods, *known.claims]
    return ClusterSnapshot(
        waiting=tuple(Waiter(None, Size.parse(text)) for text in waiting),
        backend=backend,
        facts=known,
        namespace=objects[0]["metadata"]["namespace"],
        held={each["metadata"]["name"]: frozenset({each["metadata"]["name"]}) for each in objects},
        only=only or {},
        placements={
            Size.parse(size): Placement({"pool": pool}) for size, pool in (pools or {}).items()
        },
    )


def claims(*names: str, device: str = "gpu-0") -> list[Any]:
    """Claims of 20 of the 80 GiB of a device."""
    found = []
    for name in names:
        claim = renamed(DRA.claim, name)
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        result["device"] = device
        found.append(claim)
    return found


def full(**fields: Any) -> Facts:
    """Two GPUs of 80 GiB, each in the hands of four kernels."""
    held = [*claims("a", "b", "c", "d"), *claims("e", "f", "g", "h", device="gpu-1")]
    return Facts(slices=[DRA.shared80], claims=held, **fields)


def test_memory_that_is_freed_on_one_gpu_serves_those_that_fit_there_in_their_order() -> None:
    found = snapshot(DraBackend(), full(), "1/2", "1/4", "1/4")
    assert found.served(()) == frozenset()
    # The first has no room, and whether the scheduler keeps it for it is not known.
    assert found.served({"a"}) == {1}
    assert found.served({"a", "e"}) == {1, 2}
    assert found.served({"a", "b"}) == {0}
    assert found.served({"a", "b", "c"}) == {0, 1}
    assert found.served({"a", "b", "e", "f", "nobody"}) == {0, 1, 2}
    assert chosen(found, ["e", "a", "b"]) == {"a", "b", "e"}


def test_who_needs_one_gpu_is_not_served_by_another() -> None:
    found = snapshot(DraBackend(), full(), "1/4", only={0: frozenset({"GPU-0001"})})
    assert chosen(found, ["a", "b", "f"]) == {"f"}


def test_replicas_go_as_they_are() -> None:
    pods = [renamed(PLUGIN.pod, f"p{n}") for n in range(8)]
    found = snapshot(DevicePluginBackend(), facts(PLUGIN.slices4, pods=pods), "1/4", "1/8")
    assert found.served(()) == frozenset()
    assert found.served({"p1"}) == {0}
    assert chosen(found, ["p5", "p1", "p3"]) == {"p5", "p1"}


def test_nobody_is_served_where_that_is_not_known_or_can_never_be() -> None:
    known = full(missing=frozenset({"resourceclaims"}))
    assert snapshot(DraBackend(), known, "1/4").served({"a", "b"}) == frozenset()
    never = snapshot(DraBackend(), full(), "3x1", "90GiB", "mig-1g.10gb")
    assert chosen(never, ["a", "b", "c", "d"]) == frozenset()


def test_what_others_hold_under_the_same_names_stays() -> None:
    mine, other = claims("a", "a")
    other["metadata"]["namespace"] = "others"
    known = Facts(claims=[mine, other])
    assert without(known, mine["metadata"]["namespace"], {"a"}).claims == [other]


def test_who_goes_to_some_nodes_only_is_not_served_by_others() -> None:
    """In parts of GPUs, and in replicas."""
    names = ("node-1", "node-2")
    nodes = [
        {"metadata": {"name": name, "labels": {"pool": name}}, "spec": {}, "status": {}}
        for name in names
    ]
    on_two = claims("e", "f")
    for claim in on_two:
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        result["pool"] = "node-2"
    held = [*claims("a", "b", "c", "d"), *claims("g", "h", "i", "j", device="gpu-1"), *on_two]
    known = Facts(nodes=nodes, slices=[DRA.shared80, DRA.shared40], claims=held)
    found = snapshot(DraBackend(), known, "20GiB")
    assert chosen(found, ["a", "e"]) == {"a"}
    found = snapshot(DraBackend(), known, "20GiB", pools={"20GiB": "node-2"})
    assert chosen(found, ["a", "e"]) == {"e"}

    one, two = PLUGIN.slices4, PLUGIN.slices4
    pods = []
    for node, name in ((one, "one"), (two, "two")):
        node["metadata"]["name"] = node["metadata"]["labels"]["pool"] = name
        for number in range(8):
            pod = renamed(PLUGIN.pod, f"{name}-{number}")
            pod["spec"] = {**pod["spec"], "nodeName": name}
            pods.append(pod)
    known = facts(one, two, pods=pods)
    found = snapshot(DevicePluginBackend(), known, "1/4")
    assert found.served({"one-1"}) == {0}
    found = snapshot(DevicePluginBackend(), known, "1/4", pools={"1/4": "two"})
    assert found.served({"one-1"}) == frozenset()
    assert found.served({"two-1"}) == {0}


def counted(kind: type[Backend], asked: Counter[str]) -> Backend:
    """A backend that counts what goes through all nodes, GPUs or pods."""

    def noting(name: str) -> Any:
        def method(self: Any, *args: Any) -> Any:
            asked[name] += 1
            return getattr(kind, name)(self, *args)

        return method

    methods = {name: noting(name) for name in ("render", "room", "need", "capacity")}
    made: Backend = type("Counted", (kind,), methods)()
    return made


@pytest.mark.parametrize("kind", [DevicePluginBackend, DraBackend])
def test_a_hundred_who_wait_cost_no_more_than_one_of_each_size(kind: type[Backend]) -> None:
    """It is reckoned every 2 s on the event loop, for each set of shares that may go back."""
    node = {**PLUGIN.slices4, "metadata": {**PLUGIN.slices4["metadata"], "name": "n-1"}}
    known = Facts(nodes=[node], slices=[DRA.shared80], claims=claims("a"))
    costs = []
    for many in (1, 50):
        asked: Counter[str] = Counter()
        found = snapshot(counted(kind, asked), known, *["1/4", "1/2"] * many)
        assert found.served(())
        costs.append(asked)
    assert costs[0] == costs[1]
