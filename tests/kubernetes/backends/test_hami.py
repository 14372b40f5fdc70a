"""HAMi: what is asked of its scheduler, and what its annotations tell."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import GIB, MIB, Shapes, facts

from jupyter_gpu_share.allocations import Isolation
from jupyter_gpu_share.engines.kubernetes.backends import Facts, HamiBackend, Rendered
from jupyter_gpu_share.errors import EngineError, NoGpuError
from jupyter_gpu_share.size import Size

SHAPES = Shapes("hami")
BACKEND = HamiBackend()
V100 = 32768 * MIB
FIRST = "GPU-00552014-5c87-89ac-b1a6-7b53aa24b0ec"
SECOND = "GPU-0fc3eda5-e98b-a25b-5b0d-cf5c855d1448"


def ask(size: str, *nodes: Any, **options: str) -> Rendered:
    return HamiBackend(options).render(Size.parse(size), facts(*nodes))


@pytest.mark.parametrize(
    ("size", "limits", "memory"),
    [
        ("1/4", {"nvidia.com/gpumem": "8192"}, 8 * GIB),
        ("1/3", {"nvidia.com/gpumem": "10922"}, 10922 * MIB),
        ("3GiB", {"nvidia.com/gpumem": "3072"}, 3 * GIB),
        ("1", {"nvidia.com/gpumem-percentage": "100"}, V100),
    ],
)
def test_a_size_is_memory_in_mib(size: str, limits: dict[str, str], memory: int) -> None:
    rendered = ask(size, SHAPES.node)
    assert rendered.limits == {"nvidia.com/gpu": "1", **limits}
    assert rendered.memory_bytes == memory
    assert rendered.scheduler == "hami-scheduler"
    assert rendered.note == ""


def test_several_gpus_are_counted() -> None:
    rendered = ask("2x1/2", SHAPES.node)
    assert rendered.limits == {"nvidia.com/gpu": "2", "nvidia.com/gpumem": "16384"}


def test_of_gpus_that_differ_a_fraction_is_asked_for_in_percent() -> None:
    rendered = ask("1/3", SHAPES.node, SHAPES.node_mig)
    assert rendered.limits == {"nvidia.com/gpu": "1", "nvidia.com/gpumem-percentage": "33"}
    assert rendered.memory_bytes is None
    assert rendered.note == "1/3 becomes 33 % of a GPU."
    assert ask("1/4", SHAPES.node, SHAPES.node_mig).note == ""
    blind = BACKEND.render(Size.parse("1/4"), Facts(missing=frozenset({"nodes"})))
    assert blind.limits["nvidia.com/gpumem-percentage"] == "25"


def test_compute_is_limited_only_where_that_is_wanted() -> None:
    assert "nvidia.com/gpucores" not in ask("1/3", SHAPES.node).limits
    assert ask("1/3", SHAPES.node, cores="share").limits["nvidia.com/gpucores"] == "33"
    assert ask("8GiB", SHAPES.node, cores="share").limits["nvidia.com/gpucores"] == "25"
    # With all of its compute a GPU is taken by one kernel alone.
    assert ask("1", SHAPES.node, cores="share").limits["nvidia.com/gpucores"] == "100"


def test_memory_may_be_counted_in_larger_units() -> None:
    rendered = ask("3001MiB", SHAPES.node, memory_factor="10")
    assert rendered.limits["nvidia.com/gpumem"] == "301"
    assert rendered.memory_bytes == 3010 * MIB
    assert rendered.note == "3001MiB becomes 2.9 GiB."


def test_resources_may_have_other_names() -> None:
    rendered = ask("1/4", SHAPES.node, resource="example.com/vgpu", memory_resource="example.com/m")
    assert rendered.limits == {"example.com/vgpu": "1", "example.com/m": "8192"}


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("33GiB", "the largest has 32 GiB"),
        ("mig-1g.10gb", "Ask in GiB"),
    ],
)
def test_what_cannot_be_had_is_refused_in_words(size: str, words: str) -> None:
    with pytest.raises(NoGpuError, match=words):
        ask(size, SHAPES.node)
    with pytest.raises(NoGpuError, match=r"no node has registered|Ask in GiB"):
        ask(size)


@given(
    parts=st.lists(st.integers(1, 60), min_size=1, max_size=9),
    total=st.integers(4096, 200_000),
    factor=st.integers(1, 16),
)
def test_fractions_of_one_gpu_fit_into_it(parts: list[int], total: int, factor: int) -> None:
    node = SHAPES.node_nine_fields
    text = node["metadata"]["annotations"]["hami.io/node-nvidia-register"]
    node["metadata"]["annotations"]["hami.io/node-nvidia-register"] = text.replace(
        "32768", str(total)
    )
    backend, known = HamiBackend({"memory_factor": str(factor)}), facts(node)
    taken = 0
    for part in parts:
        rendered = backend.render(Size(fraction=Fraction(part, sum(parts))), known)
        assert rendered.memory_bytes is not None
        taken += rendered.memory_bytes
    assert taken <= total * MIB


@given(memory=st.integers(1, 32 * GIB), factor=st.integers(1, 16))
def test_memory_is_never_rounded_down(memory: int, factor: int) -> None:
    backend = HamiBackend({"memory_factor": str(factor)})
    try:
        rendered = backend.render(Size(memory=memory), facts(SHAPES.node))
    except NoGpuError:
        assert memory > 32 * GIB - factor * MIB
        return
    assert rendered.memory_bytes is not None
    assert memory <= rendered.memory_bytes < memory + factor * MIB
    units = int(rendered.limits["nvidia.com/gpumem"])
    assert units * factor * MIB == rendered.memory_bytes


@pytest.mark.parametrize("node", ["node", "node_old", "node_nine_fields"])
def test_every_way_in_which_nodes_register_gpus_is_read(node: str) -> None:
    gpus = BACKEND.capacity(facts(getattr(SHAPES, node)))
    assert [gpu.uuid for gpu in gpus] == [FIRST, SECOND]
    assert {gpu.model for gpu in gpus} == {"Tesla V100-PCIE-32GB"}
    assert {gpu.memory_bytes for gpu in gpus} == {V100}


def test_gpus_that_are_not_healthy_are_left_out() -> None:
    (gpu,) = BACKEND.capacity(facts(SHAPES.node_mig))
    assert gpu.uuid.endswith("1")
    node = SHAPES.node_old
    notes = node["metadata"]["annotations"]
    notes["hami.io/node-nvidia-register"] = notes["hami.io/node-nvidia-register"].replace(
        "0,true:GPU-0fc", "0,false:GPU-0fc"
    )
    assert [gpu.uuid for gpu in BACKEND.capacity(facts(node))] == [SECOND]


def test_gpus_of_a_node_that_hami_does_not_hear_are_not_free_and_can_be_asked_for() -> None:
    node = SHAPES.node
    usual = BACKEND.render(Size.parse("1/4"), facts(SHAPES.node))
    node["metadata"]["annotations"]["hami.io/node-handshake"] = "Deleted_2026.11.29 10:00:00"
    known = facts(node)
    assert BACKEND.render(Size.parse("1/4"), known) == usual
    assert BACKEND.room(Size.parse("1/4"), known) == 0
    assert {gpu.free_bytes for gpu in BACKEND.capacity(known)} == {0}


@pytest.mark.parametrize("text", ["", "[", "[1]", "{}", '[{"id":"GPU-1","health":true}]', "a,b,c:"])
def test_what_cannot_be_read_registers_nothing(text: str) -> None:
    node = SHAPES.node
    node["metadata"]["annotations"]["hami.io/node-nvidia-register"] = text
    assert BACKEND.capacity(facts(node)) == []
    assert not HamiBackend.offered(facts(node))


def test_a_placed_pod_has_what_the_scheduler_wrote() -> None:
    share = BACKEND.granted(SHAPES.pod, [], facts(SHAPES.node))
    assert share is not None
    (device,) = share.devices
    assert (device.uuid, device.node, device.model) == (SECOND, "v100", "Tesla V100-PCIE-32GB")
    assert share.memory_bytes == 3000 * MIB
    assert share.fraction == Fraction(3000, 32768)
    assert share.isolation is Isolation.PRELOAD
    two = BACKEND.granted(SHAPES.pod_two_gpus, [], facts(SHAPES.node))
    assert two is not None
    assert [device.uuid for device in two.devices] == [FIRST, SECOND]
    assert two.memory_bytes == 8 * GIB


def test_an_instance_is_a_wall_of_its_own() -> None:
    share = BACKEND.granted(SHAPES.pod_mig, [], facts(SHAPES.node_mig))
    assert share is not None
    assert share.isolation is Isolation.HARDWARE
    assert share.devices[0].uuid == "GPU-5d7e4a11-0000-4000-8000-000000000001"


def test_a_whole_gpu_has_no_neighbours_to_be_held_apart_from() -> None:
    pod = SHAPES.pod
    notes = pod["metadata"]["annotations"]
    notes["hami.io/vgpu-devices-allocated"] = f"{FIRST},NVIDIA,32768,0:;"
    share = BACKEND.granted(pod, [], facts(SHAPES.node))
    assert share is not None
    assert (share.fraction, share.isolation) == (1, Isolation.NONE)


def test_nothing_is_granted_before_the_scheduler_has_written_it() -> None:
    assert BACKEND.granted(SHAPES.pod_pending, [], facts(SHAPES.node)) is None
    placed = SHAPES.pod_pending
    placed["spec"]["nodeName"] = "v100"
    assert BACKEND.granted(placed, [], facts(SHAPES.node)) is None


def test_a_pod_has_a_share_once_it_is_on_its_node() -> None:
    # The scheduler writes the devices before it binds the pod, which may fail.
    pod = SHAPES.pod
    del pod["spec"]["nodeName"]
    assert BACKEND.granted(pod, [], facts(SHAPES.node)) is None


def test_what_is_free_counts_all_pods() -> None:
    known = facts(SHAPES.node, pods=[SHAPES.pod, SHAPES.pod_two_gpus])
    free = {gpu.uuid: gpu.free_bytes for gpu in BACKEND.capacity(known)}
    assert free == {FIRST: V100 - 8 * GIB, SECOND: V100 - 8 * GIB - 3000 * MIB}
    assert BACKEND.room(Size.parse("24GiB"), known) == 1
    assert BACKEND.room(Size.parse("1/2"), known) == 2
    assert BACKEND.room(Size.parse("1"), known) == 0


@pytest.mark.parametrize(("message", "words"), SHAPES.says)
def test_the_scheduler_is_understood(message: str, words: str) -> None:
    assert BACKEND.explain(message) == words


def test_doctor_says_what_is_there_and_what_is_missing() -> None:
    (good,) = BACKEND.examine(facts(SHAPES.node))
    assert good.what == "HAMi shares 2 GPUs (mode hami-core)."
    (nothing,) = BACKEND.examine(Facts())
    assert (nothing.level, bool(nothing.fix)) == ("error", True)
    (unread,) = BACKEND.examine(Facts(missing=frozenset({"nodes"})))
    assert "cluster-read-pods" in str(unread.fix)
    partly = BACKEND.examine(facts(SHAPES.node, missing=frozenset({"pods"})))
    assert "what is free is not known" in partly[-1].what


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cores": "all"}, "none or share"),
        ({"memory_factor": "0"}, "from 1 on"),
        ({"scheduler": "Not A Name"}, "is not a name"),
        ({"colour": "red"}, "has no option colour"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        HamiBackend(options)
