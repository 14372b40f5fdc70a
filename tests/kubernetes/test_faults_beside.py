"""What goes wrong in a pod that others have put a container into, before the kernel's or after it.

``make test`` does each once, ``make faults`` many times at random instants from a fixed seed.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from faults import ROUNDS, START, World, kill_agent, processes
from notebooks import LONG
from sidecars import MARK, aside, put_first
from waiting import eventually

from jupyter_gpu_share.errors import GpuShareError

pytestmark = [*CLUSTER_MARKS, pytest.mark.fault]

PLACES = ("first", "last")
#: One that uses up its memory when it is told to.
GREEDY = aside(
    "import signal, time; "
    "signal.signal(signal.SIGUSR1, lambda *_: [bytearray(2**24) for _ in range(1000)]); "
    "[time.sleep(1) for _ in range(3600)]",
    resources={"limits": {"memory": "100Mi"}},
)


@contextmanager
def beside(world: World, place: str, container: dict[str, Any]) -> Iterator[None]:
    """New pods of kernels have a container beside the kernel's, in that place of the list."""
    settings = world.config.KubernetesEngine
    if place == "last":
        settings.pod_patch = {"spec": {"containers": [container]}}
        yield
    else:
        with put_first(world.cluster, world.namespace, container):
            yield


async def known(world: World, place: str) -> None:
    """Wait until the API server puts a container first."""
    context = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {
        "metadata": {"name": "probe"},
        "spec": {"containers": [aside(name="probe")], "securityContext": context},
    }
    path = f"/api/v1/namespaces/{world.namespace}/pods?dryRun=All"

    def put() -> bool:
        containers = world.cluster.api.create(path, pod)["spec"]["containers"]
        return [each["name"] for each in containers] == ["aside", "probe"]

    if place == "first":
        await eventually(put, "a container is put first", LONG)


def state_of(pod: dict[str, Any], name: str) -> dict[str, Any]:
    """What the node tells of a container."""
    for status in pod["status"].get("containerStatuses", []):
        if status["name"] == name:
            found: dict[str, Any] = status["state"]
            return found
    return {}


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal: the first of a container ignores others."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


@pytest.mark.parametrize("how", ["kill -9", "OOM"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("turn", range(ROUNDS))
async def test_a_container_beside_the_kernel_that_dies_does_not_touch_it(
    turn: int, place: str, how: str, world: World
) -> None:
    log = world.round(f"container beside the kernel, {place}: {how}", turn)
    with beside(world, place, GREEDY):
        await known(world, place)
        one = world.make()
        starting = asyncio.ensure_future(one.start())
        await world.instant(log, START)
        pod = await world.pod()
        (pid, *_) = await eventually(lambda: processes(pod, MARK), "it runs", LONG)
        if how == "kill -9":
            os.kill(pid, signal.SIGKILL)
        else:
            await eventually(lambda: catches(pid, signal.SIGUSR1), "it listens", LONG)
            os.kill(pid, signal.SIGUSR1)
        await starting
        await eventually(
            lambda: "terminated" in state_of(world.kernel_pods()[0], "aside"), "it has ended", LONG
        )
        (pod,) = world.kernel_pods()
        names = ["aside", "kernel"] if place == "first" else ["kernel", "aside"]
        assert [each["name"] for each in pod["spec"]["containers"]] == names
        assert state_of(pod, "aside")["terminated"]["exitCode"] == 137
        assert await one.run("print('undisturbed')") == "undisturbed"
        world.never_too_much()
        await one.close()
        await world.nothing_left(log)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("turn", range(ROUNDS))
async def test_a_kernel_that_dies_beside_another_container_is_told_of_and_leaves_nothing(
    turn: int, place: str, world: World
) -> None:
    log = world.round(f"kernel's container kill -9, another one {place}", turn)
    with beside(world, place, aside()):
        await known(world, place)
        one = world.make()
        starting = asyncio.ensure_future(one.start())
        await world.instant(log, START)
        await kill_agent(world, one)
        try:
            await starting
            log.told = (await one.state("failed")).reason
        except GpuShareError as error:
            log.told = str(error)
        assert "killed from outside" in log.told
        world.never_too_much()
        if one.manager.has_kernel:
            await one.manager.restart_kernel(now=True)
        else:
            await one.start()
        assert await one.run("print('again')") == "again"
        await one.close()
        await world.nothing_left(log)
