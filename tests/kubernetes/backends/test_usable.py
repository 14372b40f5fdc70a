"""Which nodes and devices kernels can have, ever and now: the same for all backends."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import GIB, Shapes

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes.backends import (
    GPU_TOLERATION,
    Backend,
    DevicePluginBackend,
    DraBackend,
    Facts,
    HamiBackend,
    KaiBackend,
    MigBackend,
    Placement,
    nodes_apart,
)
from jupyter_gpu_share.engines.kubernetes.backends._usable import away, barred
from jupyter_gpu_share.errors import NoGpuError
from jupyter_gpu_share.size import Size

DRA = Shapes("dra")
TEAM = {"key": "team", "value": "physics", "effect": "NoSchedule"}
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
NOT_READY = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}


def node(**fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": "n", "labels": {"pool": "gpus"}}, **fields}


def clusters() -> list[Any]:
    """Each backend with a size, and a cluster of one node that has it free."""
    slices = DRA.shared80
    name = slices["spec"]["nodeName"]
    bare = {"metadata": {"name": name, "labels": {}}, "spec": {}, "status": {}}
    return [
        pytest.param(DraBackend(), "1/4", bare, [slices], id="dra"),
        pytest.param(KaiBackend(), "1/4", Shapes("kai").node, [], id="kai"),
        pytest.param(HamiBackend(), "1/4", Shapes("hami").node, [], id="hami"),
        pytest.param(MigBackend(), "mig-1g.10gb", Shapes("mig").mixed, [], id="mig"),
        pytest.param(
            DevicePluginBackend(), "1/4", Shapes("device_plugin").slices4, [], id="device-plugin"
        ),
    ]


def laid_over(obj: Any, patch: Any) -> Any:
    """The object with the patch's members, at any depth."""
    if not isinstance(patch, dict):
        return patch
    return {**obj, **{key: laid_over(obj.get(key, {}), value) for key, value in patch.items()}}


