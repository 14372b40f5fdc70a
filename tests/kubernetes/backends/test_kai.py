"""KAI Scheduler: what pods ask of it, and what its labels and annotations tell."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from plans import body, kernel
from shapes import GIB, MIB, Shapes, facts, renamed

from jupyter_gpu_share.allocations import Isolation
from jupyter_gpu_share.engines.kubernetes.backends import (
    CONTAINER,
    Facts,
    KaiBackend,
    Rendered,
    kai_pods,
    make_backend,
)
from jupyter_gpu_share.errors import EngineError, NoGpuError
from jupyter_gpu_share.size import Size

SHAPES = Shapes("kai")
OF_KERNEL = {"gpu-fraction-container-name": "kernel"}
BACKEND = KaiBackend()
GROUP, OTHER = "3f1d0e5a-8b5e-4f0e-9d61-0c7f2c6f5a01", "9a0c1f44-2b77-4b0b-8a4b-1f7f2f7d6b02"
REQUEST = "nvidia.com/container.kernel.gpu-memory.request"
LIMIT = "nvidia.com/container.kernel.gpu-memory.limit"
#: MiB that KAI counts of a GPU that says 81920.
TOTAL = 81900


def ask(size: str, *nodes: Any, style: str = "pod", **options: str) -> Rendered:
    backend = make_backend("kai", options, style)
    return backend.render(Size.parse(size), facts(*(nodes or [SHAPES.node])))


@pytest.mark.parametrize(
    ("size", "annotations", "memory"),
    [
        ("1/2", {"gpu-fraction": "0.5"}, 40950 * MIB),
        ("1/3", {"gpu-fraction": "0.333333"}, 27299 * MIB),
        ("20GiB", {"gpu-memory": "20480"}, 20 * GIB),
        ("2x1/4", {"gpu-fraction": "0.25", "gpu-fraction-num-devices": "2"}, 20475 * MIB),
        ("2x1500MiB", {"gpu-memory": "1500", "gpu-fraction-num-devices": "2"}, 1500 * MIB),
    ],
)
def test_a_part_of_a_gpu_is_an_annotation(
    size: str, annotations: dict[str, str], memory: int
) -> None:
    rendered = ask(size)
    assert rendered.annotations == annotations | OF_KERNEL
    assert rendered.memory_bytes == memory
    assert not rendered.limits
    assert rendered.note == ""


def test_a_whole_gpu_and_an_instance_are_limits() -> None:
    whole = ask("2x1")
    assert whole.limits == {"nvidia.com/gpu": "2"}
    assert not whole.annotations
    assert ask("mig-1g.10gb", SHAPES.node_mig).limits == {"nvidia.com/mig-1g.10gb": "1"}
    with pytest.raises(NoGpuError, match=r"there are mig-1g\.10gb"):
        ask("mig-2g.20gb", SHAPES.node_mig)


@pytest.mark.parametrize(
    ("size", "memory", "note"),
    [
        ("20GiB", "20480Mi", ""),
        ("1/4", "20475Mi", ""),
        ("1/3", "27300Mi", ""),
    ],
)
def test_memory_by_container_has_a_limit(size: str, memory: str, note: str) -> None:
    rendered = ask(size, keys="container")
    assert rendered.annotations == {REQUEST: memory, LIMIT: memory}
    assert rendered.note == note


def test_of_gpus_that_differ_a_fraction_stays_one() -> None:
    small = SHAPES.node
    small["metadata"]["name"] = "gpu-2"
    small["metadata"]["labels"]["nvidia.com/gpu.memory"] = "40960"
    rendered = ask("1/4", SHAPES.node, small, keys="container")
    assert rendered.annotations == {"gpu-fraction": "0.25"} | OF_KERNEL
    assert rendered.memory_bytes is None
    blind = BACKEND.render(Size.parse("1/4"), Facts(missing=frozenset({"nodes"})))
    assert blind.annotations == {"gpu-fraction": "0.25"} | OF_KERNEL
    assert blind.memory_bytes is None


def test_the_pod_goes_to_the_scheduler_with_its_queue_and_priority() -> None:
    options = {
        "queue": "team-a",
        "priority": "train",
        "scheduler": "kai",
        "runtime_class": "nvidia",
    }
    pod = body(rendered=ask("1/2", **options), claims={})
    assert pod["spec"]["schedulerName"] == "kai"
    assert pod["spec"]["priorityClassName"] == "train"
    assert pod["spec"]["runtimeClassName"] == "nvidia"
    assert pod["metadata"]["labels"]["kai.scheduler/queue"] == "team-a"
    notes = pod["metadata"]["annotations"]
    assert notes["gpu-fraction"] == "0.5"
    # Of two kernels that called theirs the same, one would see the other one's GPU.
    assert notes["runai/shared-gpu-configmap"] == pod["metadata"]["name"] + "-gpu"
    # KAI names a volume after it: 63 characters at most, with what follows.
    assert len(notes["runai/shared-gpu-configmap"] + "-0-evar-vol") <= 63
    whole = body(rendered=ask("1"), claims={})
    assert "runai/shared-gpu-configmap" not in whole["metadata"]["annotations"]
    other = body(rendered=ask("1/2", queue_label="runai/queue"), claims={})
    assert other["metadata"]["labels"]["runai/queue"] == "default-queue"


def test_the_kernels_container_is_the_one_that_is_meant() -> None:
    pod = body(rendered=ask("1/4", keys="container"), claims={})
    names = [key.split(".")[2] for key in pod["metadata"]["annotations"] if "container." in key]
    assert names == [CONTAINER, CONTAINER]
    # Without a name KAI means the first one, which may be somebody else's in the end.
    for size in ("1/4", "20GiB", "2x1/4"):
        notes = body(rendered=ask(size), claims={})["metadata"]["annotations"]
        assert notes["gpu-fraction-container-name"] == CONTAINER == kernel(pod)["name"]


def test_in_style_annotation_a_little_of_each_gpu_is_left_for_others() -> None:
    half = ask("1/2", style="annotation")
    assert half.annotations == {"gpu-fraction": "0.4995"} | OF_KERNEL
    assert half.note == "1/2 becomes 0.4995 of a GPU."
    whole = ask("1", style="annotation")
    assert whole.annotations == {"gpu-fraction": "0.999"} | OF_KERNEL
    assert not whole.limits
    whole = ask("20GiB", style="annotation")
    assert whole.annotations == {"gpu-memory": "20480"} | OF_KERNEL
    with pytest.raises(NoGpuError, match="style annotation"):
        ask("mig-1g.10gb", SHAPES.node_mig, style="annotation")


@pytest.mark.parametrize(
    ("size", "words"),
    [("80GiB", "the most is 81900MiB"), ("1/5000000", "less than a millionth")],
)
def test_what_cannot_be_had_is_refused_in_words(size: str, words: str) -> None:
    with pytest.raises(NoGpuError, match=words):
        ask(size)
    with pytest.raises(NoGpuError, match="no node of this cluster offers"):
        BACKEND.render(Size.parse("1/2"), Facts())


@given(
    parts=st.lists(st.integers(1, 60), min_size=1, max_size=9),
    total=st.integers(4096, 200_000),
    keys=st.sampled_from(["legacy", "container"]),
    style=st.sampled_from(["pod", "annotation"]),
)
def test_fractions_of_one_gpu_fit_into_it(
    parts: list[int], total: int, keys: str, style: str
) -> None:
    node = SHAPES.node
    node["metadata"]["labels"]["nvidia.com/gpu.memory"] = str(total)
    backend, taken = make_backend("kai", {"keys": keys}, style), Fraction(0)
    for part in parts:
        size = Size(fraction=Fraction(part, sum(parts)))
        if size.is_whole and style == "pod":
            return
        pod = {"metadata": {"annotations": dict(backend.render(size, facts(node)).annotations)}}
        amount = kai_pods.amount_of(pod, kai_pods.counted(total))
        assert amount is not None
        assert amount > 0
        taken += amount
    assert taken <= kai_pods.counted(total)
    if style == "annotation":
        assert kai_pods.counted(total) - taken >= kai_pods.counted(total) // 1000


@given(memory=st.integers(1, TOTAL * MIB), keys=st.sampled_from(["legacy", "container"]))
def test_memory_is_never_rounded_down(memory: int, keys: str) -> None:
    rendered = KaiBackend({"keys": keys}).render(Size(memory=memory), facts(SHAPES.node))
    pod = {"metadata": {"annotations": dict(rendered.annotations)}}
    amount = kai_pods.amount_of(pod, TOTAL)
    assert amount is not None
    assert memory <= amount * MIB < memory + MIB
    assert rendered.memory_bytes == amount * MIB


@given(st.fractions(min_value=Fraction(1, 999_999), max_value=Fraction(999, 1000)))
@example(Fraction(999, 8000) - Fraction(1, 10**40))
def test_a_fraction_is_written_so_that_it_reads_back_no_larger(fraction: Fraction) -> None:
    text = kai_pods.decimal(fraction)
    assert set(text) <= set("0123456789.")
    assert fraction - Fraction(1, 10**6) < Fraction(text) <= fraction


@pytest.mark.parametrize(
    ("pod", "memory", "isolation"),
    [
        ("fraction", 40950 * MIB, Isolation.FRAMEWORK),
        ("fraction_as_binder_writes", 28346155008, Isolation.FRAMEWORK),
        ("memory", 20 * GIB, Isolation.FRAMEWORK),
        ("memory_as_webhook_writes", 20 * GIB, Isolation.FRAMEWORK),
        ("container", 20 * GIB, Isolation.FRAMEWORK),
        ("hami_core", 20 * GIB, Isolation.PRELOAD),
    ],
)
def test_a_placed_pod_has_what_kai_counts_it_for(
    pod: str, memory: int, isolation: Isolation
) -> None:
    share = BACKEND.granted(getattr(SHAPES, pod), [], facts(SHAPES.node))
    assert share is not None
    assert (share.memory_bytes, share.isolation) == (memory, isolation)
    assert share.fraction == Fraction(memory, TOTAL * MIB)
    assert share.devices[0].model == "NVIDIA-A100-SXM4-80GB"


def test_the_driver_holds_memory_only_where_the_node_is_ready_for_it() -> None:
    share = BACKEND.granted(SHAPES.container, [], facts(SHAPES.node_enforced))
    assert share is not None
    assert share.isolation is Isolation.DRIVER
    fraction = BACKEND.granted(SHAPES.fraction, [], facts(SHAPES.node_enforced))
    assert fraction is not None
    assert fraction.isolation is Isolation.FRAMEWORK


def test_a_library_that_is_only_half_there_is_no_wall() -> None:
    # It is loaded by one, and told the limit by the other.
    for missing in ("env", "volumeMounts"):
        pod = SHAPES.hami_core
        del pod["spec"]["containers"][0][missing]
        share = BACKEND.granted(pod, [], facts(SHAPES.node))
        assert share is not None
        assert share.isolation is Isolation.FRAMEWORK, missing


#: What a pod asked for, and the limit of the library that a real KAI wrote then, in MiB of a GPU of
#: 80 GiB (KAI of August 2026 with its plugin hamicore).
_LIBRARY = [
    ("gpu-fraction", "0.333333", 27033),
    ("gpu-fraction", "0.125", 9830),
    ("gpu-fraction", "0.005", 819),
    ("gpu-memory", "10240", 10649),
]


@pytest.mark.parametrize(("key", "text", "limit"), _LIBRARY)
def test_no_more_is_told_than_the_library_allows(key: str, text: str, limit: int) -> None:
    pod = limited(key, text)
    counted = kai_pods.amount_of(pod, TOTAL)
    assert counted is not None
    assert kai_pods.library_limit(counted, TOTAL, 81920) == limit
    share = BACKEND.granted(pod, [], facts(SHAPES.node))
    assert share is not None
    assert share.memory_bytes == min(int(counted), limit) * MIB
    assert share.isolation is Isolation.PRELOAD


def test_a_limit_of_nothing_is_none() -> None:
    share = BACKEND.granted(limited("gpu-fraction", "0.004"), [], facts(SHAPES.node))
    assert share is not None
    assert share.memory_bytes == int(TOTAL * Fraction("0.004")) * MIB
    assert share.isolation is Isolation.FRAMEWORK


def limited(key: str, text: str) -> dict[str, Any]:
    """A pod with the library, and another amount."""
    pod: dict[str, Any] = SHAPES.hami_core
    del pod["metadata"]["annotations"]["gpu-memory"]
    pod["metadata"]["annotations"][key] = text
    return pod


def test_a_kernel_with_the_librarys_limit_keeps_its_size_while_it_runs() -> None:
    assert kai_pods.resized(SHAPES.memory, Fraction(30000), TOTAL) is not None
    assert kai_pods.resized(SHAPES.hami_core, Fraction(30000), TOTAL) is None


def test_a_gpu_is_named_as_well_as_it_is_known() -> None:
    uuid = "GPU-7ac1d2b6-90e1-4f5e-9a4b-6a2f6f0f0001"
    for pod, pods, name in (
        (SHAPES.fraction, [], GROUP),
        (SHAPES.fraction, [SHAPES.reservation], uuid),
        (SHAPES.container, [], uuid),
    ):
        share = BACKEND.granted(pod, [], facts(SHAPES.node, pods=pods))
        assert share is not None
        assert [device.uuid for device in share.devices] == [name]
    two = BACKEND.granted(SHAPES.two_gpus, [], facts(SHAPES.node))
    assert two is not None
    assert [device.uuid for device in two.devices] == [GROUP, OTHER]
    assert two.memory_bytes == 20475 * MIB
    # Names of two kinds for the GPUs of one pod could be taken for more than there are.
    half = BACKEND.granted(SHAPES.two_gpus, [], facts(SHAPES.node, pods=[SHAPES.reservation]))
    assert half is not None
    assert [device.uuid for device in half.devices] == [GROUP, OTHER]


def test_whole_gpus_and_instances_are_granted_as_such() -> None:
    whole = BACKEND.granted(SHAPES.whole, [], facts(SHAPES.node))
    assert whole is not None
    assert (whole.memory_bytes, whole.fraction, whole.isolation) == (80 * GIB, 1, Isolation.NONE)
    instance = BACKEND.granted(SHAPES.instance, [], facts(SHAPES.node_mig))
    assert instance is not None
    assert (instance.memory_bytes, instance.isolation) == (9728 * MIB, Isolation.HARDWARE)


def test_nothing_is_granted_before_kai_has_placed_the_pod() -> None:
    pod = SHAPES.fraction
    del pod["spec"]["nodeName"]
    assert BACKEND.granted(pod, [], facts(SHAPES.node)) is None
    pod = SHAPES.fraction
    del pod["metadata"]["labels"]["runai-gpu-group"]
    assert BACKEND.granted(pod, [], facts(SHAPES.node)) is None


def test_a_node_that_cannot_be_read_leaves_the_fraction() -> None:
    share = BACKEND.granted(SHAPES.fraction, [], Facts(missing=frozenset({"nodes"})))
    assert share is not None
    assert (share.memory_bytes, share.fraction) == (0, Fraction(1, 2))
    # Caps in the frameworks would be nothing of nothing.
    assert share.isolation is Isolation.NONE


def test_what_is_free_goes_by_groups_and_the_gpus_without_one() -> None:
    pods = [SHAPES.reservation, SHAPES.fraction, SHAPES.memory]
    gpus = BACKEND.capacity(facts(SHAPES.node, pods=pods))
    assert [(gpu.free_bytes, gpu.kernels) for gpu in gpus] == [(20470 * MIB, 2), (TOTAL * MIB, 0)]
    gpus = BACKEND.capacity(facts(SHAPES.node, pods=[*pods, SHAPES.whole]))
    assert [gpu.free_bytes for gpu in gpus] == [20470 * MIB, 0]
    assert BACKEND.room(Size.parse("1/4"), facts(SHAPES.node, pods=pods)) == 1
    assert BACKEND.room(Size.parse("20470MiB"), facts(SHAPES.node, pods=pods)) == 2
    assert BACKEND.room(Size.parse("1"), facts(SHAPES.node, pods=pods)) == 1
    instances = BACKEND.capacity(facts(SHAPES.node_mig, pods=[SHAPES.instance]))
    assert [bool(gpu.free_bytes) for gpu in instances] == [False] + [True] * 6
    assert {gpu.profile for gpu in instances} == {"1g.10gb"}


@pytest.mark.parametrize(("message", "words"), SHAPES.says)
def test_the_scheduler_is_understood(message: str, words: str) -> None:
    told = BACKEND.explain(message)
    assert told is not None
    assert told.startswith(words)


@pytest.mark.parametrize("label", [15360, 16384, 24564, 40536, 81559, 81920, 143771])
def test_no_size_is_accepted_that_kai_has_no_place_for(label: int) -> None:
    """KAI counts with a multiple of 100 MiB; what it can give is what is offered and shown."""
    node = SHAPES.node
    node["metadata"]["labels"]["nvidia.com/gpu.memory"] = str(label)
    there = facts(node)
    most = label // 100 * 100
    for gpu in BACKEND.capacity(there):
        assert gpu.free_bytes == gpu.memory_bytes == most * MIB
    assert BACKEND.render(Size.parse(f"{most}MiB"), there).memory_bytes == most * MIB
    with pytest.raises(NoGpuError):
        BACKEND.render(Size.parse(f"{most + 1}MiB"), there)
    halves = [BACKEND.render(Size.parse("1/2"), there).memory_bytes for _ in range(2)]
    assert sum(half or 0 for half in halves) <= most * MIB
    # A whole GPU is no part of one.
    assert BACKEND.render(Size.parse("1"), there).memory_bytes == label * MIB


def test_where_no_gpu_tells_its_memory_kai_gives_parts_only() -> None:
    node = SHAPES.node
    del node["metadata"]["labels"]["nvidia.com/gpu.memory"]
    assert ask("1/4", node).annotations == {"gpu-fraction": "0.25"} | OF_KERNEL
    with pytest.raises(NoGpuError, match="Pick a part of a GPU"):
        ask("10GiB", node)
    assert ask("10GiB", node, SHAPES.node).annotations == {"gpu-memory": "10240"} | OF_KERNEL


def test_a_deleted_pod_that_kai_may_have_deleted_was_reclaimed() -> None:
    safe = SHAPES.fraction
    assert BACKEND.reclaimed(safe) is None
    taken = SHAPES.fraction
    taken["spec"]["priority"] = 75
    assert "reclaimed" in str(BACKEND.reclaimed(taken))
    taken["spec"]["schedulerName"] = "default-scheduler"
    assert BACKEND.reclaimed(taken) is None


def test_doctor_says_what_is_there_and_what_is_missing() -> None:
    groups = frozenset({"scheduling.run.ai/v2"})
    good = BACKEND.examine(facts(SHAPES.node, groups=groups))
    assert [finding.level for finding in good] == ["ok", "note"]
    assert "queue default-queue, priority build-preemptible" in good[0].what
    assert "KAI may end kernels of priority build-preemptible" in good[1].what
    safe = KaiBackend({"priority": "build"}).examine(facts(SHAPES.node, groups=groups))
    assert "within the quota of the queue default-queue only" in safe[1].what
    absent = BACKEND.examine(Facts())
    assert [finding.level for finding in absent] == ["error", "error"]
    assert "global.gpuSharing=true" in str(absent[0].fix)
    unlabelled, replicated = SHAPES.node, SHAPES.node
    del unlabelled["metadata"]["labels"]["nvidia.com/gpu.memory"]
    replicated["metadata"]["labels"]["nvidia.com/gpu.replicas"] = "4"
    told = BACKEND.examine(facts(unlabelled, replicated, groups=groups))
    assert [finding.level for finding in told] == ["ok", "note", "warning", "error"]
    claimed = {"spec": {"driver": "gpu.nvidia.com", "nodeName": "gpu-1"}}
    told = BACKEND.examine(facts(SHAPES.node, groups=groups, slices=[claimed]))
    assert told[-1].fix == 'c.KubernetesEngine.backend = "dra"'
    (unread,) = BACKEND.examine(Facts(groups=groups, missing=frozenset({"nodes"})))
    assert "how much memory a fraction is" in unread.what
    assert "cluster-read-pods" in str(unread.fix)
    unseen = frozenset({"pods"})
    annotation = make_backend("kai", {}, "annotation")
    for backend, level in ((BACKEND, "note"), (annotation, "error")):
        told = backend.examine(facts(SHAPES.node, groups=groups, missing=unseen))
        assert told[-1].level == level
        assert "cluster-read-pods" in str(told[-1].fix)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keys": "new"}, "legacy or container"),
        ({"queue": "a b"}, "name of a queue"),
        ({"priority": "Build!"}, "is not a name"),
        ({"settle": "soon"}, "seconds from 0 to 60"),
        ({"settle": "-1"}, "seconds from 0 to 60"),
        ({"driver": "x"}, "has no option driver"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        KaiBackend(options)


# -- giving a share back, and taking it again ------------------------------------------------------


def patched(pod: dict[str, Any], notes: dict[str, Any]) -> dict[str, Any]:
    """As a merge patch of the annotations leaves it."""
    merged = {**pod["metadata"]["annotations"], **notes}
    kept = {key: value for key, value in merged.items() if value is not None}
    return {**pod, "metadata": {**pod["metadata"], "annotations": kept}}


@pytest.mark.parametrize(
    "name",
    [
        "fraction",
        "fraction_as_binder_writes",
        "memory",
        "memory_as_webhook_writes",
        "two_gpus",
        "container",
        "hami_core",
    ],
)
def test_a_share_goes_and_comes_back_as_it_was(name: str) -> None:
    pod = getattr(SHAPES, name)
    before = kai_pods.amount_of(pod, TOTAL)
    small = patched(pod, kai_pods.shrink(pod, TOTAL))
    amount = kai_pods.amount_of(small, TOTAL)
    assert amount is not None
    # Nothing at all would be a free GPU to KAI.
    assert 1 <= amount <= 2
    assert kai_pods.given_back(small)
    assert patched(small, kai_pods.shrink(small, TOTAL)) == small
    notes = small["metadata"]["annotations"]
    if "gpu-memory" in notes and REQUEST in notes:
        # KAI's webhook refuses a pod in which they differ.
        assert notes[REQUEST] == notes["gpu-memory"] + "Mi"
    grown = patched(small, kai_pods.restore(small))
    assert kai_pods.amount_of(grown, TOTAL) == before
    assert kai_pods.given_back(grown), "it is not made sure of yet"
    assert patched(grown, kai_pods.settled()) == pod
    assert kai_pods.amount_of(kai_pods.original(small), TOTAL) == before
    share, back = (BACKEND.granted(each, [], facts(SHAPES.node)) for each in (pod, small))
    assert share == back


def test_a_pod_without_a_part_of_a_gpu_has_nothing_to_give_back() -> None:
    with pytest.raises(ValueError, match="no part"):
        kai_pods.shrink(SHAPES.whole, TOTAL)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", '{"gpu-share.jupyter.org/server": "bob", "x": "1"}']
)
def test_only_amounts_come_back_from_what_was_noted(text: str) -> None:
    pod = renamed(SHAPES.fraction, "pod", **{"gpu-share.jupyter.org/given-back": text})
    assert kai_pods.restore(pod) == {}


def test_a_gpu_is_used_by_the_pods_of_its_group_only() -> None:
    pods = [
        SHAPES.reservation,
        SHAPES.fraction,
        SHAPES.memory,
        SHAPES.two_gpus,
        SHAPES.whole,
        renamed(SHAPES.fraction, "ended"),
    ]
    pods[-1]["status"] = {"phase": "Succeeded"}
    half, quarter = Fraction(TOTAL, 2), Fraction(TOTAL, 4)
    assert kai_pods.used(pods, GROUP, TOTAL) == half + 20480 + quarter
    assert kai_pods.used(pods, OTHER, TOTAL) == quarter
    assert kai_pods.used(pods, GROUP, TOTAL, without="gpu-share-1") == 20480 + quarter
    assert kai_pods.used(pods, "another", TOTAL) == 0


@pytest.mark.parametrize("text", ["a lot", "-0.5", "nan", "1/0"])
def test_what_cannot_be_read_counts_for_the_whole_gpu(text: str) -> None:
    pod = renamed(SHAPES.fraction, "strange", **{"gpu-fraction": text})
    assert kai_pods.used([pod], GROUP, TOTAL) == TOTAL
    unknown = SHAPES.fraction
    unknown["metadata"]["annotations"] = {}
    assert kai_pods.used([unknown], GROUP, TOTAL) == TOTAL


def test_a_limit_alone_is_an_amount_too() -> None:
    pod = SHAPES.container
    del pod["metadata"]["annotations"][REQUEST]
    assert kai_pods.amount_of(pod, TOTAL) == 20480
    assert kai_pods.used([pod], GROUP, TOTAL) == 20480


def test_thirds_are_counted_exactly() -> None:
    thirds = [renamed(SHAPES.fraction, f"p{n}", **{"gpu-fraction": "0.333333"}) for n in range(3)]
    assert kai_pods.used(thirds, GROUP, TOTAL) <= TOTAL
