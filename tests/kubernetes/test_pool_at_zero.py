"""A pool at zero, which comes when a kernel waits for it; pool and autoscaler are played."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from manifests import Account
from notebooks import LONG
from played_pool import PlayedPool
from waiting import eventually

pytestmark = CLUSTER_MARKS

LABELS = {"pool": "t4"}
KIND = {
    "model": "T4",
    "memory": "15GiB",
    "sharing": "time-slicing",
    "replicas": 4,
    "node_selector": LABELS,
    "most": 1,
}
COMES = "The cluster's autoscaler brings a node for it, which takes some minutes."


@pytest.fixture
def pool(cluster: Any, namespace: str) -> Iterator[PlayedPool]:
    """Of one node at most, with a GPU in four time slices; none is there."""
    with cluster.kwok(nodes=0) as names:
        yield PlayedPool(cluster.api, namespace, names, LABELS, gpus=4)


async def test_a_kernel_waits_in_words_for_a_node_that_comes(
    pool: PlayedPool,
    jupyter: Account,
    cluster_read: Callable[[Account], None],
    config: Any,
    notebook: Any,
    objects: Any,
) -> None:
    jupyter.configure(config)
    cluster_read(jupyter)
    config.KubernetesEngine.backend = "device-plugin"
    config.KubernetesEngine.kinds = [KIND]
    # Its notebook waits for the answer of a kernel that no process is; it does not get that far.
    waits = await notebook("1/4").start()
    await eventually(pool.scale_up, "the autoscaler sees the pod", LONG)
    await eventually(lambda: COMES in waits.allocation.reason, "the user is told", LONG)
    # Who needs no GPU needs no node of the pool.
    none = await notebook("0").placed()
    assert await none.run("print(1 + 1)") == "2"
    assert waits.allocation.share is None
    pool.bring("kwok-t4")
    await eventually(lambda: waits.allocation.share is not None, "it has its place", LONG)
    (device,) = waits.allocation.share.devices
    assert device.node == "kwok-t4"
    assert "T4" in device.model
    (pod,) = [pod for pod in objects("pods") if pod["spec"].get("nodeName") == "kwok-t4"]
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