@pytest.mark.parametrize(
    "trouble",
    [
        {"spec": {"unschedulable": True}},
        NOT_READY,
        {"spec": {"taints": [{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]}},
        {"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}},
        {"spec": {"taints": [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]}},
        # What GKE, a handler of notices on AWS, AKS and Cluster API taint a node with for a while.
        *(
            {"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}}
            for key in (
                "cloud.google.com/impending-node-termination",
                "aws-node-termination-handler/spot-itn",
                "remediator.kubernetes.azure.com/unschedulable",
                "node.cluster.x-k8s.io/uninitialized",
            )
        ),
    ],
)
@pytest.mark.parametrize(("backend", "size", "bare", "slices"), clusters())
def test_what_starts_nothing_now_is_not_free_and_can_still_be_asked_for(
    backend: Backend, size: str, bare: Any, slices: list[Any], trouble: Any
) -> None:
    wanted = Size.parse(size)
    known = Facts(nodes=[bare], slices=slices)
    assert backend.room(wanted, known) > 0
    known = Facts(nodes=[laid_over(bare, trouble)], slices=slices)
    assert backend.room(wanted, known) == 0
    gpus = backend.capacity(known)
    assert gpus
    assert not any(gpu.free_bytes for gpu in gpus)
    assert backend.render(wanted, known) == backend.render(
        wanted, Facts(nodes=[bare], slices=slices)
    )
    (finding,) = nodes_apart(known)
    assert finding.level == "warning"


@pytest.mark.parametrize("capacity", [True, False])
@pytest.mark.parametrize(
    ("backend", "size", "shape", "node"),
    [
        (DevicePluginBackend(), "1/4", "device_plugin", "slices4"),
        (DevicePluginBackend(), "1", "clouds", "eks_karpenter"),
        (MigBackend(), "mig-1g.10gb", "mig", "single"),
        (MigBackend(), "mig-1g.10gb", "mig", "mixed"),
        (KaiBackend(), "1/4", "kai", "node"),
    ],
)
def test_a_node_whose_device_plugin_is_away_can_still_be_asked_for(
    backend: Backend, size: str, shape: str, node: str, capacity: bool
) -> None:
    """The plugin is exchanged, and the node counts on; or the node comes back from a reboot."""
    there = getattr(Shapes(shape), node)
    wanted, usual = Size.parse(size), Facts(nodes=[copy.deepcopy(there)])
    amounts = there["status"]["allocatable"]
    there["status"]["capacity"] = {k: amounts[k] if capacity else "0" for k in amounts}
    there["status"]["allocatable"] = {k: "0" if "nvidia" in k else amounts[k] for k in amounts}
    known = Facts(nodes=[there])
    if node in ("mixed", "eks_karpenter") and not capacity:
        # Which instances there will be, or how the GPUs are shared, is not known.
        assert backend.capacity(known) == []
        return
    assert backend.render(wanted, known) == backend.render(wanted, usual)
    assert backend.room(wanted, known) == 0
    name = there["metadata"]["name"]
    assert backend.knows_node(name, usual)
    assert not backend.knows_node(name, known), "it is looked at again when a kernel is there"
    assert len(backend.capacity(known)) == len(backend.capacity(usual))
    assert not any(gpu.free_bytes for gpu in backend.capacity(known))
    (finding,) = nodes_apart(known)
    assert finding.what.endswith("now: it offers none of its GPUs.")
    slices = DRA.shared80
    slices["spec"]["nodeName"] = name
    assert not DevicePluginBackend.offered(Facts(nodes=[there], slices=[slices]))


@pytest.mark.parametrize(("backend", "size", "bare", "slices"), clusters())
def test_a_node_that_keeps_kernels_out_has_nothing_for_them(
    backend: Backend, size: str, bare: Any, slices: list[Any]
) -> None:
    wanted = Size.parse(size)
    tainted = laid_over(bare, {"spec": {"taints": [TEAM]}})
    known = Facts(nodes=[tainted], slices=slices)
    assert backend.capacity(known) == []
    with pytest.raises(NoGpuError):
        backend.render(wanted, known)
    (finding,) = nodes_apart(known)
    assert "has the taint team" in finding.what
    for placement in (
        Placement(tolerations=[{"key": "team", "value": "physics"}]),
        Placement(tolerations=[{"operator": "Exists"}]),
    ):
        known = Facts(nodes=[tainted], slices=slices, placement=placement)
        assert backend.room(wanted, known) > 0
        assert nodes_apart(known) == []
    elsewhere = Placement({"pool": "other"})
    assert backend.capacity(Facts(nodes=[bare], slices=slices, placement=elsewhere)) == []


@pytest.mark.parametrize(("backend", "size", "bare", "slices"), clusters())
def test_the_taint_of_nodes_with_gpus_keeps_no_kernel_out(
    backend: Backend, size: str, bare: Any, slices: list[Any]
) -> None:
    known = Facts(nodes=[laid_over(bare, {"spec": {"taints": [GPU_TAINT]}})], slices=slices)
    assert backend.room(Size.parse(size), known) > 0


def test_the_refusal_says_which_taint_it_is() -> None:
    tainted = laid_over(Shapes("device_plugin").slices4, {"spec": {"taints": [TEAM]}})
    with pytest.raises(NoGpuError, match="to kernels: a100-sliced has the taint team"):
        DevicePluginBackend().render(Size.parse("1/4"), Facts(nodes=[tainted]))


@pytest.mark.parametrize(
    ("toleration", "tolerates"),
    [
        ({"key": "team", "value": "physics"}, True),
        ({"key": "team", "operator": "Equal", "value": "physics", "effect": "NoSchedule"}, True),
        ({"key": "team", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "team", "value": "biology"}, False),
        ({"key": "team"}, False),
        ({"key": "team", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "team", "operator": "Gt", "value": "1"}, False),
        ({}, False),
    ],
)
def test_taints_are_tolerated_as_the_scheduler_decides_it(
    toleration: dict[str, str], tolerates: bool
) -> None:
    tainted = node(spec={"taints": [TEAM]})
    assert (barred(tainted, Placement(tolerations=[toleration])) == "") is tolerates


def test_what_only_prefers_other_nodes_keeps_nobody_out() -> None:
    shy = node(spec={"taints": [{"key": "team", "effect": "PreferNoSchedule"}]})
    assert not barred(shy, Placement())
    assert not away(shy, Placement())


def test_who_tolerates_a_cordon_starts_on_a_cordoned_node() -> None:
    cordoned = node(spec={"unschedulable": True})
    assert away(cordoned, Placement()) == "is cordoned"
    assert not away(cordoned, Placement(tolerations=[{"operator": "Exists"}]))


def test_the_settings_say_where_kernels_go_as_their_pods_do() -> None:
    physics = {"key": "team", "operator": "Exists"}
    engine = KubernetesEngine(node_selector={"pool": "a", "zone": "b"}, tolerations=[physics])
    assert engine.placement == Placement({"pool": "a", "zone": "b"}, [physics, GPU_TOLERATION])
    engine.pod_patch = {"spec": {"nodeSelector": {"zone": None}, "tolerations": [physics]}}
    assert engine.placement == Placement({"pool": "a"}, [physics])


# -- devices -------------------------------------------------------------------------------------


def test_a_pool_has_the_devices_of_its_newest_generation() -> None:
    new = DRA.shared80
    new["spec"]["pool"]["generation"] = 2
    new["spec"]["devices"] = new["spec"]["devices"][1:]
    for slices in ([DRA.shared80, new], [new, DRA.shared80]):
        (gpu,) = DraBackend().capacity(Facts(slices=slices))
        assert gpu.uuid == "GPU-0001"
    # Of another pool an older one is the newest.
    assert len(DraBackend().capacity(Facts(slices=[new, DRA.shared40]))) == 2


@pytest.mark.parametrize(("effect", "free"), [("NoSchedule", 0), ("NoExecute", 0), ("None", 80)])
def test_a_device_that_is_tainted_gives_nothing_now(effect: str, free: int) -> None:
    sick = DRA.shared80
    taint = {"key": "gpu.nvidia.com/unhealthy", "value": "xid-79", "effect": effect}
    sick["spec"]["devices"][0]["taints"] = [taint]
    known, backend = Facts(slices=[sick]), DraBackend()
    assert [gpu.free_bytes // GIB for gpu in backend.capacity(known)] == [free, 80]
    assert backend.room(Size.parse("1/4"), known) == 1 + (free > 0)
    assert backend.free_on(("node-1", "gpu-0"), known) == free * GIB
    assert backend.render(Size.parse("1/4"), known)


def tainting(selector: Any, effect: str = "NoSchedule") -> Any:
    """A DeviceTaintRule (k8s.io/api v0.37, ``resource/v1``)."""
    spec = {"taint": {"key": "example.org/repair", "effect": effect}}
    return {"spec": spec if selector is None else {"deviceSelector": selector, **spec}}


@pytest.mark.parametrize(
    ("selector", "tainted"),
    [
        ({}, ["GPU-0000", "GPU-0001"]),  # all devices
        (None, []),  # without one it selects nothing
        ({"driver": "gpu.nvidia.com"}, ["GPU-0000", "GPU-0001"]),
        ({"driver": "other.example.com"}, []),
        ({"driver": ""}, []),
        ({"pool": "node-1"}, ["GPU-0000", "GPU-0001"]),
        ({"pool": "node-2"}, []),
        ({"device": "gpu-1"}, ["GPU-0001"]),
        ({"driver": "gpu.nvidia.com", "pool": "node-1", "device": "gpu-0"}, ["GPU-0000"]),
        ({"driver": "gpu.nvidia.com", "pool": "node-2", "device": "gpu-0"}, []),
    ],
)
def test_what_a_rule_of_the_administrator_taints_gives_nothing_now(
    selector: Any, tainted: list[str]
) -> None:
    for effect in ("NoSchedule", "NoExecute"):
        known = Facts(slices=[DRA.shared80], taint_rules=[tainting(selector, effect)])
        gpus = DraBackend().capacity(known)
        assert [gpu.uuid for gpu in gpus if not gpu.free_bytes] == tainted
        assert DraBackend().room(Size.parse("1/4"), known) == 2 - len(tainted)
        assert DraBackend().render(Size.parse("1/4"), known), "it is no reason to refuse a size"


def test_a_rule_that_only_tells_keeps_nobody_out() -> None:
    known = Facts(slices=[DRA.shared80], taint_rules=[tainting({}, "None"), tainting({}, "Later")])
    assert DraBackend().room(Size.parse("1/4"), known) == 2


def partitions() -> list[Any]:
    """A GPU of seven slices as DynamicMIG offers it: whole, and its instances, by counters.

    The counters are in a slice of their own, as Kubernetes has it from 1.35 on.
    """
    slices, counters = DRA.whole, DRA.whole
    pool = slices["spec"]["pool"]
    pool["resourceSliceCount"] = counters["spec"]["pool"]["resourceSliceCount"] = 2
    (whole,) = slices["spec"]["devices"]
    (small, _) = DRA.mig["spec"]["devices"]
    del counters["spec"]["devices"]
    memory = {"multiprocessors": {"value": "7"}}
    counters["spec"]["sharedCounters"] = [{"name": "gpu-0-counters", "counters": memory}]

    def using(device: Any, name: str, number: int) -> Any:
        used = {"multiprocessors": {"value": str(number)}}
        part = {"counterSet": "gpu-0-counters", "counters": used}
        return {**copy.deepcopy(device), "name": name, "consumesCounters": [part]}

    slices["spec"]["devices"] = [
        using(whole, "gpu-0", 7),
        *(using(small, f"gpu-0-mig-{number}", 1) for number in range(7)),
    ]
    return [slices, counters]


def allocated(*devices: str) -> list[Any]:
    found = []
    for device in devices:
        claim = DRA.claim
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        result |= {"device": device, "pool": "node-3", "consumedCapacity": {}}
        found.append(claim)
    return found


@given(taken=st.sets(st.integers(0, 6)))
def test_instances_and_their_gpu_use_the_same_counters(taken: set[int]) -> None:
    held = [f"gpu-0-mig-{number}" for number in taken]
    known = Facts(slices=partitions(), claims=allocated(*held))
    backend = DraBackend()
    whole, *instances = backend.capacity(known)
    assert (whole.free_bytes > 0) is (not taken)
    assert sum(gpu.free_bytes > 0 for gpu in instances) == 7 - len(taken)


def test_nothing_is_left_of_a_gpu_that_is_taken_whole() -> None:
    known = Facts(slices=partitions(), claims=allocated("gpu-0"))
    assert not any(gpu.free_bytes for gpu in DraBackend().capacity(known))
    assert DraBackend().room(Size.parse("mig-1g.10gb"), known) == 0


def test_a_shared_device_uses_its_counters_once() -> None:
    slices, counters = partitions()
    slices["spec"]["devices"][0]["allowMultipleAllocations"] = True
    (quarter,) = allocated("gpu-0")
    (result,) = quarter["status"]["allocation"]["devices"]["results"]
    result["consumedCapacity"] = {"memory": "20Gi"}
    known = Facts(slices=[slices, counters], claims=[quarter])
    whole, *instances = DraBackend().capacity(known)
    assert whole.free_bytes == whole.memory_bytes - 20 * GIB
    assert not any(gpu.free_bytes for gpu in instances)


def test_a_gpu_that_kai_has_split_gives_nothing_on_a_node_that_is_cordoned() -> None:
    kai = Shapes("kai")
    pod, bare = kai.fraction, kai.node
    pod["spec"]["nodeName"] = bare["metadata"]["name"]
    known = Facts(nodes=[bare], pods=[pod])
    assert max(gpu.free_bytes for gpu in KaiBackend().capacity(known) if gpu.kernels) > 0
    known = Facts(nodes=[laid_over(bare, {"spec": {"unschedulable": True}})], pods=[pod])
    assert not any(gpu.free_bytes for gpu in KaiBackend().capacity(known))
