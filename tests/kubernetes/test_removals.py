"""Pods of kernels that others end on the real cluster: the variables come back in another one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from faults import processes
from notebooks import LONG, Notebook
from waiting import eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.runtime import Runtime

pytestmark = CLUSTER_MARKS

Make = Callable[..., Notebook]
Objects = Callable[[str], list[dict[str, Any]]]
BACK = "The variables are saved and come back with the next cell, in a new pod."


def kernel_pod(objects: Objects) -> str:
    """The name of the one kernel's pod."""
    part = "gpu-share.jupyter.org/part"
    pods = [pod for pod in objects("pods") if pod["metadata"]["labels"][part] == "kernel"]
    (name,) = (pod["metadata"]["name"] for pod in pods)
    return str(name)


def evict(cluster: Any, namespace: str, name: str) -> None:
    """Do what ``kubectl drain`` does."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    cluster.api.create(f"/api/v1/namespaces/{namespace}/pods/{name}/eviction", body)


@pytest.mark.parametrize("style", ["pod", "lease"])
async def test_an_evicted_kernel_is_released_and_comes_back_with_its_variables(
    style: str, notebook: Make, cluster: Any, namespace: str, objects: Objects
) -> None:
    one = await notebook("1/2", style=style).start()
    await one.run("x = list(range(1000)); y = x")
    evict(cluster, namespace, kernel_pod(objects))
    row = await one.state("released", "failed")
    assert row.state is State.RELEASED
    assert row.reason == (
        f"The cluster took the kernel's pod away (eviction, as when its node is drained). {BACK}"
    )
    assert (row.kept.how, row.kept.lost, row.share) == ("snapshot", (), None)
    assert "1000 True" in await one.run("print(len(x), x is y)")
    assert one.allocation.share is not None


async def test_a_drain_that_takes_the_lease_too_costs_no_variables(
    notebook: Make, cluster: Any, namespace: str, objects: Objects
) -> None:
    """The lease is gone at once, but a drained node gives its share to nobody."""
    one = await notebook("1/2", style="lease").start()
    await one.run("x = 41")
    pods = objects("pods")
    node = f"/api/v1/nodes/{pods[0]['spec']['nodeName']}"
    cluster.api.patch(node, {"spec": {"unschedulable": True}})
    try:
        for pod in sorted(pods, key=lambda pod: "lease" not in pod["metadata"]["name"]):
            evict(cluster, namespace, pod["metadata"]["name"])
        row = await one.state("released", "failed")
    finally:
        cluster.api.patch(node, {"spec": {"unschedulable": None}})
    assert row.state is State.RELEASED, row.reason
    assert row.reason.endswith(BACK)
    assert "42" in await one.run("print(x + 1)")


async def test_a_running_cell_is_cut_short_and_the_next_ones_wait_for_another_pod(
    notebook: Make, cluster: Any, namespace: str, objects: Objects
) -> None:
    one = await notebook("1/2").start()
    await one.run("x = 41; import time")
    told: list[str] = []
    cell = asyncio.ensure_future(one.run("print('runs')\ntime.sleep(3600)", told=told))
    await eventually(lambda: "runs" in "".join(told), "the cell runs", LONG)
    path = f"/api/v1/namespaces/{namespace}/pods/{kernel_pod(objects)}"
    cluster.api.delete(path, grace=40)
    said = await asyncio.wait_for(cell, LONG)
    assert "KeyboardInterrupt" in said
    assert "The running cell is interrupted, so that the variables can be saved." in said
    assert "42" in await one.run("print(x + 1)")


async def test_a_node_that_ends_a_pod_without_a_word_leaves_time_too(
    notebook: Make, objects: Objects
) -> None:
    """A node that shuts down tells the containers only, and the cluster when they have ended."""
    one = await notebook("1/2").start()
    await one.run("x = 41")
    (pod,) = objects("pods")
    os.kill(processes(pod, "gpu_share_kernel.agent")[0], signal.SIGTERM)
    row = await one.state("released", "failed")
    assert row.state is State.RELEASED, row.reason
    assert row.reason.startswith("The kernel's node ended its pod")
    assert "42" in await one.run("print(x + 1)")


async def test_a_pod_that_is_given_no_time_is_told_as_deleted(
    notebook: Make, cluster: Any, namespace: str, objects: Objects
) -> None:
    one = await notebook("1/2").start()
    await one.run("x = 1")
    cluster.api.delete(f"/api/v1/namespaces/{namespace}/pods/{kernel_pod(objects)}", grace=0)
    row = await one.state("released", "failed")
    assert row.state is State.FAILED
    assert "was deleted in the cluster" in row.reason


async def test_a_process_without_its_share_is_saved_too(
    notebook: Make, cluster: Any, namespace: str, objects: Objects
) -> None:
    one = await notebook("1/2", style="lease").start()
    await one.run("x = 41")
    await Runtime.instance().release(one.kernel_id, lose_variables=False)
    assert one.allocation.kept.how == "in-place"
    evict(cluster, namespace, kernel_pod(objects))
    await eventually(lambda: one.allocation.kept.how == "snapshot", "it is saved", LONG)
    row = await one.state("released", "failed")
    assert row.reason.endswith(BACK)
    for what in ("pods", "secrets", "claims"):
        await eventually(lambda what=what: not objects(what), f"no {what} left", LONG)
    assert "42" in await one.run("print(x + 1)")


async def test_what_cannot_be_saved_ends_in_order_and_is_told(
    notebook: Make, cluster: Any, namespace: str, objects: Objects
) -> None:
    one = notebook("1/2")
    one.config.IdlePolicy.snapshot_limit = 1000
    await one.start()
    await one.run("import os; x = os.urandom(1_000_000)")
    evict(cluster, namespace, kernel_pod(objects))
    row = await one.state("released", "failed")
    assert row.state is State.FAILED
    assert "The kernel's pod was evicted" in row.reason
    assert "at most" in row.reason
