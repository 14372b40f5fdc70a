"""What looks take for granted of a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._cluster import Cluster
from jupyter_gpu_share.engines.kubernetes._names import MANAGED, PART, SERVER
from jupyter_gpu_share.engines.kubernetes._queue import Queue
from jupyter_gpu_share.engines.kubernetes.api import PODS, Change, KubeApi
from jupyter_gpu_share.engines.kubernetes.backends import make_backend

pytestmark = CLUSTER_MARKS

Object = dict[str, Any]


def pod(name: str, server: str, gpus: str = "1") -> Object:
    """A pod that no scheduler knows of."""
    main = {"name": "main", "image": "nothing:1", "resources": {"limits": {"nvidia.com/gpu": gpus}}}
    main["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    labels = {MANAGED[0]: MANAGED[1], PART: "kernel", SERVER: server}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "schedulerName": "nobody",
            "automountServiceAccountToken": False,
            "containers": [main],
        },
    }


@pytest.fixture
async def api(cluster: Any) -> AsyncIterator[KubeApi]:
    api = KubeApi(str(cluster.kubeconfig))
    yield api
    await api.close()


async def test_the_place_comes_from_metadata_alone(api: KubeApi, namespace: str) -> None:
    for name, server in (("theirs", "bob"), ("ours", "alice")):
        await api.create(PODS, pod(name, server), namespace)
    (found,) = await api.list_metadata(PODS, namespace, labelSelector=f"{SERVER}=bob")
    assert set(found) <= {"kind", "apiVersion", "metadata"}
    read = asyncio.Event()
    queue = Queue(api, namespace, "alice", "kernel", read.set)
    queue.ask()
    await asyncio.wait_for(read.wait(), 60.0)
    await eventually(lambda: [name for _, name in queue.others] == ["theirs"], "it was read")
    assert [each["metadata"]["name"] for each in await queue.pods()] == ["theirs"]
    await queue.close()


async def test_what_is_shown_is_followed_and_another_servers_pod_wakes_nobody(
    cluster: Any, namespace: str
) -> None:
    told: list[Change] = []
    engine = KubernetesEngine(kubeconfig=str(cluster.kubeconfig), namespace=namespace)
    ours = Cluster(engine, told.append)
    ours.namespace, ours.server = namespace, "alice"
    ours.backend = make_backend("device-plugin", {}, "pod")
    ours._reads = ours.backend.reads | ours.backend.uses
    ours.pods = ours._watch(PODS)
    await ours.pods.synced()

    async def names() -> set[str]:
        pods = (await ours.shown()).pods
        return {each["metadata"]["name"] for each in pods}

    before = await names()
    assert ours.api.streams_lists, "the server sends lists as streams"
    await ours.api.create(PODS, pod("theirs", "bob"), namespace)
    while await names() != before | {"theirs"}:
        await asyncio.sleep(0.05)
    await ours.api.create(PODS, pod("ours", "alice"), namespace)
    await eventually(lambda: told, "ours is told")
    assert {change.name for change in told} == {"ours"}
    await ours.api.delete(PODS, "theirs", namespace)
    while "theirs" in await names():
        await asyncio.sleep(0.05)
    assert not ours._read, "nothing was listed for all this"
    await ours.close()
