"""Kinds of nodes that may come: nothing is refused that one of them would give."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import GIB, MIB, Shapes
from traitlets import TraitError

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes.backends import (
    BACKENDS,
    Backend,
    DevicePluginBackend,
    DraBackend,
    Facts,
    HamiBackend,
    KaiBackend,
    MigBackend,
    Rendered,
    detect,
)
from jupyter_gpu_share.errors import NoGpuError
from jupyter_gpu_share.size import Size

SHAPES = Shapes("device_plugin")
TAINTED = {"key": "pool", "operator": "Exists"}
A100: dict[str, Any] = {
    "model": "A100",
    "memory": "80GiB",
    "node_selector": {"pool": "a100"},
    "tolerations": [TAINTED],
}
SLICED = {**A100, "sharing": "time-slicing", "replicas": 4}
PARTED = {**A100, "memory": "9856MiB", "sharing": "mig", "profile": "1g.10gb", "replicas": 7}
CPUS = {"metadata": {"name": "cpu-1", "labels": {}}, "status": {"allocatable": {"cpu": "8"}}}


def known(*kinds: dict[str, Any], nodes: Any = (CPUS,), **fields: Any) -> Facts:
    declared = KubernetesEngine(kinds=list(kinds)).declared
    return Facts(nodes=nodes, kinds=declared, **fields)


def ask(backend: Backend, size: str, facts: Facts) -> Rendered:
    return backend.render(Size.parse(size), facts)


def pinned(rendered: Rendered) -> bool:
    return rendered.node_selector == {"pool": "a100"} and list(rendered.tolerations) == [TAINTED]


@pytest.mark.parametrize("size", ["1/4", "10GiB", "1", "2x1"])
@pytest.mark.parametrize("name", ["dra", "kai", "hami"])
def test_with_the_pool_at_zero_a_declared_kind_is_asked_for(name: str, size: str) -> None:
    backend = BACKENDS[name]({})
    with pytest.raises(NoGpuError):
        ask(backend, size, known())
    facts = known({**A100, "gpus": 2})
    assert pinned(ask(backend, size, facts))
    assert backend.room(Size.parse(size), facts) == 0
    assert backend.capacity(facts) == [], "it is not there"
    with pytest.raises(NoGpuError):
        ask(backend, "90GiB", facts)


def test_a_device_plugin_gives_what_was_declared_of_it() -> None:
    plugin = DevicePluginBackend()
    sliced = ask(plugin, "1/4", known(SLICED))
    assert pinned(sliced)
    assert (sliced.limits, sliced.memory_bytes, sliced.note) == (
        {"nvidia.com/gpu": "1"},
        20 * GIB,
        "",
    )
    whole = ask(plugin, "1/4", known(A100))
    assert whole.note == "1/4 becomes a whole GPU (80 GiB)."
    with pytest.raises(NoGpuError, match="Ask for 1/4"):
        ask(plugin, "1", known(SLICED))
    assert plugin.room(Size.parse("1/4"), known(SLICED)) == 0


def test_instances_are_asked_for_before_there_is_one() -> None:
    parted = ask(MigBackend(), "mig-1g.10gb", known(PARTED))
    assert pinned(parted)
    assert parted.limits == {"nvidia.com/mig-1g.10gb": "1"}
    assert ask(MigBackend(), "5GiB", known(PARTED)).limits == parted.limits
    assert ask(KaiBackend(), "mig-1g.10gb", known(PARTED)).limits == parted.limits
    (claim,) = ask(DraBackend(), "mig-1g.10gb", known(PARTED)).claims
    assert "mig.nvidia.com" in str(claim.spec)


def test_what_is_too_large_for_the_nodes_that_are_there_waits_for_others() -> None:
    small = SHAPES.mps10  # T4
    for backend in (DevicePluginBackend(), KaiBackend()):
        with pytest.raises(NoGpuError):
            ask(backend, "40GiB", known(nodes=[small]))
        assert pinned(ask(backend, "40GiB", known(A100, nodes=[small])))
    slices = Shapes("dra").shared40
    with pytest.raises(NoGpuError):
        ask(DraBackend(), "60GiB", known(slices=[slices]))
    assert pinned(ask(DraBackend(), "60GiB", known(A100, slices=[slices])))
    # What is there will do: the scheduler finds it, or the autoscaler brings another.
    rendered = ask(DraBackend(), "10GiB", known(A100, slices=[slices]))
    assert not rendered.node_selector
    assert list(rendered.tolerations) == [TAINTED]


def test_a_node_that_is_free_comes_before_one_that_would_have_to_come() -> None:
    there = SHAPES.slices4
    there["metadata"]["labels"]["pool"] = "seen"
    seen = {**SLICED, "node_selector": {"pool": "seen"}, "tolerations": [], "most": 1}
    plugin = DevicePluginBackend()
    facts = known(SLICED, seen, nodes=[there])
    assert ask(plugin, "1/4", facts).node_selector == {"pool": "seen"}
    busy = SHAPES.pod
    busy["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "8"
    facts = known(SLICED, seen, nodes=[there], pods=[busy])
    assert ask(plugin, "1/4", facts).node_selector == {"pool": "a100"}
    # An undeclared node that is free, too: by what tells it from all others.
    del there["metadata"]["labels"]["pool"]
    assert not pinned(ask(plugin, "1/4", known(SLICED, nodes=[there])))


def test_of_a_kind_there_are_no_more_than_was_declared() -> None:
    there = SHAPES.mps10
    there["metadata"]["labels"]["pool"] = "a100"
    one = {**A100, "most": 1, "tolerations": []}
    assert known(one).coming
    assert not known(one, nodes=[there]).coming
    assert known({**one, "most": 2}, nodes=[there]).coming
    with pytest.raises(NoGpuError):
        ask(DevicePluginBackend(), "40GiB", known(one, nodes=[there]))


@pytest.mark.parametrize("name", ["dra", "kai", "hami", "device-plugin"])
def test_a_node_that_has_come_without_its_gpus_yet_is_still_to_come(name: str) -> None:
    """Drivers take minutes: who asks for the only node meanwhile is not refused."""
    fresh = {"metadata": {"name": "new", "labels": {"pool": "a100"}}, "status": CPUS["status"]}
    one = {**A100, "most": 1}
    assert pinned(ask(BACKENDS[name]({}), "1", known(one, nodes=[fresh])))
    slices = {**Shapes("dra").shared40}
    slices["spec"]["nodeName"] = "new"
    facts = known({**one, "tolerations": []}, nodes=[fresh], slices=[slices])
    assert not facts.coming
    facts = known({**one, "tolerations": []}, nodes=[laid("nvidia.com/gpu", "1", fresh)])
    assert not facts.coming


def laid(resource: str, amount: str, node: dict[str, Any]) -> dict[str, Any]:
    """The node as it offers a resource."""
    return {**node, "status": {"allocatable": {"cpu": "8", resource: amount}}}


def test_what_nodes_do_not_tell_is_taken_from_their_kind() -> None:
    bare = SHAPES.unlabelled
    bare["metadata"]["labels"]["pool"] = "a100"
    bare["spec"] = {"taints": [{"key": "pool", "value": "a100", "effect": "NoSchedule"}]}
    facts = known({**SLICED, "gpus": 2}, nodes=[bare])
    slices = DevicePluginBackend().capacity(facts)
    assert [gpu.free_bytes for gpu in slices] == [20 * GIB] * 2
    assert {gpu.model for gpu in slices} == {"A100"}
    assert DevicePluginBackend().room(Size.parse("1/4"), facts) == 2
    # What a node tells of itself counts more.
    told = SHAPES.mps10
    told["metadata"]["labels"]["pool"] = "a100"
    assert {gpu.model for gpu in DevicePluginBackend().capacity(known(SLICED, nodes=[told]))} == {
        "Tesla-T4"
    }


def test_alternatives_of_dra_leave_room_for_what_the_driver_will_tell() -> None:
    facts = known(A100, slices=[Shapes("dra").shared40])
    (claim,) = ask(DraBackend(), "1/4", facts).claims
    seen, coming = claim.spec["devices"]["requests"][0]["firstAvailable"]
    assert "== 0" in str(seen["selectors"])
    assert str(76 * GIB) in str(coming["selectors"])
    assert str(84 * GIB) in str(coming["selectors"])
    # Once it is there, it is known exactly.
    (claim,) = ask(DraBackend(), "1/4", known(A100, slices=[Shapes("dra").shared80])).claims
    assert "exactly" in claim.spec["devices"]["requests"][0]
    # All of a GPU is asked for without an amount: what was declared may be a little too much.
    (claim,) = ask(DraBackend(), "1", known(A100)).claims
    assert "capacity" not in claim.spec["devices"]["requests"][0]["exactly"]


@pytest.mark.parametrize(
    ("kinds", "backends"),
    [
        ([], ()),
        ([A100], ("device-plugin",)),
        ([SLICED, PARTED], ("device-plugin",)),
        ([PARTED], ("mig",)),
        ([A100, PARTED], ("mig",)),
    ],
)
def test_with_nothing_there_the_kinds_say_which_backend_it_is(
    kinds: list[Any], backends: tuple[str, ...]
) -> None:
    assert detect(known(*kinds)) == backends
    assert detect(known(*kinds, nodes=[Shapes("hami").node]))[0] == "hami"


@given(
    size=st.sampled_from(["1/8", "1/4", "1/2", "1", "2x1", "5GiB", "40GiB", "mig-1g.10gb"]),
    kinds=st.lists(st.sampled_from([A100, SLICED, PARTED])),
    nodes=st.lists(st.sampled_from(["slices4", "mps10", "whole", "unlabelled"]), unique=True),
    backend=st.sampled_from([DevicePluginBackend(), MigBackend(), KaiBackend(), HamiBackend()]),
)
def test_a_kind_that_is_declared_takes_nothing_away(
    size: str, kinds: list[Any], nodes: list[str], backend: Backend
) -> None:
    """What could be had without it can be had with it."""
    there = [getattr(SHAPES, name) for name in nodes]
    try:
        ask(backend, size, known(nodes=there))
    except NoGpuError:
        return
    assert ask(backend, size, known(*kinds, nodes=there))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"modle": "A100", "memory": "80GiB"}, "there is no modle; there is model, memory, gpus"),
        ({"model": "A100"}, "memory of a GPU, or of a MIG instance, is missing"),
        ({"memory": "much"}, "much is not an amount of memory"),
        ({"memory": 80}, "memory is a text, not 80"),
        ({**A100, "gpus": 0}, "gpus is 1 or more"),
        ({**A100, "gpus": True}, "gpus is a whole number, not True"),
        ({**A100, "most": 0}, "most is 1 or more"),
        ({**A100, "sharing": "slices"}, "sharing is none, time-slicing, mps, mig, not 'slices'"),
        ({**A100, "sharing": "mps"}, "replicas from 2 on"),
        ({**A100, "replicas": 4}, "replicas from 2 on"),
        ({**A100, "sharing": "mig"}, "a profile such as 1g.10gb"),
        ({**A100, "profile": "1g.10gb"}, "a profile such as 1g.10gb"),
        ({**A100, "sharing": "mig", "profile": "small"}, "a profile such as 1g.10gb"),
        ({**A100, "node_selector": {"pool": 1}}, "node_selector has texts only"),
        ({**A100, "tolerations": ["all"]}, "tolerations are dicts"),
    ],
)
def test_a_kind_that_makes_no_sense_is_refused_at_the_start(entry: Any, words: str) -> None:
    with pytest.raises(TraitError, match=words) as refused:
        KubernetesEngine(kinds=[SLICED, entry])
    assert str(refused.value).startswith("c.KubernetesEngine.kinds, entry 2")
    assert "\n" not in str(refused.value)


def test_bounds_on_sizes_know_what_may_come() -> None:
    assert KubernetesEngine(kinds=[A100, PARTED]).memory_to_come == [80 * GIB, 9856 * MIB]
