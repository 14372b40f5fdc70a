"""GPUs as managed clouds label them: what a size becomes there, and what it is never taken for."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from shapes import GIB, Shapes, facts, renamed

from jupyter_gpu_share.allocations import Isolation
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes.backends import (
    DevicePluginBackend,
    Facts,
    MigBackend,
    detect,
)
from jupyter_gpu_share.errors import NoGpuError
from jupyter_gpu_share.size import Size

SHAPES = Shapes("clouds")
PLUGIN = DevicePluginBackend()
NOT_KNOWN = "one nvidia.com/gpu, and whether others use the same GPU is not known"
SOFT, NONE, MPS = Isolation.FRAMEWORK, Isolation.NONE, Isolation.MPS


@pytest.mark.parametrize(
    ("node", "size", "note", "fraction", "isolation"),
    [
        ("gke_time_sharing", "1/3", "", Fraction(1, 3), SOFT),
        ("gke_time_sharing", "1/8", "1 of 3 time slices of a T4", Fraction(1, 3), SOFT),
        ("gke_mps", "1/4", "", Fraction(1, 4), MPS),
        ("gke_whole", "1", "", Fraction(1), NONE),
        ("gke_whole", "1/2", "a whole GPU", Fraction(1), NONE),
        ("eks", "1/4", NOT_KNOWN, Fraction(1, 4), SOFT),
        ("eks", "1", NOT_KNOWN, Fraction(1), NONE),
        ("eks_karpenter", "1", "", Fraction(1), NONE),
        ("eks_karpenter_slices", "1/4", "", Fraction(1, 4), SOFT),
        ("eks_auto", "1", "", Fraction(1), NONE),
        ("aks_karpenter_slices", "1/4", "", Fraction(1, 4), SOFT),
        ("openshift", "1", "", Fraction(1), NONE),
    ],
)
def test_what_a_size_becomes(
    node: str, size: str, note: str, fraction: Fraction, isolation: Isolation
) -> None:
    there = getattr(SHAPES, node)
    rendered = PLUGIN.render(Size.parse(size), facts(there))
    assert rendered.limits == {"nvidia.com/gpu": "1"}
    assert rendered.note == (f"{size} becomes {note}." if note else "")
    pod = renamed(Shapes("device_plugin").pod, "one", **{"gpu-share.jupyter.org/size": size})
    pod["spec"]["nodeName"] = there["metadata"]["name"]
    share = PLUGIN.granted(pod, [], facts(there))
    assert share is not None
    assert (share.fraction, share.isolation) == (fraction, isolation)
    assert detect(facts(there)) == ("device-plugin",)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("gke_time_sharing", "cannot put time slices of one kernel on different GPUs"),
        ("gke_mps", "cannot put MPS replicas of one kernel on different GPUs"),
        ("eks", "whether each nvidia.com/gpu is a GPU of its own is not known"),
    ],
)
def test_several_of_what_may_be_one_gpu_are_refused(node: str, words: str) -> None:
    """A pod that asks GKE for two of a shared GPU fails, after it has its place."""
    size = "2x1/4" if node != "eks" else "2x1"
    with pytest.raises(NoGpuError, match=words):
        PLUGIN.render(Size.parse(size), facts(getattr(SHAPES, node)))
    assert PLUGIN.render(Size.parse("2x1"), facts(SHAPES.gke_whole)).limits


def test_a_slice_is_no_whole_gpu() -> None:
    for node in ("gke_time_sharing", "gke_mps", "eks_karpenter_slices"):
        with pytest.raises(NoGpuError, match="not several"):
            PLUGIN.render(Size.parse("1"), facts(getattr(SHAPES, node)))


@pytest.mark.parametrize(("healthy", "units"), [(12, 16), (3, 4), (4, 4), (16, 16)])
def test_a_gpu_that_is_not_healthy_makes_no_other_part_of_the_rest(
    healthy: int, units: int
) -> None:
    """A machine of four GPUs whose sharing is told by numbers alone."""
    node = SHAPES.eks_karpenter
    node["metadata"]["labels"]["karpenter.k8s.aws/instance-gpu-count"] = "4"
    node["status"]["allocatable"]["nvidia.com/gpu"] = str(healthy)
    node["status"]["capacity"] = {**node["status"]["allocatable"], "nvidia.com/gpu": str(units)}
    gpus = PLUGIN.capacity(facts(node))
    assert len(gpus) == healthy
    assert {gpu.memory_bytes for gpu in gpus} == {16 * GIB * 4 // units}


def test_instances_of_gke_are_those_of_their_label() -> None:
    known = facts(SHAPES.gke_mig)
    assert detect(known) == ("mig",)
    rendered = MigBackend().render(Size.parse("mig-1g.5gb"), known)
    assert (rendered.limits, rendered.note) == ({"nvidia.com/gpu": "1"}, "")
    assert MigBackend().room(Size.parse("mig-1g.5gb"), known) == 7
    assert {gpu.profile for gpu in MigBackend().capacity(known)} == {"1g.5gb"}
    # Nothing keeps apart those who share an instance.
    assert detect(facts(SHAPES.gke_mig_time_sharing)) == ()


def test_machines_tell_their_memory_under_karpenter() -> None:
    quarter = PLUGIN.render(Size.parse("1/4"), facts(SHAPES.eks_karpenter_slices))
    assert quarter.memory_bytes == 4 * GIB
    whole = PLUGIN.render(Size.parse("20GiB"), facts(SHAPES.eks_auto))
    assert whole.memory_bytes == 22 * GIB
    with pytest.raises(NoGpuError, match="do not say how much memory"):
        PLUGIN.render(Size.parse("4GiB"), facts(SHAPES.gke_time_sharing))


def test_pools_are_told_apart_by_the_labels_of_the_cloud() -> None:
    known = facts(SHAPES.gke_time_sharing, SHAPES.gke_mps)
    assert PLUGIN.render(Size.parse("1/4"), known).node_selector == {
        "cloud.google.com/gke-accelerator": "nvidia-l4"
    }
    known = facts(SHAPES.eks_auto, SHAPES.eks_karpenter_slices)
    assert PLUGIN.render(Size.parse("1"), known).node_selector == {
        "eks.amazonaws.com/instance-gpu-name": "l4"
    }


def test_what_a_cloud_does_not_tell_the_administrator_can() -> None:
    label = {"node.kubernetes.io/instance-type": "g4dn.xlarge"}
    kind: dict[str, Any] = {"memory": "15GiB", "model": "T4", "node_selector": label}
    sliced = {**kind, "sharing": "time-slicing", "replicas": 4}
    declared = KubernetesEngine(kinds=[sliced]).declared
    rendered = PLUGIN.render(Size.parse("1/4"), Facts(nodes=[SHAPES.eks], kinds=declared))
    assert (rendered.note, rendered.node_selector) == ("", label)
    assert rendered.memory_bytes == 3840 * 2**20


def test_the_taint_of_aks_is_the_administrators_to_tolerate() -> None:
    """Its documentation's example; others choose another."""
    with pytest.raises(NoGpuError, match="aks-nc has the taint sku"):
        PLUGIN.render(Size.parse("1"), facts(SHAPES.aks))
    engine = KubernetesEngine(tolerations=[{"key": "sku", "value": "gpu"}])
    known = facts(SHAPES.aks, placement=engine.placement)
    assert PLUGIN.render(Size.parse("1"), known).note == f"1 becomes {NOT_KNOWN}."
    (told,) = [finding for finding in PLUGIN.examine(known) if "shared" in finding.what]
    assert told.level == "warning"
