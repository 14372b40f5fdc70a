"""Each thing that can go wrong in a cluster: nothing is left, and the user is told the true cause.

``make test`` does each once, ``make faults`` many times at random instants from a fixed seed. That
a Jupyter server is killed is in ``test_server.py``.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from faults import ROUNDS, START, STYLES, TURNS, World, kill_agent, processes, through
from notebooks import LONG, Notebook
from waiting import eventually

from jupyter_gpu_share.errors import GpuShareError
from jupyter_gpu_share.runtime import Runtime

pytestmark = [*CLUSTER_MARKS, pytest.mark.fault]

# -- faults that end the kernel ----------------------------------------------------------------


async def kill_kernel(world: World, one: Notebook) -> None:
    """The kernel's process is killed from outside."""
    pod = await world.pod()
    pids = await eventually(
        lambda: processes(pod, "gpu_share_kernel.agent")[2:], "the kernel runs", LONG
    )
    os.kill(pids[-1], signal.SIGKILL)


async def delete_pod(world: World, one: Notebook) -> None:
    """Somebody deletes the pod."""
    pods = await eventually(world.kernel_pods, "the pod is there", LONG)
    name = pods[0]["metadata"]["name"]
    world.cluster.api.delete(f"/api/v1/namespaces/{world.namespace}/pods/{name}", grace=0)


async def out_of_memory(world: World, one: Notebook) -> None:
    """The container's memory is used up by a cell."""
    await eventually(lambda: one.client is not None, "the kernel runs", LONG)
    assert one.client is not None
    one.client.execute("x = [bytearray(2**24) for _ in range(1000)]; [memoryview(m) for m in x]")


async def delete_lease(world: World, one: Notebook) -> None:
    """Somebody deletes what holds the share, as the scheduler does for work that matters more."""

    def leases() -> list[dict[str, Any]]:
        part = "gpu-share.jupyter.org/part"
        pods = [p for p in world.objects("pods") if p["metadata"]["labels"].get(part) == "lease"]
        return [pod for pod in pods if pod["spec"].get("nodeName")]

    (pod,) = await eventually(leases, "the lease is there", LONG)
    name = pod["metadata"]["name"]
    world.cluster.api.delete(f"/api/v1/namespaces/{world.namespace}/pods/{name}", grace=0)


@dataclass(frozen=True)
class Deadly:
    """A fault that ends the kernel, and how it is told."""

    act: Callable[[World, Notebook], Awaitable[None]]
    cause: str
    settings: tuple[tuple[str, Any], ...] = ()
    styles: tuple[str, ...] = STYLES


DEADLY = {
    "agent kill -9": Deadly(kill_agent, "killed from outside"),
    "kernel kill -9": Deadly(kill_kernel, "SIGKILL"),
    "pod deleted": Deadly(delete_pod, "deleted in the cluster"),
    "container OOM": Deadly(out_of_memory, "want of memory", (("memory_limit", "200Mi"),)),
    "lease deleted": Deadly(delete_lease, "taken away in the cluster", styles=("lease",)),
}


@pytest.mark.parametrize("name", DEADLY)
@pytest.mark.parametrize("turn", TURNS)
async def test_a_fault_that_ends_the_kernel_is_told_and_leaves_nothing(
    name: str, turn: int, world: World
) -> None:
    fault = DEADLY[name]
    log = world.round(name, turn, fault.styles[turn % len(fault.styles)])
    one = world.make(**dict(fault.settings))
    starting = asyncio.ensure_future(one.start())
    await world.instant(log, START)
    await fault.act(world, one)
    try:
        await starting
        log.told = (await one.state("failed")).reason
    except GpuShareError as error:
        log.told = str(error)
    assert re.search(fault.cause, log.told), log.told
    assert "\n" not in log.told
    world.never_too_much()
    # Jupyter starts it again; then it is shut down.
    if one.manager.has_kernel:
        await one.manager.restart_kernel(now=True)
    else:
        await one.start()
    assert await one.run("print('again')") == "again"
    world.never_too_much()
    await one.close()
    await world.nothing_left(log)


# -- faults that a kernel survives -------------------------------------------------------------


