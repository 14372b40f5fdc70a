"""Kernels that a real Kueue admits: what waits says so, what comes runs, what is taken out is told.

The node's time slices are played (see :func:`cluster.queues.time_slices`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster import _kueue
from cluster.fixtures import CLUSTER_MARKS
from cluster.queues import local_queue, time_slices
from manifests import Account
from notebooks import LONG
from waiting import eventually

pytestmark = CLUSTER_MARKS

QUEUE = "notebooks"


@pytest.fixture(scope="module")
def kueue(cluster: Any) -> Iterator[None]:
    """Kueue, and a node with a GPU in four time slices."""
    with cluster.kueue(), time_slices(cluster):
        yield


@pytest.fixture
def queue(cluster: Any, kueue: None, namespace: str) -> Iterator[str]:
    """A LocalQueue with quota for one time slice; the name of its ClusterQueue."""
    with local_queue(cluster, namespace, QUEUE):
        _kueue.create(cluster.api, "WorkloadPriorityClass", namespace, value=1000)
        yield namespace
        cluster.api.delete(f"{_kueue.API}/workloadpriorityclasses/{namespace}")


@pytest.fixture
def admitted(
    jupyter: Account, cluster_read: Callable[[Account], None], config: Any, queue: str
) -> None:
    """The server is the account of ``etc/kubernetes``, and its kernels go through the queue."""
    jupyter.configure(config)
    cluster_read(jupyter)
    config.KubernetesEngine.backend = "device-plugin"
    config.KubernetesEngine.kueue_queue = QUEUE
    config.KubernetesEngine.sizes = {"0": {"kueue_queue": ""}}


async def test_a_kernel_without_quota_waits_in_words_and_comes_when_another_ends(
    admitted: None, notebook: Any, objects: Any
) -> None:
    first = await notebook("1/4").placed()
    assert await first.run("print(1 + 1)") == "2"
    (pod,) = objects("pods")
    assert pod["metadata"]["finalizers"] == ["kueue.x-k8s.io/managed"]
    second = await notebook("1/4").start()
    await eventually(lambda: "Kueue" in second.allocation.reason, "Kueue is told", LONG)
    await eventually(lambda: "it lacks" in second.allocation.reason, "the quota is told", LONG)
    assert second.allocation.reason == (
        f"It waits for admission by Kueue, queue {QUEUE}: the quota is used up, it lacks 1 of "
        "nvidia.com/gpu."
    )
    # What needs no GPU needs no quota.
    none = await notebook("0").placed()
    assert await none.run("print(2 + 2)") == "4"
    await first.close()
    await eventually(lambda: second.allocation.share is not None, "it has its share", LONG)
    assert await second.run("print(3 + 3)") == "6"
    await second.close()
    await none.close()
    await eventually(lambda: not objects("pods"), "Kueue lets the pods go", LONG)


async def test_a_kernel_that_kueue_preempts_is_told_so(
    admitted: None, notebook: Any, cluster: Any, namespace: str
) -> None:
    kernel = await notebook("1/4").placed()
    assert await kernel.run("print(1 + 1)") == "2"
    labels = {"kueue.x-k8s.io/queue-name": QUEUE, "kueue.x-k8s.io/priority-class": namespace}
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "main",
        "image": "localhost/pause:1",
        "imagePullPolicy": "Never",
        "securityContext": security,
        "resources": {"limits": {"nvidia.com/gpu": "1", "cpu": "10m", "memory": "10Mi"}},
    }
    spec = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 0,
    }
    body = {"metadata": {"name": "important", "labels": labels}, "spec": spec}
    cluster.api.create(f"/api/v1/namespaces/{namespace}/pods", body)
    words = f"Kueue has given the kernel's quota in the queue {QUEUE} to others"
    await eventually(lambda: words in kernel.allocation.reason, "it is told", LONG)


async def test_a_queue_that_does_not_exist_is_told(
    admitted: None, notebook: Any, config: Any
) -> None:
    kernel = await notebook("1/4", kueue_queue="nowhere").start()
    words = "queue nowhere, which has not said why"
    await eventually(lambda: words in kernel.allocation.reason, "it is told", LONG)
