"""Nodes without machines, played by KWOK, for tests of many nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from . import _config, _host
from ._api import Api, ApiError
from ._programs import Program, wait_for

#: KWOK plays the nodes that carry it, and no others.
ANNOTATION = "kwok.x-k8s.io/node"
READY = 60.0


@contextlib.contextmanager
def kwok_nodes(
    api: Api,
    program: Program,
    layout: _config.Layout,
    environment: Mapping[str, str],
    nodes: int,
    gpus: int,
) -> Iterator[list[str]]:
    """Run KWOK and its nodes; their pods are deleted before them."""
    runtime = layout.parts["runtime"]
    stages = [f"--config={path}" for path in sorted((runtime / "stages").glob("*.yaml"))]
    command = [
        f"{runtime}/kwok",
        f"--kubeconfig={layout.kubeconfig('admin')}",
        "--manage-all-nodes=false",
        f"--manage-nodes-with-annotation-selector={ANNOTATION}=fake",
        # Inside the range that is routed nowhere: nothing answers at these addresses.
        f"--cidr={_host.KWOK_PODS}",
        f"--node-ip={_host.NODE_ADDRESS}",
        # Its nodes live by these leases alone, and would be given up after some 50 s.
        "--node-lease-duration-seconds=40",
        *stages,
    ]
    names = [f"kwok-{number}" for number in range(nodes)]
    program.start(command, environment)
    try:
        for name in names:
            api.create("/api/v1/nodes", node(name, gpus))
        program.wait_until(lambda: _ready(api) >= set(names), f"{nodes} nodes are ready", READY)
        yield names
    finally:
        try:
            _remove(api, set(names))
        finally:
            program.stop()


def node(name: str, gpus: int) -> dict[str, Any]:
    """A node that KWOK plays; `kwok_nodes` removes it if its name is put into the list."""
    capacity = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "type": "kwok",
    }
    # Nobody looks up a name, or leaves the machine, to reach a kubelet that does not exist.
    addresses = [
        {"type": "InternalIP", "address": _host.NODE_ADDRESS},
        {"type": "Hostname", "address": "localhost"},
    ]
    return {
        "metadata": {"name": name, "labels": labels, "annotations": {ANNOTATION: "fake"}},
        "status": {"capacity": capacity, "allocatable": capacity, "addresses": addresses},
    }


def _ready(api: Api) -> set[str]:
    """Nodes on which pods can be scheduled."""
    return {
        node["metadata"]["name"]
        for node in api.get("/api/v1/nodes")["items"]
        if not node["spec"].get("taints")
        and any(
            each["type"] == "Ready" and each["status"] == "True"
            for each in node["status"].get("conditions", [])
        )
    }


def _remove(api: Api, names: set[str]) -> None:
    def pods() -> list[dict[str, Any]]:
        found = api.get("/api/v1/pods")["items"]
        return [pod for pod in found if pod["spec"].get("nodeName") in names]

    def emptied() -> bool:
        left = pods()
        for pod in left:
            place = pod["metadata"]
            api.delete(f"/api/v1/namespaces/{place['namespace']}/pods/{place['name']}", grace=0)
        return not left

    # First no more pods come to them.
    for name in names:
        with contextlib.suppress(ApiError):
            api.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": True}})
    wait_for(emptied, "pods of KWOK's nodes are gone", READY)
    for name in names:
        api.delete(f"/api/v1/nodes/{name}")
