"""Objects as the broker makes them for a kernel of a user's server."""

from __future__ import annotations

import secrets
from typing import Any

from plans import plan

from jupyter_gpu_share.engines.kubernetes._names import object_name
from jupyter_gpu_share.engines.kubernetes._pods import Labels, pod_body


def _named(server: str, part: str) -> tuple[str, Labels, dict[str, Any]]:
    kernel_id = secrets.token_hex(8)
    labels = Labels(server, kernel_id, secrets.token_hex(8))
    return object_name(server, kernel_id), labels, labels.metadata("", part)["labels"]


def pod_of(server: str) -> dict[str, Any]:
    """The pod of a kernel."""
    name, labels, _ = _named(server, "kernel")
    return pod_body(
        plan(
            name=name,
            labels=labels,
            image="localhost/kernel:1",
            pull_policy="Never",
            service_account="gpu-share-kernel",
            claims={"gpu": f"{name}-gpu"},
            owner=None,
        )
    )


def secret_of(server: str) -> dict[str, Any]:
    """The Secret with a kernel's keys."""
    name, _, labels = _named(server, "connection")
    return {
        "metadata": {"name": name, "labels": labels},
        "type": "Opaque",
        "stringData": {"connection.json": "{}"},
    }


def claim_of(server: str) -> dict[str, Any]:
    """The claim of a share."""
    name, _, labels = _named(server, "claim")
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}
    return {
        "metadata": {"name": f"{name}-gpu", "labels": labels},
        "spec": {"devices": {"requests": [request]}},
    }