@pytest.mark.parametrize("program", ["kubelet", "apiserver", "etcd"])
@pytest.mark.parametrize("turn", TURNS)
async def test_a_program_of_the_cluster_that_is_away_for_a_while(
    program: str, turn: int, world: World
) -> None:
    log = world.round(f"{program} down and back", turn, STYLES[turn % 2])
    running = await world.make().start()
    await running.run("x = 1")
    starting = world.make()
    task = asyncio.ensure_future(starting.start())
    await world.instant(log, START)
    await asyncio.to_thread(world.cluster.kill, program)
    # The kernel that runs is not touched.
    assert await running.run("print(x)") == "1"
    await asyncio.sleep(world.rng.uniform(0, 2.0))
    await asyncio.to_thread(world.cluster.start, program)
    try:
        await task
    except GpuShareError as error:
        # A kubelet that dies while a container is made takes the container with it, and says so.
        log.told = str(error)
        assert program == "kubelet", log.told
        assert "node" in log.told
        await starting.close()
        starting = await world.make().start()
    assert await starting.run("print('came up')") == "came up"
    assert await running.run("print(x)") == "1"
    world.never_too_much()
    await running.close()
    await starting.close()
    await world.nothing_left(log)


@pytest.mark.parametrize("turn", range(ROUNDS))
async def test_kernels_that_end_while_the_api_is_away_are_removed_later(
    turn: int, world: World
) -> None:
    log = world.round("kernel ended while the API server is down", turn)
    log.silent = "nothing: the pod is deleted when the API server is back"
    one = await world.make().start()
    await asyncio.to_thread(world.cluster.stop, "apiserver")
    await one.close()
    await asyncio.to_thread(world.cluster.start, "apiserver")
    await world.nothing_left(log)


@pytest.mark.parametrize("turn", range(ROUNDS))
async def test_a_watch_that_died_without_a_word_is_begun_anew(turn: int, world: World) -> None:
    log = world.round("watch silently dead", turn)
    one = await world.make().start()
    await world.instant(log, START)
    assert world.proxy.fall_silent() > 0
    await delete_pod(world, one)
    ended = await one.state("failed", "released")
    log.told = ended.reason
    if ended.state.value == "failed":
        assert "deleted in the cluster" in log.told
    else:  # the node gave it its time: its agent said that it is to end
        assert "variables" in log.told
    await one.close()
    await world.nothing_left(log)


@pytest.mark.parametrize("turn", range(ROUNDS))
async def test_a_create_whose_answer_is_lost_makes_one_pod(turn: int, world: World) -> None:
    log = world.round("create applied, its answer lost", turn)
    first = await world.make().start()  # the cluster is known, connections are open
    world.proxy.lose = world.rng.randint(1, 3)
    one = await world.make().start()
    assert world.proxy.lost
    assert await one.run("print('here')") == "here"
    assert len(world.objects("pods")) == 2
    assert len(world.objects("resourceclaims")) == 2
    world.never_too_much()
    await one.close()
    await first.close()
    await world.nothing_left(log)


def jail(world: World) -> tuple[dict[str, Any], dict[str, Any]]:
    """A priority level that serves one request at a time, and sends the server's there."""
    version = {"apiVersion": "flowcontrol.apiserver.k8s.io/v1"}
    limited = {
        "nominalConcurrencyShares": 0,
        "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Reject"},
    }
    level = {
        **version,
        "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "jail"},
        "spec": {"type": "Limited", "limited": limited},
    }
    user = f"system:serviceaccount:{world.namespace}:{world.account}"
    everything = {name: ["*"] for name in ("verbs", "apiGroups", "resources", "namespaces")}
    rules = {
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "resourceRules": [{**everything, "clusterScope": True}],
    }
    schema = {
        **version,
        "kind": "FlowSchema",
        "metadata": {"name": "jail"},
        "spec": {
            "priorityLevelConfiguration": {"name": "jail"},
            "matchingPrecedence": 2,
            "rules": [rules],
        },
    }
    return level, schema


@asynccontextmanager
async def crowded(world: World) -> AsyncIterator[None]:
    """The API server has too many requests of this user: one of them never sends its body."""
    flow = "/apis/flowcontrol.apiserver.k8s.io/v1"
    level, schema = jail(world)
    token = world.cluster.service_account_token(world.namespace, world.account)
    who = world.cluster.api_as(token)
    path = f"/api/v1/namespaces/{world.namespace}"
    head = (
        f"POST {path}/configmaps?dryRun=All HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        "Content-Length: 1000\r\n\r\n"
    )
    writer = None
    try:
        world.cluster.api.apply(f"{flow}/prioritylevelconfigurations/jail", level)
        world.cluster.api.apply(f"{flow}/flowschemas/jail", schema)
        _, writer = await asyncio.open_connection(
            "127.0.0.1", 6443, ssl=ssl.create_default_context(cafile=str(world.cluster.authority))
        )
        writer.write(head.encode())
        await eventually(
            lambda: asyncio.to_thread(lambda: who.raw("GET", f"{path}/pods")[0] == 429),
            "requests are refused",
            LONG,
        )
        yield
    finally:
        if writer is not None:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
        world.cluster.api.delete(f"{flow}/flowschemas/jail")
        world.cluster.api.delete(f"{flow}/prioritylevelconfigurations/jail")


