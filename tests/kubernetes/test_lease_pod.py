"""The pod that holds a share beside its kernel goes where the kernel's would go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from plans import body

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._lease import Lease
from jupyter_gpu_share.engines.kubernetes._names import UNDISTURBED
from jupyter_gpu_share.engines.kubernetes._pods import Labels
from jupyter_gpu_share.engines.kubernetes._writes import Writes
from jupyter_gpu_share.engines.kubernetes.backends import GPU_TOLERATION, DraBackend, Facts
from jupyter_gpu_share.size import Size

POOL, TEAM = {"key": "pool", "operator": "Exists"}, {"key": "team", "operator": "Exists"}
KIND = {"memory": "80GiB", "node_selector": {"pool": "a100"}, "tolerations": [POOL]}
LABELS = Labels("alice", "k-1", "attempt-1")


def test_a_lease_and_a_kernel_wait_for_the_same_nodes() -> None:
    engine = KubernetesEngine(
        kinds=[KIND],
        tolerations=[TEAM],
        node_selector={"zone": "a"},
        sizes={"1/4": {"node_selector": {"disk": "fast"}}},
    )
    backend = DraBackend()
    facts = Facts(kinds=engine.declared)
    cluster: Any = SimpleNamespace(
        backend=backend,
        facts_for=lambda size: facts,
        settings=engine,
        server="alice",
        instance="i",
    )
    size = Size.parse("1/4")
    request: Any = SimpleNamespace(kernel_id="k-1", size=size)
    lease = Lease(cluster, request, Writes(), LABELS, {"name": "kernel"})._pod(LABELS)
    kernel = body(
        rendered=engine.profile(size).on(backend.render(size, facts)),
        tolerations=engine.tolerations,
        patches=engine.additions,
    )
    for pod in (lease, kernel):
        assert pod["spec"]["nodeSelector"] == {"zone": "a", "pool": "a100", "disk": "fast"}
        assert pod["spec"]["tolerations"] == [TEAM, POOL, GPU_TOLERATION]
        assert UNDISTURBED.items() <= pod["metadata"]["annotations"].items()
