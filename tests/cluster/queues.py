"""What a real Kueue of the test cluster shares out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import _kueue

_LABELS = {
    "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB-SHARED",
    "nvidia.com/gpu.memory": "81920",
    "nvidia.com/gpu.count": "1",
    "nvidia.com/gpu.replicas": "4",
    "nvidia.com/gpu.sharing-strategy": "time-slicing",
}


@contextmanager
def time_slices(cluster: Any) -> Iterator[None]:
    """The node has units of ``nvidia.com/gpu`` as NVIDIA's device plugin offers four time slices.

    Pods that ask for them get no GPU; everything else is real.
    """
    node = f"/api/v1/nodes/{cluster.node}"
    amounts = {"nvidia.com/gpu": "4"}
    cluster.api.patch(node, {"metadata": {"labels": _LABELS}})
    cluster.api.patch(f"{node}/status", {"status": {"capacity": amounts, "allocatable": amounts}})
    try:
        yield
    finally:
        cluster.restore()
        cluster.api.patch(node, {"metadata": {"labels": dict.fromkeys(_LABELS)}})
        none = dict.fromkeys(amounts)
        cluster.api.patch(f"{node}/status", {"status": {"capacity": none, "allocatable": none}})


@contextmanager
def local_queue(cluster: Any, namespace: str, name: str) -> Iterator[None]:
    """A LocalQueue with quota for one time slice; its ClusterQueue has the namespace's name."""
    amounts = {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"}
    quota = [{"name": each, "nominalQuota": amount} for each, amount in amounts.items()]
    spec = {
        "namespaceSelector": {},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [
            {
                "coveredResources": list(amounts),
                "flavors": [{"name": namespace, "resources": quota}],
            }
        ],
    }
    _kueue.create(cluster.api, "ResourceFlavor", namespace, spec={})
    _kueue.create(cluster.api, "ClusterQueue", namespace, spec=spec)
    _kueue.create(cluster.api, "LocalQueue", name, namespace, spec={"clusterQueue": namespace})
    try:
        yield
    finally:
        for kind in ("clusterqueues", "resourceflavors"):
            cluster.api.delete(f"{_kueue.API}/{kind}/{namespace}")