@pytest.mark.parametrize("turn", range(ROUNDS))
async def test_a_storm_of_429_delays_and_breaks_nothing(turn: int, world: World) -> None:
    log = world.round("429 storm", turn)
    one = await world.make().start()
    async with crowded(world):
        since = world.cluster.audit_position()
        two = world.make()
        task = asyncio.ensure_future(two.start())
        assert await one.run("print('undisturbed')") == "undisturbed"
        await eventually(
            lambda: any(
                row.get("responseStatus", {}).get("code") == 429
                and row.get("userAgent") == "jupyter-gpu-share"
                for row in world.cluster.audit(since)
            ),
            "the launch meets a 429",
            LONG,
        )
        await world.instant(log, START)
    await task
    assert await two.run("print('came up')") == "came up"
    await one.close()
    await two.close()
    await world.nothing_left(log)


@pytest.mark.parametrize("turn", range(ROUNDS))
async def test_a_token_that_is_not_accepted_any_more(turn: int, world: World) -> None:
    log = world.round("expired token", turn)
    one = await world.make().start()
    await world.instant(log, START)
    accounts = f"/api/v1/namespaces/{world.namespace}/serviceaccounts"
    world.cluster.api.delete(f"{accounts}/{world.account}")
    runtime = Runtime.instance()
    engine: Any = await runtime.call(runtime.engine("kubernetes"))

    def trouble() -> str:
        found: str = engine._cluster.pods.health.error
        return found

    # The API server remembers a token for some seconds.
    await eventually(lambda: "credentials" in trouble(), "the watch is refused", LONG)
    with pytest.raises(GpuShareError, match="credentials") as caught:
        await world.make().start()
    log.told = str(caught.value)
    assert await one.run("print('undisturbed')") == "undisturbed"
    fresh = world.cluster.service_account_kubeconfig(world.namespace, world.account)
    through(world.proxy, fresh, Path(world.config.KubernetesEngine.kubeconfig).parent)
    await eventually(lambda: not trouble(), "the watch is back", LONG)
    three = await world.make().start()
    assert await three.run("print('came up')") == "came up"
    await one.close()
    await three.close()
    await world.nothing_left(log)


# -- what never starts -------------------------------------------------------------------------

QUOTAS = ("pods", "secrets", "count/resourceclaims.resource.k8s.io")


@pytest.mark.parametrize("what", QUOTAS)
@pytest.mark.parametrize("turn", range(ROUNDS))
async def test_a_quota_that_is_used_up_is_told_and_leaves_nothing(
    what: str, turn: int, world: World
) -> None:
    log = world.round(f"quota 403 of {what.partition('/')[2].partition('.')[0] or what}", turn)
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {what: "0"}}}
    path = f"/api/v1/namespaces/{world.namespace}/resourcequotas"
    world.cluster.api.create(path, quota)
    await eventually(
        lambda: world.cluster.api.get(f"{path}/none").get("status", {}).get("hard"),
        "the quota counts",
        LONG,
    )
    with pytest.raises(GpuShareError, match="quota is used up") as caught:
        await world.make().start()
    log.told = str(caught.value)
    await world.nothing_left(log)


@pytest.mark.parametrize("turn", TURNS)
async def test_a_kernel_that_no_node_can_take_is_refused_and_says_why(
    turn: int, world: World
) -> None:
    log = world.round("no node can take it", turn, STYLES[turn % 2])
    one = world.make(node_selector={"no": "such-node"})
    with pytest.raises(GpuShareError, match="has not the labels that they ask for") as caught:
        await one.start()
    log.told = str(caught.value)
    await world.nothing_left(log)


@pytest.mark.parametrize("turn", TURNS)
async def test_a_kernel_whose_nodes_may_still_come_waits_and_says_why(
    turn: int, world: World
) -> None:
    log = world.round("unschedulable", turn, STYLES[turn % 2])
    pool = {"no": "such-node"}
    one = world.make(node_selector=pool, kinds=[{"memory": "80GiB", "node_selector": pool}])
    one.config.GpuShareProvisioner.queue_patience = 0.5
    await one.start()
    await eventually(lambda: one.allocation.queue is not None, "the reason is known", LONG)
    log.told = one.allocation.reason
    assert "node affinity/selector" in log.told
    await one.close()
    await world.nothing_left(log)


@pytest.mark.parametrize("turn", TURNS)
async def test_an_image_that_does_not_exist_is_told_with_its_name(turn: int, world: World) -> None:
    log = world.round("image missing", turn, STYLES[turn % 2])
    with pytest.raises(GpuShareError, match=r"localhost/none:1.*Check its name") as caught:
        await world.make(image="localhost/none:1").start()
    log.told = str(caught.value)
    await world.nothing_left(log)
