"""The pod that holds a share beside its kernel goes where the kernel's would go."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from backends.shapes import Shapes
from plans import body
from unanswered import Store

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine, _lease
from jupyter_gpu_share.engines.kubernetes._lease import Lease
from jupyter_gpu_share.engines.kubernetes._names import UNDISTURBED
from jupyter_gpu_share.engines.kubernetes._objects import Owner
from jupyter_gpu_share.engines.kubernetes._pods import Labels
from jupyter_gpu_share.engines.kubernetes._writes import Writes
from jupyter_gpu_share.engines.kubernetes.api import CLAIMS
from jupyter_gpu_share.engines.kubernetes.backends import GPU_TOLERATION, DraBackend, Facts
from jupyter_gpu_share.errors import NoGpuError
from jupyter_gpu_share.size import Size

POOL, TEAM = {"key": "pool", "operator": "Exists"}, {"key": "team", "operator": "Exists"}
KIND = {"memory": "80GiB", "node_selector": {"pool": "a100"}, "tolerations": [POOL]}
OWNER = Owner("alice", "i")
LABELS = Labels("alice", "k-1", "attempt-1")


def test_a_lease_and_a_kernel_wait_for_the_same_nodes() -> None:
    engine = KubernetesEngine(
        kinds=[KIND],
        tolerations=[TEAM],
        node_selector={"zone": "a"},
        sizes={"1/4": {"node_selector": {"disk": "fast"}}},
        pod_patch={"spec": {"imagePullSecrets": [{"name": "registry"}]}},
    )
    backend = DraBackend()
    facts = Facts(kinds=engine.declared)
    cluster: Any = SimpleNamespace(
        backend=backend,
        facts_for=lambda size: facts,
        settings=engine,
        server="alice",
        instance="i",
        pod={}.get,
    )
    size = Size.parse("1/4")
    lease = Lease(cluster, OWNER, size, Writes(), LABELS, {"name": "kernel"})._pod(LABELS)
    kernel = body(
        rendered=engine.profile(size).on(backend.render(size, facts)),
        tolerations=engine.tolerations,
        patches=engine.additions,
    )
    for pod in (lease, kernel):
        assert pod["spec"]["nodeSelector"] == {"zone": "a", "pool": "a100", "disk": "fast"}
        assert pod["spec"]["tolerations"] == [TEAM, POOL, GPU_TOLERATION]
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
        assert UNDISTURBED.items() <= pod["metadata"]["annotations"].items()


def test_a_lease_goes_where_others_send_the_pod_of_its_kernel() -> None:
    """A patch of the administrator, Kueue's flavor, and what admission adds."""
    store = Store()
    fast = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["fast"]}]}
    on_nodes = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [fast]}}
    spec = {
        "nodeSelector": {"flavor": "spot"},
        "tolerations": [GPU_TOLERATION, TEAM],
        "affinity": {"nodeAffinity": on_nodes, "podAffinity": {"of": "the kernel alone"}},
        "imagePullSecrets": [{"name": "of-the-account"}],
        "priorityClassName": "high",
    }
    backend = DraBackend()
    backend.style = "lease"
    cluster = store.cluster(backend)
    cluster.settings = KubernetesEngine(node_selector={"zone": "a"})
    cluster.pod = {"kernel": {"metadata": {"name": "kernel"}, "spec": spec}}.get
    one = Lease(cluster, OWNER, Size.parse("1/4"), Writes(), LABELS, {"name": "kernel"})
    one._kernel = "kernel"
    made = one._pod(LABELS)["spec"]
    assert made["nodeSelector"] == {"zone": "a", "flavor": "spot"}
    assert made["tolerations"] == [GPU_TOLERATION, TEAM]
    assert made["affinity"] == {"nodeAffinity": on_nodes}
    assert made["imagePullSecrets"] == [{"name": "of-the-account"}]
    # Else it would be put off its node first, and the kernel's share with it.
    assert made["priorityClassName"] == "high"


def new_lease(store: Store, looks: int) -> Lease:
    """A lease on a GPU of a node that has just come, known after so many looks."""
    backend = DraBackend()
    backend.style = "lease"
    cluster = store.cluster(backend)
    seen = 0

    async def refresh(stale: float, *, slices: bool, nodes: float = 30.0) -> Facts:
        nonlocal seen
        assert nodes <= 5.0, "half a minute is long for who sees the node come"
        seen += 1
        if seen >= looks:
            cluster.facts = replace(cluster.facts, slices=[Shapes("dra").nvidia80])
        known: Facts = cluster.facts
        return known

    cluster.refresh, cluster.read_gpus = refresh, lambda: refresh(0.0, slices=True, nodes=0.0)
    lease = Lease(cluster, OWNER, Size.parse("1/4"), Writes(), LABELS, {"name": "k", "uid": "u"})
    lease.device = ("node-5", "gpu-1")
    return lease


async def test_a_gpu_of_a_node_that_has_just_come_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_lease, "_PAUSE", 0.0)
    store = Store()
    await new_lease(store, 3)._claim_for("k")
    (claim,) = store.of(CLAIMS).values()
    assert 'uuid == "GPU-0051"' in str(claim["spec"])
    with pytest.raises(NoGpuError, match=r"is not offered by gpu\.nvidia\.com now"):
        await new_lease(Store(), _lease._LOOKS + 1)._claim_for("k")


async def test_such_a_gpu_is_read_at_once_though_others_were_read_just_now() -> None:
    store = Store()
    lease = new_lease(store, 1)
    cluster: Any = lease._cluster
    learns = cluster.refresh
    cluster.refresh = lambda *age, **what: pytest.fail("it is told what was read before")
    cluster.read_gpus = lambda: learns(0.0, slices=True, nodes=0.0)
    await lease._claim_for("k")
    assert len(store.of(CLAIMS)) == 1
