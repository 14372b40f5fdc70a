"""A kernel in a pod whose server was killed gives its share back, and keeps its variables."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import zmq.asyncio
from cluster.fixtures import CLUSTER_MARKS
from notebooks import LONG
from servers import until
from waiting import PATIENCE

from jupyter_gpu_share.engines.kubernetes._names import PART, PREFIX, annotation, label
from jupyter_gpu_share.engines.kubernetes._parked import Parked, park
from jupyter_gpu_share.engines.kubernetes._pods import address_of, connection_of

pytestmark = CLUSTER_MARKS

Objects = Callable[[str], list[dict[str, Any]]]
COMPUTE = """
import os
from gpu_share_kernel import simulated
pid, x, memory = os.getpid(), 41, simulated.allocate("30GiB")
"""
LOOK = "print(pid == os.getpid(), x, simulated.memory()[0] >> 30)"


async def parked(connection: Any, before: str, instance: str) -> Parked:
    """Have it parked as a process that owns the pod by now."""
    context = zmq.asyncio.Context()
    try:
        return await park(
            connection,
            instance=instance,
            before=before,
            vacate=True,
            watchdog=8 * 3600.0,
            patience=PATIENCE,
            context=context,
        )
    finally:
        context.destroy(linger=0)


def test_the_next_server_finds_the_variables_of_a_kernel_that_was_parked(
    start: Any, cluster: Any, namespace: str, objects: Objects
) -> None:
    server = start(style="lease")
    kernel_id = server.start_kernel("1/2")
    assert server.run_cell(kernel_id, COMPUTE) == ""
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(PATIENCE)
    (pod,) = (pod for pod in objects("pods") if label(pod, PART) == "kernel")
    (lease,) = (pod for pod in objects("pods") if label(pod, PART) == "lease")
    name, before, instance = pod["metadata"]["name"], annotation(pod, "instance"), uuid4().hex
    core = f"/api/v1/namespaces/{namespace}"
    ours = {"metadata": {"annotations": {PREFIX + "instance": instance}}}
    cluster.api.patch(f"{core}/pods/{name}", ours)
    secret = cluster.api.get(f"{core}/secrets/{name}")
    connection = connection_of(secret, address_of(pod))
    assert asyncio.run(parked(connection, before, instance)) == Parked(True)
    cluster.api.delete(f"{core}/pods/{lease['metadata']['name']}", grace=0)
    until(
        lambda: [label(each, PART) for each in objects("pods")] == ["kernel"],
        "the share is back",
        LONG,
    )
    again = start(style="lease")
    until(lambda: again.kernels(), "the kernel is listed")
    assert "True 41 30" in again.run_cell(kernel_id, LOOK)
    again.ok(f"api/kernels/{kernel_id}", "DELETE")
