"""MIG by the device plugin: the smallest instance that holds a size, in both strategies."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import GIB, MIB, Shapes, facts

from jupyter_gpu_share.allocations import Isolation
from jupyter_gpu_share.engines.kubernetes.backends import Facts, MigBackend, Rendered
from jupyter_gpu_share.errors import NoGpuError
from jupyter_gpu_share.size import Size

SHAPES = Shapes("mig")
BACKEND = MigBackend()
MIXED = {"1g.10gb": 9728, "2g.20gb": 19968, "3g.40gb": 40192}


def ask(size: str, *nodes: Any) -> Rendered:
    return BACKEND.render(Size.parse(size), facts(*nodes))


def pod(node: str, **limits: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "gpu-share-1", "namespace": "notebooks"},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "kernel", "resources": {"limits": limits}}],
        },
        "status": {"phase": "Running"},
    }


@pytest.mark.parametrize(
    ("size", "profile", "note"),
    [
        ("mig-1g.10gb", "1g.10gb", ""),
        ("2xmig-2g.20gb", "2g.20gb", ""),
        ("1/8", "1g.10gb", "1/8 becomes a MIG instance 1g.10gb of an A100 (9.5 GiB)."),
        ("1/7", "2g.20gb", "1/7 becomes a MIG instance 2g.20gb of an A100 (19.5 GiB)."),
        ("1/2", "3g.40gb", "1/2 becomes a MIG instance 3g.40gb of an A100 (39.2 GiB)."),
        ("9GiB", "1g.10gb", "9GiB becomes a MIG instance 1g.10gb of an A100 (9.5 GiB)."),
        ("10GiB", "2g.20gb", "10GiB becomes a MIG instance 2g.20gb of an A100 (19.5 GiB)."),
    ],
)
def test_a_size_becomes_the_smallest_instance_that_holds_it(
    size: str, profile: str, note: str
) -> None:
    rendered = ask(size, SHAPES.mixed)
    number = str(Size.parse(size).count)
    assert rendered.limits == {f"nvidia.com/mig-{profile}": number}
    assert rendered.memory_bytes == MIXED[profile] * MIB
    assert rendered.note == note


def test_in_strategy_single_instances_are_called_gpus() -> None:
    rendered = ask("1/8", SHAPES.single)
    assert rendered.limits == {"nvidia.com/gpu": "1"}
    assert not rendered.node_selector
    # A whole GPU of another node is called the same.
    beside = ask("1/8", SHAPES.single, SHAPES.whole)
    assert beside.node_selector == {"nvidia.com/gpu.memory": "9728"}
    whole = ask("1", SHAPES.single, SHAPES.whole)
    assert whole.node_selector == {"nvidia.com/gpu.memory": "81920"}
    assert not whole.note


def test_more_than_all_instances_may_become_a_whole_gpu() -> None:
    rendered = ask("3/4", SHAPES.mixed, SHAPES.whole)
    assert rendered.note == "3/4 becomes a whole GPU (80 GiB)."
    with pytest.raises(NoGpuError, match=r"there are mig-1g\.10gb, mig-2g\.20gb, mig-3g\.40gb"):
        ask("3/4", SHAPES.mixed)
    with pytest.raises(NoGpuError, match=r"the most is a MIG instance 3g\.40gb"):
        ask("41GiB", SHAPES.mixed)
    with pytest.raises(NoGpuError, match=r"there are mig-1g\.10gb"):
        ask("mig-7g.80gb", SHAPES.mixed)
    with pytest.raises(NoGpuError, match="no node of this cluster offers"):
        ask("1/8")


def test_profiles_with_a_sign_have_another_one_in_names_of_resources() -> None:
    assert ask("mig-1g.10gb+me", SHAPES.media).limits == {"nvidia.com/mig-1g.10gb.me": "1"}
    (instance,) = BACKEND.capacity(facts(SHAPES.media))
    assert instance.profile == "1g.10gb+me"


def test_instances_that_are_shared_in_turn_are_left_out() -> None:
    assert not MigBackend.offered(facts(SHAPES.shared))
    with pytest.raises(NoGpuError):
        ask("mig-1g.10gb", SHAPES.shared)


def test_resources_of_shared_instances_are_no_instances() -> None:
    node = SHAPES.shared
    node["status"]["allocatable"] = {"nvidia.com/mig-1g.10gb.shared": "28"}
    node["metadata"]["labels"]["nvidia.com/mig-1g.10gb.replicas"] = "1"
    assert not MigBackend.offered(facts(node))


def test_an_instance_with_all_slices_is_the_whole_gpu() -> None:
    node = SHAPES.single
    labels = node["metadata"]["labels"]
    labels["nvidia.com/gpu.product"] = "NVIDIA-H100-80GB-HBM3-MIG-7g.79gb"
    labels["nvidia.com/gpu.memory"] = "80896"
    rendered = ask("1", node)
    assert rendered.note == "1 becomes a MIG instance 7g.79gb of an H100 (79 GiB)."


def test_the_name_of_a_gh200_tells_of_the_processors_memory() -> None:
    """Its GPU has 96 GB; by its name every instance would be a fifth of what it is."""
    node = SHAPES.mixed
    labels = node["metadata"]["labels"]
    labels["nvidia.com/gpu.product"] = "NVIDIA-GH200-480GB"
    labels["nvidia.com/gpu.memory"] = "97871"
    labels |= {"nvidia.com/mig-1g.12gb.memory": "11264", "nvidia.com/mig-3g.48gb.memory": "47616"}
    node["status"]["allocatable"] = {"nvidia.com/mig-1g.12gb": "4", "nvidia.com/mig-3g.48gb": "1"}
    assert ask("1/8", node).limits == {"nvidia.com/mig-1g.12gb": "1"}
    assert ask("1/2", node).limits == {"nvidia.com/mig-3g.48gb": "1"}
    labels["nvidia.com/gpu.product"] = "NVIDIA-H100-80GB-HBM3"
    assert ask("1/7", node).limits == {"nvidia.com/mig-1g.12gb": "1"}


def test_a_server_that_may_not_read_nodes_asks_for_profiles_only() -> None:
    blind = Facts(missing=frozenset({"nodes"}))
    rendered = BACKEND.render(Size.parse("mig-1g.10gb"), blind)
    assert rendered.limits == {"nvidia.com/mig-1g.10gb": "1"}
    with pytest.raises(NoGpuError, match="cluster-read-pods"):
        BACKEND.render(Size.parse("1/8"), blind)


@given(
    st.one_of(
        st.fractions(min_value=Fraction(1, 100), max_value=1, max_denominator=100).map(
            lambda fraction: Size(fraction=fraction)
        ),
        st.integers(1, 80 * GIB).map(lambda memory: Size(memory=memory)),
    )
)
def test_nothing_is_rounded_down(size: Size) -> None:
    known = facts(SHAPES.mixed, SHAPES.whole)
    rendered = BACKEND.render(size, known)
    memory = rendered.memory_bytes
    assert memory is not None
    if size.memory is not None:
        assert memory >= size.memory
        better = [m * MIB for m in MIXED.values() if size.memory <= m * MIB < memory]
    else:
        nominal = {9728 * MIB: 10, 19968 * MIB: 20, 40192 * MIB: 40, 80 * GIB: 80}
        assert size.fraction is not None
        assert Fraction(nominal[memory], 80) >= size.fraction
        better = [m for m, n in nominal.items() if m < memory and Fraction(n, 80) >= size.fraction]
    assert not better


@pytest.mark.parametrize(
    ("node", "resource", "memory", "isolation"),
    [
        ("mixed", "nvidia.com/mig-2g.20gb", 19968 * MIB, Isolation.HARDWARE),
        ("single", "nvidia.com/gpu", 9728 * MIB, Isolation.HARDWARE),
        ("whole", "nvidia.com/gpu", 80 * GIB, Isolation.NONE),
    ],
)
def test_a_placed_pod_has_its_instance(
    node: str, resource: str, memory: int, isolation: Isolation
) -> None:
    there = getattr(SHAPES, node)
    name = there["metadata"]["name"]
    placed = pod(name, **{resource: "1"})
    share = BACKEND.granted(placed, [], facts(there))
    assert share is not None
    assert (share.memory_bytes, share.isolation) == (memory, isolation)
    assert [device.node for device in share.devices] == [name]
    waiting = {**placed, "spec": {**placed["spec"], "nodeName": None}}
    assert BACKEND.granted(waiting, [], facts(there)) is None


def test_a_node_that_cannot_be_read_is_believed_by_the_names() -> None:
    placed = pod("a100-mixed", **{"nvidia.com/mig-1g.10gb": "2"})
    share = BACKEND.granted(placed, [], Facts(missing=frozenset({"nodes"})))
    assert share is not None
    assert (len(share.devices), share.isolation) == (2, Isolation.HARDWARE)
    assert share.memory_bytes == 10 * 10**9


def test_what_is_free_is_known_by_instance() -> None:
    known = facts(SHAPES.mixed, pods=[pod("a100-mixed", **{"nvidia.com/mig-1g.10gb": "3"})])
    free = [gpu.profile for gpu in BACKEND.capacity(known) if gpu.free_bytes]
    assert sorted(str(profile) for profile in free) == [
        "1g.10gb",
        "2g.20gb",
        "2g.20gb",
        "3g.40gb",
    ]
    assert BACKEND.room(Size.parse("mig-1g.10gb"), known) == 1
    assert BACKEND.room(Size.parse("1/8"), known) == 1
    assert BACKEND.room(Size.parse("1/4"), known) == 2


def test_the_scheduler_is_understood() -> None:
    words = (
        "0/3 nodes are available: 3 Insufficient nvidia.com/mig-1g.10gb. preemption: 0/3 nodes "
        "are available: 3 No preemption victims found for incoming pod."
    )
    assert BACKEND.explain(words) == "All MIG instances 1g.10gb are in use."
    assert BACKEND.explain("2 Insufficient nvidia.com/gpu, 1 Insufficient cpu.") == (
        "All MIG instances that fit are in use."
    )
    assert BACKEND.explain("0/3 nodes are available: 3 Insufficient cpu.") is None


def test_doctor_says_which_instances_there_are() -> None:
    told = BACKEND.examine(facts(SHAPES.mixed))
    assert [finding.level for finding in told] == ["ok"] * 3
    assert "4 MIG instances 1g.10gb (9.5 GiB)" in told[0].what
    (nothing,) = BACKEND.examine(facts(SHAPES.whole))
    assert nothing.level == "error"
    assert "mig.config" in str(nothing.fix)
    unknown = SHAPES.single
    unknown["metadata"]["labels"]["nvidia.com/gpu.product"] = "NVIDIA-B200-MIG-1g.23gb"
    told = BACKEND.examine(facts(unknown))
    assert told[-1].level == "warning"
    assert "fractions" in told[-1].what
    (unread,) = BACKEND.examine(Facts(missing=frozenset({"nodes"})))
    assert "only MIG profiles can be asked for" in unread.what
    assert "cluster-read-pods" in str(unread.fix)
    partly = BACKEND.examine(facts(SHAPES.mixed, missing=frozenset({"pods"})))
    assert partly[-1].level == "note"
    assert "what is free is not known" in partly[-1].what
