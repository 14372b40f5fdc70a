"""Shares of kernels in pods go back and come back, with the variables."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from notebooks import LONG, Notebook
from servers import until
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.errors import NotPossible
from jupyter_gpu_share.runtime import Runtime
from jupyter_gpu_share.size import Size

pytestmark = CLUSTER_MARKS

Make = Callable[..., Notebook]
Objects = Callable[[str], list[dict[str, Any]]]
COMPUTE = """
from gpu_share_kernel import simulated
memory = simulated.allocate("30GiB")
rows = [1, 2]
again = {"rows": rows}
text = "x" * 3_000_000
"""
LOOK = "rows.append(3); print(again['rows'] is rows, rows, len(text), simulated.memory()[0] >> 30)"
THERE = "True [1, 2, 3] 3000000 30"


async def release(one: Notebook, *, lose_variables: bool = False) -> None:
    await Runtime.instance().release(one.kernel_id, lose_variables=lose_variables)


@pytest.mark.parametrize(("style", "how"), [("lease", "in-place"), ("pod", "snapshot")])
async def test_another_has_the_share_meanwhile_and_every_variable_is_there_afterwards(
    style: str, how: str, notebook: Make, cluster: Any, namespace: str, objects: Objects
) -> None:
    one, other, rival = (notebook("80GiB", style=style) for _ in range(3))
    await one.start()
    await other.start()
    await one.run(COMPUTE)
    with pytest.raises(NotPossible, match=r"generator `g`") if how == "snapshot" else _nothing():
        await one.run("g = (n for n in range(3)); h = next(g)")
        await release(one)
    if how == "snapshot":
        await one.run("del g")
        await release(one)
    row = one.allocation
    assert (row.state, row.share, row.kept.how) == (State.RELEASED, None, how)
    kernels = {
        pod["metadata"]["annotations"]["gpu-share.jupyter.org/kernel-id"]
        for pod in objects("pods")
        if not pod["metadata"].get("deletionTimestamp")
    }
    assert (one.kernel_id in kernels) is (style == "lease")
    await rival.start()
    await rival.state("active", "idle")
    cell = asyncio.ensure_future(one.run(LOOK))
    await eventually(lambda: one.allocation.queue is not None, "its place is known", LONG)
    await rival.close()
    assert THERE in await cell
    if how == "in-place":
        assert await one.run("print(next(g))") == "1"
    assert one.allocation.share is not None
    total = sum(gpu.memory_bytes - gpu.free_bytes for gpu in await Runtime.instance().capacity())
    assert round(total / 2**30) == 160


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


async def test_an_interrupt_gives_up_waiting_and_nothing_else(
    notebook: Make, cluster: Any, namespace: str, objects: Objects
) -> None:
    one, other, rival = (notebook("80GiB", style="lease") for _ in range(3))
    await one.start()
    await other.start()
    await one.run(COMPUTE)
    await release(one)
    await rival.start()
    cell = asyncio.ensure_future(one.run("rows.append('never')"))
    await eventually(lambda: one.allocation.queue is not None, "its place is known", LONG)
    await one.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in await cell
    assert one.allocation.state is State.RELEASED
    await eventually(
        lambda: len([pod for pod in objects("pods") if "lease" in pod["metadata"]["name"]]) == 2,
        "nothing waits for it any more",
        LONG,
    )
    await rival.close()
    assert THERE in await one.run(LOOK)


async def test_a_change_of_size_keeps_the_variables(notebook: Make) -> None:
    one = await notebook("1/4").start()
    await one.run("x = [1]; y = x")
    runtime = Runtime.instance()
    assert await runtime.change_size(one.kernel_id, Size.parse("1/2"), lose_variables=False)
    assert "True" in await one.run("print(x is y)")
    row = await one.state("active", "idle")
    assert row.share is not None
    assert (row.size, row.share.memory_bytes) == ("1/2", 40 * 2**30)


async def test_the_end_of_a_pod_without_its_share_is_told(
    notebook: Make, cluster: Any, namespace: str, objects: Objects
) -> None:
    one = await notebook("1/2", style="lease").start()
    await one.run("x = 1")
    await release(one)
    (pod,) = objects("pods")
    cluster.api.delete(f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}", grace=0)
    row = await one.state("failed")
    assert "deleted" in row.reason
    for what in ("pods", "secrets", "claims"):
        await eventually(lambda what=what: not objects(what), f"no {what} left", LONG)


@pytest.mark.parametrize("style", ["lease", "pod"])
def test_a_server_that_was_killed_finds_a_kernel_without_its_share(
    start: Any, cluster: Any, namespace: str, style: str
) -> None:
    """In style pod there is no pod any more: the variables are on the server's disk."""
    server = start(style=style)
    kernel_id = server.start_kernel("1/2")
    assert server.run_cell(kernel_id, COMPUTE) == ""
    row = server.ok(f"gpu-share/allocations/{kernel_id}/release", "POST")
    assert row["state"] == "released"
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(PATIENCE)
    again = start(style=style)
    until(lambda: again.kernels(), "the kernel is listed")
    assert THERE in again.run_cell(kernel_id, LOOK)
    again.ok(f"api/kernels/{kernel_id}", "DELETE")
