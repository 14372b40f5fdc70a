"""NVIDIA's device plugin: rounding to replicas, which nodes, and what is read of them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import GIB, MIB, Shapes, facts, renamed

from jupyter_gpu_share.allocations import Isolation
from jupyter_gpu_share.engines.kubernetes.backends import (
    DevicePluginBackend,
    Facts,
    Rendered,
)
from jupyter_gpu_share.engines.kubernetes.backends._nodes import a_model
from jupyter_gpu_share.errors import EngineError, NoGpuError
from jupyter_gpu_share.size import Size

SHAPES = Shapes("device_plugin")
BACKEND = DevicePluginBackend()


def ask(size: str, *nodes: object, **options: str) -> Rendered:
    return DevicePluginBackend(options).render(Size.parse(size), facts(*nodes))


@pytest.mark.parametrize(
    ("size", "note"),
    [
        ("1/4", ""),
        ("1/8", "1/8 becomes 1 of 4 time slices of an A100 (20 GiB of 80 GiB)."),
        ("1/3", "1/3 becomes 1 of 4 time slices of an A100 (20 GiB of 80 GiB)."),
        ("20GiB", ""),
        ("5GiB", "5GiB becomes 1 of 4 time slices of an A100 (20 GiB of 80 GiB)."),
    ],
)
def test_a_size_becomes_one_time_slice_and_the_user_is_told(size: str, note: str) -> None:
    rendered = ask(size, SHAPES.slices4)
    assert rendered.limits == {"nvidia.com/gpu": "1"}
    assert rendered.memory_bytes == 20 * GIB
    assert rendered.note == note
    assert not rendered.node_selector


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("3/8", "not several. Ask for 1/4"),
        ("1/2", "1 of 4 time slices of an A100"),
        ("1", "Ask for 1/4"),
        ("21GiB", "the most is 1 of 4 time slices of an A100"),
        ("2x1/4", "different GPUs"),
        ("mig-1g.10gb", 'backend = "mig"'),
    ],
)
def test_what_one_time_slice_cannot_be_is_refused_in_words(size: str, words: str) -> None:
    with pytest.raises(NoGpuError, match=words):
        ask(size, SHAPES.slices4)


def test_a_replica_of_mps_is_never_less_than_asked_for() -> None:
    assert ask("1/10", SHAPES.mps10).memory_bytes == 1536 * MIB
    # Nearer to one than to two, but there is a wall at one.
    with pytest.raises(NoGpuError, match="MPS replicas of a T4"):
        ask("3/25", SHAPES.mps10)


def test_a_size_goes_to_the_nodes_with_the_smallest_part_that_holds_it() -> None:
    nodes = SHAPES.slices4, SHAPES.mps10, SHAPES.whole
    tenth = ask("1/10", *nodes)
    quarter = ask("1/8", *nodes)
    half = ask("1/2", *nodes)
    assert tenth.node_selector == {"nvidia.com/gpu.replicas": "10"}
    assert quarter.node_selector == {"nvidia.com/gpu.replicas": "4"}
    assert half.node_selector == {"nvidia.com/gpu.replicas": "1"}
    assert half.note == "1/2 becomes a whole GPU (79.6 GiB)."
    assert ask("2x1", *nodes).limits == {"nvidia.com/gpu": "2"}


def test_nodes_that_are_the_same_to_a_size_are_all_good_for_it() -> None:
    other = SHAPES.slices4
    other["metadata"]["name"] = "a100-small"
    other["metadata"]["labels"]["nvidia.com/gpu.memory"] = "40960"
    quarter = ask("1/4", SHAPES.slices4, other)
    assert not quarter.node_selector
    assert quarter.memory_bytes is None
    # Of memory only the larger ones have enough.
    assert ask("15GiB", SHAPES.slices4, other).node_selector == {"nvidia.com/gpu.memory": "81920"}


def test_memory_goes_to_the_smallest_part_that_holds_it() -> None:
    nodes = SHAPES.whole, SHAPES.slices4, SHAPES.mps10
    assert ask("10GiB", *nodes).node_selector == {"nvidia.com/gpu.replicas": "4"}
    assert ask("21GiB", *nodes).node_selector == {"nvidia.com/gpu.replicas": "1"}


def test_instances_that_are_called_gpus_are_left_to_the_other_backend() -> None:
    instances = Shapes("mig").single
    assert not DevicePluginBackend.offered(facts(instances))
    with pytest.raises(NoGpuError, match="no node of this cluster offers"):
        ask("1", instances)
    beside = ask("1", instances, SHAPES.whole)
    assert beside.node_selector == {"nvidia.com/gpu.memory": "81559"}
    assert len(BACKEND.capacity(facts(instances, SHAPES.whole))) == 4


def test_nodes_without_labels_are_told_apart_by_their_names() -> None:
    told = ask("1/4", SHAPES.unlabelled, SHAPES.slices4, replicas="1")
    assert told.node_selector == {"nvidia.com/gpu.replicas": "4"}
    whole = ask("1", SHAPES.unlabelled, SHAPES.slices4)
    assert whole.node_selector == {"kubernetes.io/hostname": "bare"}
    nameless = SHAPES.unlabelled
    nameless["metadata"]["labels"] = {}
    whole = ask("1", nameless, SHAPES.slices4)
    assert whole.node_selector == {"kubernetes.io/hostname": "bare"}


def test_memory_that_is_labelled_in_bytes_is_read_as_such() -> None:
    node = SHAPES.slices4
    node["metadata"]["labels"]["nvidia.com/gpu.memory"] = str(80 * GIB)
    assert ask("1/4", node).memory_bytes == 20 * GIB


def test_what_starts_before_a_container_takes_its_gpus_too() -> None:
    pod = SHAPES.pod
    containers = pod["spec"]["containers"]
    pod["spec"]["initContainers"] = [
        {"name": "first", "resources": {"limits": {"nvidia.com/gpu": "3"}}}
    ]
    assert BACKEND.room(Size.parse("1/4"), facts(SHAPES.slices4, pods=[pod])) == 5
    # They run one after the other.
    containers[0]["resources"]["limits"]["nvidia.com/gpu"] = "4"
    assert BACKEND.room(Size.parse("1/4"), facts(SHAPES.slices4, pods=[pod])) == 4


def test_renamed_replicas_are_asked_for_by_their_name() -> None:
    rendered = ask("1/4", SHAPES.renamed, SHAPES.whole)
    assert rendered.limits == {"nvidia.com/gpu.shared": "1"}
    assert not rendered.node_selector


def test_without_labels_nothing_is_taken_for_a_whole_gpu() -> None:
    for size in ("1", "1/2"):
        rendered = ask(size, SHAPES.unlabelled)
        assert rendered.limits == {"nvidia.com/gpu": "1"}
        assert rendered.note == (
            f"{size} becomes one nvidia.com/gpu, and whether others use the same GPU is not known."
        )
    with pytest.raises(NoGpuError, match=r"a GPU of its own is not known. Ask for 1\."):
        ask("2x1", SHAPES.unlabelled)
    assert ask("1/2", SHAPES.unlabelled, replicas="1").note == "1/2 becomes a whole GPU."
    assert ask("2x1", SHAPES.unlabelled, replicas="1").limits == {"nvidia.com/gpu": "2"}
    with pytest.raises(NoGpuError, match="do not say how much memory"):
        ask("10GiB", SHAPES.unlabelled)
    with pytest.raises(NoGpuError, match="in how many parts"):
        ask("1/4", SHAPES.unlabelled_renamed)
    told = ask("1/4", SHAPES.unlabelled_renamed, replicas="4", memory="80GiB")
    assert told.limits == {"nvidia.com/gpu.shared": "1"}
    assert told.memory_bytes == 20 * GIB


def test_a_server_that_may_not_read_nodes_goes_by_its_options() -> None:
    blind = Facts(missing=frozenset({"nodes"}))
    size = Size.parse("1/8")
    assert "whether others use the same GPU is not known" in BACKEND.render(size, blind).note
    assert DevicePluginBackend({"replicas": "1"}).render(size, blind).note == (
        "1/8 becomes a whole GPU."
    )
    told = DevicePluginBackend({"resource": "nvidia.com/gpu.shared", "replicas": "4"})
    rendered = told.render(size, blind)
    assert rendered.limits == {"nvidia.com/gpu.shared": "1"}
    assert rendered.note == "1/8 becomes 1 of 4 time slices of a GPU."
    with pytest.raises(NoGpuError, match="no node of this cluster offers"):
        BACKEND.render(size, Facts())


@given(
    fraction=st.fractions(min_value=Fraction(1, 200), max_value=1, max_denominator=200),
    replicas=st.integers(2, 16),
    sharing=st.sampled_from(["time-slicing", "mps"]),
)
def test_rounding_is_never_below_but_to_the_nearest_time_slice(
    fraction: Fraction, replicas: int, sharing: str
) -> None:
    node = SHAPES.slices4
    node["metadata"]["labels"]["nvidia.com/gpu.replicas"] = str(replicas)
    node["metadata"]["labels"]["nvidia.com/gpu.sharing-strategy"] = sharing
    try:
        rendered = BACKEND.render(Size(fraction=fraction), facts(node))
    except NoGpuError:
        # One replica is not enough, and no nearer than two would be.
        assert fraction > Fraction(1, replicas)
        assert sharing == "mps" or fraction * replicas >= Fraction(3, 2)
        return
    assert rendered.limits == {"nvidia.com/gpu": "1"}
    assert fraction <= Fraction(1, replicas) or (
        sharing == "time-slicing" and fraction * replicas < Fraction(3, 2)
    )
    assert bool(rendered.note) == (fraction != Fraction(1, replicas))


@given(memory=st.integers(1, 100 * GIB), replicas=st.integers(1, 16))
def test_memory_is_never_rounded_down(memory: int, replicas: int) -> None:
    node = SHAPES.slices4
    node["metadata"]["labels"]["nvidia.com/gpu.replicas"] = str(replicas)
    try:
        rendered = BACKEND.render(Size(memory=memory), facts(node))
    except NoGpuError:
        assert memory > 80 * GIB // replicas // MIB * MIB
    else:
        assert rendered.memory_bytes is not None
        assert rendered.memory_bytes >= memory


@pytest.mark.parametrize(
    ("node", "memory", "fraction", "isolation"),
    [
        ("slices4", 20 * GIB, Fraction(1, 4), Isolation.FRAMEWORK),
        ("mps10", 1536 * MIB, Fraction(1, 10), Isolation.MPS),
        ("whole", 81559 * MIB, Fraction(1), Isolation.NONE),
    ],
)
def test_a_placed_pod_has_the_part_that_its_node_gives(
    node: str, memory: int, fraction: Fraction, isolation: Isolation
) -> None:
    there, pod = getattr(SHAPES, node), SHAPES.pod
    pod["spec"]["nodeName"] = there["metadata"]["name"]
    share = BACKEND.granted(pod, [], facts(there))
    assert share is not None
    assert (share.memory_bytes, share.fraction, share.isolation) == (memory, fraction, isolation)
    (device,) = share.devices
    assert device.node == there["metadata"]["name"]
    assert "unnamed" in device.uuid


@pytest.mark.parametrize(
    ("size", "memory", "share"),
    [
        ("1/4", "", (0, Fraction(1, 4), Isolation.FRAMEWORK)),
        ("1/4", "80GiB", (20 * GIB, Fraction(1, 4), Isolation.FRAMEWORK)),
        ("10GiB", "80GiB", (10 * GIB, Fraction(1, 8), Isolation.FRAMEWORK)),
        ("1", "80GiB", (80 * GIB, Fraction(1), Isolation.NONE)),
    ],
)
@pytest.mark.parametrize("seen", [True, False])
def test_of_a_gpu_that_others_may_use_a_kernel_is_held_to_what_it_asked_for(
    size: str, memory: str, share: Any, seen: bool
) -> None:
    backend = DevicePluginBackend({"memory": memory} if memory else {})
    pod = renamed(SHAPES.pod, "one", **{"gpu-share.jupyter.org/size": size})
    pod["spec"]["nodeName"] = "bare"
    known = facts(SHAPES.unlabelled) if seen else Facts(missing=frozenset({"nodes"}))
    granted = backend.granted(pod, [], known)
    assert granted is not None
    assert (granted.memory_bytes, granted.fraction, granted.isolation) == share
    assert backend.render(Size.parse(size), known).memory_bytes == (share[0] or None)


def test_nothing_is_granted_before_the_pod_has_a_place() -> None:
    pod = SHAPES.pod
    del pod["spec"]["nodeName"]
    assert BACKEND.granted(pod, [], facts(SHAPES.slices4)) is None


def test_what_is_free_counts_the_pods_of_all_namespaces() -> None:
    pods = [renamed(SHAPES.pod, f"pod-{number}") for number in range(3)]
    pods[1]["metadata"]["namespace"] = "others"
    known = facts(SHAPES.slices4, pods=pods)
    slices = BACKEND.capacity(known)
    assert len(slices) == 8
    assert {gpu.memory_bytes for gpu in slices} == {20 * GIB}
    assert sum(gpu.free_bytes for gpu in slices) == 100 * GIB
    assert BACKEND.room(Size.parse("1/4"), known) == 5
    full = facts(SHAPES.slices4, pods=[renamed(SHAPES.pod, f"pod-{n}") for n in range(8)])
    assert BACKEND.room(Size.parse("1/4"), full) == 0


def test_several_whole_gpus_have_to_be_free_on_one_node() -> None:
    second = SHAPES.whole
    second["metadata"]["name"] = "h100-second"
    busy = SHAPES.pod
    busy["spec"]["nodeName"] = "h100-whole"
    busy["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "3"
    known = facts(SHAPES.whole, second, pods=[busy])
    assert BACKEND.room(Size.parse("4x1"), known) == 4
    busy_too = renamed(busy, "busy-too")
    busy_too["spec"] = {**busy["spec"], "nodeName": "h100-second"}
    assert BACKEND.room(Size.parse("2x1"), facts(SHAPES.whole, second, pods=[busy, busy_too])) == 1


def test_the_scheduler_is_understood() -> None:
    words = (
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are "
        "available: 3 No preemption victims found for incoming pod."
    )
    assert BACKEND.explain(words) == "All GPUs that fit are in use."
    affinity = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."
    assert BACKEND.explain(affinity) == "No node has a GPU of the kind that this size needs."
    assert BACKEND.explain("0/3 nodes are available: 3 Insufficient cpu.") is None


def test_doctor_says_what_each_node_offers_and_what_is_missing() -> None:
    told = BACKEND.examine(facts(SHAPES.slices4, SHAPES.unlabelled))
    assert [finding.level for finding in told] == ["ok", "ok", "warning", "warning", "note"]
    assert "8 times nvidia.com/gpu: 1 of 4 time slices of an A100" in told[0].what
    assert "bare" in told[2].what
    assert "GPU feature discovery" in str(told[2].fix)
    assert "How the GPUs of bare are shared is not known" in told[3].what
    (nothing,) = BACKEND.examine(Facts())
    assert nothing.level == "error"
    (unread,) = BACKEND.examine(Facts(missing=frozenset({"nodes"})))
    assert "cluster-read-pods" in str(unread.fix)
    told = BACKEND.examine(facts(SHAPES.whole, missing=frozenset({"pods"})))
    assert "cluster-read-pods" in str(told[-1].fix)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replicas": "0"}, "1 or more"),
        ({"replicas": "four"}, "four"),
        ({"memory": "much"}, "much"),
        ({"queue": "a"}, "has no option queue"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        DevicePluginBackend(options)


@pytest.mark.parametrize(
    ("product", "words"),
    [
        ("NVIDIA-A100-SXM4-80GB", "an A100"),
        ("Tesla-T4", "a T4"),
        ("NVIDIA-TESLA-V100", "a V100"),
        ("NVIDIA-L40S", "an L40S"),
        ("NVIDIA-GB200", "a GB200"),
        ("NVIDIA-GeForce-RTX-4090", "an RTX 4090"),
        ("NVIDIA-RTX-A6000", "an RTX A6000"),
        ("Quadro-RTX-8000", "a Quadro RTX 8000"),
        ("NVIDIA-TITAN-V", "a TITAN V"),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", "an RTX PRO 6000"),
        ("NVIDIA-TITAN-RTX", "a TITAN RTX"),
        ("GPU", "a GPU"),
        ("NVIDIA", "a GPU"),
    ],
)
def test_a_model_is_told_by_what_tells_it_from_others(product: str, words: str) -> None:
    assert a_model(product) == words
