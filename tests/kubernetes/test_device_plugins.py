"""Pods of the backends ``device-plugin`` and ``mig`` before a real scheduler, on nodes of KWOK.

Their pods run without a process, so that this goes as far as the API does: what is asked for is
scheduled, read back, counted, and its refusal understood.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from plans import plan
from traitlets.config import Config
from waiting import eventually

from jupyter_gpu_share.allocations import Isolation
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes import _failures as failures
from jupyter_gpu_share.engines.kubernetes._cluster import Cluster
from jupyter_gpu_share.engines.kubernetes._names import object_name
from jupyter_gpu_share.engines.kubernetes._pods import Labels, pod_body
from jupyter_gpu_share.engines.kubernetes.api import PODS
from jupyter_gpu_share.size import Size

pytestmark = CLUSTER_MARKS

Open = Callable[[str], Any]
MIB, GIB = 2**20, 2**30
DRA = {"resourceslices", "deviceclasses", "resourceclaims"}
PRODUCT = "NVIDIA-A100-SXM4-80GB"


@pytest.fixture
def nodes(cluster: Any) -> Iterator[tuple[str, str]]:
    """Two nodes: two GPUs in four time slices each, and a GPU in seven instances."""
    with cluster.kwok(nodes=2, gpus=8) as (sliced, mixed):
        shared = {
            "nvidia.com/gpu.product": f"{PRODUCT}-SHARED",
            "nvidia.com/gpu.memory": "81920",
            "nvidia.com/gpu.count": "2",
            "nvidia.com/gpu.replicas": "4",
            "nvidia.com/gpu.sharing-strategy": "time-slicing",
        }
        instances = {
            "nvidia.com/gpu.product": PRODUCT,
            "nvidia.com/gpu.memory": "81920",
            "nvidia.com/mig.strategy": "mixed",
            "nvidia.com/mig-1g.10gb.memory": "9728",
        }
        for name, labels in ((sliced, shared), (mixed, instances)):
            cluster.api.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": labels}})
        amounts = {"nvidia.com/gpu": "0", "nvidia.com/mig-1g.10gb": "7"}
        status = {"status": {"capacity": amounts, "allocatable": amounts}}
        cluster.api.patch(f"/api/v1/nodes/{mixed}/status", status)
        yield sliced, mixed


@pytest.fixture
async def opened(config: Config) -> AsyncIterator[Open]:
    """Opens the cluster as a server with that backend does."""
    made: list[Cluster] = []

    async def open_with(backend: str) -> Cluster:
        config.KubernetesEngine.backend = backend
        made.append(Cluster(KubernetesEngine(config=config), lambda change: None))
        await made[-1].open()
        return made[-1]

    yield open_with
    for each in made:
        await each.close()


async def ask(server: Cluster, size: str) -> str:
    """Create the pod of a kernel of that size; its name."""
    kernel_id = secrets.token_hex(4)
    wanted = Size.parse(size)
    name = object_name("alice", kernel_id)
    pod = pod_body(
        plan(
            name=name,
            labels=Labels("alice", kernel_id, secrets.token_hex(8)),
            image="localhost/kernel:1",
            size=wanted,
            rendered=server.backend.render(wanted, server.facts),
            claims={},
            owner=None,
        )
    )
    await server.api.create(PODS, pod, server.namespace)
    return name


async def placed(server: Cluster, name: str) -> dict[str, Any]:
    """The pod, once it has its node."""

    def look() -> Any:
        pod = server.pod(name)
        return pod if pod is not None and pod["spec"].get("nodeName") else None

    pod: dict[str, Any] = await eventually(look, f"{name} is placed")
    return pod


async def refusal(server: Cluster, name: str) -> str:
    """What the user is told of a pod that does not fit."""

    def look() -> str | None:
        pod = server.pod(name)
        return failures.unschedulable(pod) if pod is not None else None

    words: str = await eventually(look, f"{name} is refused")
    return server.backend.explain(words) or words


async def test_a_time_slice_is_scheduled_read_back_and_counted(
    nodes: tuple[str, str], opened: Open, cluster: Any
) -> None:
    server = await opened("device-plugin")
    size = Size.parse("1/3")
    note = server.backend.render(size, server.facts).note
    assert note == "1/3 becomes 1 of 4 time slices of an A100 (20 GiB of 80 GiB)."
    pod = await placed(server, await ask(server, "1/3"))
    assert pod["spec"]["nodeName"] == nodes[0]
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    share = server.backend.granted(pod, [], server.facts)
    assert share is not None
    assert (share.memory_bytes, share.fraction) == (20 * GIB, Fraction(1, 4))
    assert share.isolation is Isolation.FRAMEWORK
    assert share.devices[0].node == nodes[0]
    assert server.backend.room(size, await server.refresh(0)) == 7
    for _ in range(7):
        await placed(server, await ask(server, "1/4"))
    assert server.backend.room(size, await server.refresh(0)) == 0
    assert await refusal(server, await ask(server, "1/4")) == "All GPUs that fit are in use."
    # What is known of others' pods is little, and those without GPUs are not known at all.
    pods = (await server.refresh(0)).pods
    assert len(pods) == 9
    assert {"managedFields", "ownerReferences"}.isdisjoint(pods[0]["metadata"])


async def test_an_instance_is_scheduled_read_back_and_counted(
    nodes: tuple[str, str], opened: Open
) -> None:
    server = await opened("mig")
    for _ in range(7):
        pod = await placed(server, await ask(server, "1/8"))
        assert pod["spec"]["nodeName"] == nodes[1]
    share = server.backend.granted(pod, [], server.facts)
    assert share is not None
    assert (share.memory_bytes, share.isolation) == (9728 * MIB, Isolation.HARDWARE)
    assert server.backend.room(Size.parse("mig-1g.10gb"), await server.refresh(0)) == 0
    words = await refusal(server, await ask(server, "mig-1g.10gb"))
    assert words == "All MIG instances 1g.10gb are in use."


@pytest.mark.parametrize(
    ("backend", "read"),
    [
        ("auto", {*DRA, "nodes", "devicetaintrules"}),
        # Whether nodes and devices are usable; where it may not read that, it goes without.
        ("dra", {*DRA, "nodes", "devicetaintrules"}),
        ("kai", {"nodes", "pods", "resourceslices"}),
        ("hami", {"nodes", "pods"}),
        ("device-plugin", {"nodes", "pods"}),
        ("mig", {"nodes", "pods"}),
    ],
)
async def test_a_server_reads_what_its_backend_needs_and_no_more(
    backend: str, read: set[str], opened: Open, cluster: Any, namespace: str
) -> None:
    since = cluster.audit_position()
    server = await opened(backend)
    await server.refresh(0)
    seen = {
        entry["objectRef"]["resource"]
        for entry in cluster.audit(since)
        if entry.get("userAgent") == "jupyter-gpu-share"
        and entry["verb"] == "list"
        and not entry["objectRef"].get("namespace")
    }
    assert seen == read
    assert server.backend.name == ("dra" if backend == "auto" else backend)
