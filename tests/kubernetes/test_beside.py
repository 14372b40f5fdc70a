"""The kernel's container decides, whatever stands before it or beside it in its pod."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from faults import processes
from notebooks import LONG, Notebook
from sidecars import aside, put_first
from waiting import eventually

from jupyter_gpu_share.errors import GpuShareError
from jupyter_gpu_share.runtime import Runtime

pytestmark = CLUSTER_MARKS

Make = Callable[..., Notebook]
Objects = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def injected(cluster: Any, namespace: str) -> Iterator[None]:
    """The cluster puts a container before all others into pods of the namespace."""
    with put_first(cluster, namespace, aside()):
        yield


async def killed(one: Notebook, pod: dict[str, Any]) -> None:
    """The kernel's container is killed; what stands beside it goes on."""
    pids = await eventually(
        lambda: processes(pod, "gpu_share_kernel.agent"), "the agent runs", LONG
    )
    os.kill(pids[0], signal.SIGKILL)
    await one.state("failed")
    assert "killed from outside" in one.allocation.reason


def reason(one: Notebook) -> str:
    """What the table says of a kernel, which may not be there yet."""
    row = Runtime.instance(one.config).table.get(one.kernel_id)
    return row.reason if row is not None else ""


async def gone(objects: Objects) -> None:
    for what in ("pods", "secrets", "claims"):
        await eventually(lambda what=what: not objects(what), f"no {what} left", LONG)


async def test_a_container_beside_the_kernel_keeps_no_dead_one_alive(
    notebook: Make, objects: Objects
) -> None:
    one = notebook("1/4", pod_patch={"spec": {"containers": [aside()]}})
    await one.start()
    assert await one.run("print('here')") == "here"
    (pod,) = objects("pods")
    assert [each["name"] for each in pod["spec"]["containers"]] == ["kernel", "aside"]
    await killed(one, pod)
    await one.close()
    await gone(objects)


async def test_nor_does_one_that_was_put_before_it(
    injected: None, notebook: Make, objects: Objects
) -> None:
    async def starts() -> Notebook:
        one = await notebook("1/4").start()
        assert await one.run("print('here')") == "here"
        (pod,) = [pod for pod in objects("pods") if not pod["metadata"].get("deletionTimestamp")]
        names = [each["name"] for each in pod["spec"]["containers"]]
        if names != ["aside", "kernel"]:  # the policy is not known to the API server yet
            await one.close()
            await gone(objects)
            return await starts()
        await killed(one, pod)
        return one

    one = await asyncio.wait_for(starts(), LONG)
    await one.close()
    await gone(objects)


async def test_one_that_ends_or_has_no_image_is_none_of_the_kernels(
    notebook: Make, objects: Objects
) -> None:
    ends = aside("print('done')", name="ends")
    missing = aside(name="missing", image="localhost/none:1")
    one = notebook("1/4", pod_patch={"spec": {"containers": [ends, missing]}})
    await one.start()

    def told() -> list[Any]:
        (pod,) = objects("pods")
        found = {each["name"]: each["state"] for each in pod["status"]["containerStatuses"]}
        return ["terminated" in found["ends"], "waiting" in found["missing"]]

    await eventually(lambda: all(told()), "the one has ended, the other has no image", LONG)
    assert await one.run("print('here')") == "here"
    assert one.allocation.state.value == "active"


async def test_an_image_that_cannot_be_had_now_is_waited_for(
    notebook: Make, objects: Objects
) -> None:
    """The registry's address is nobody's: as with one that is away for a while."""
    one = notebook(
        "1/4",
        image="localhost/none:1",
        image_pull_policy="IfNotPresent",
        image_patience=4.0,
    )
    starting = asyncio.ensure_future(one.start())
    try:
        await eventually(
            lambda: "The node tries again" in reason(one), "what hinders it is told", LONG
        )
        assert "connection refused" in reason(one)
        with pytest.raises(GpuShareError, match=r"localhost/none:1.*connection refused"):
            await starting
    finally:
        starting.cancel()
    await gone(objects)
