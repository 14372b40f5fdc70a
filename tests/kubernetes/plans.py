"""A kernel's pod as the tests of pure code make it."""

from __future__ import annotations

from typing import Any

from jupyter_gpu_share.engines.kubernetes._names import object_name
from jupyter_gpu_share.engines.kubernetes._pods import Labels, PodPlan, pod_body
from jupyter_gpu_share.engines.kubernetes.backends import Claim, Rendered
from jupyter_gpu_share.size import Size

NAME = object_name("alice", "k-1")
CLAIM = {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}}
RENDERED = Rendered(claims=(Claim("gpu", CLAIM),), env={"SHARED_BY": "tests"})
#: All that a size can add, so that a patch can try to change it.
RICH = Rendered(
    claims=(Claim("gpu", CLAIM),),
    limits={"nvidia.com/gpu": "1", "example.com/share": "1"},
    annotations={"gpu-fraction": "0.25"},
    labels={"queue": "q"},
    node_selector={"pool": "gpus"},
    env={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    scheduler="own-scheduler",
    priority_class="build",
    runtime_class="nvidia",
)


def plan(**fields: Any) -> PodPlan:
    """A plan with a claim, and with whatever a test is about."""
    given: dict[str, Any] = {
        "name": NAME,
        "labels": Labels("alice", "k-1", "attempt-1"),
        "image": "registry.example.org/team/kernel:1",
        "files": "gpu-share-files-1",
        "size": Size.parse("1/4"),
        "rendered": RENDERED,
        "claims": {"gpu": f"{NAME}-gpu"},
        "owner": {"apiVersion": "v1", "kind": "Pod", "name": "server", "uid": "u-1"},
        "notes": {"kernel_name": "python3", "path": "a.ipynb", "user": "alice"},
    }
    return PodPlan(**(given | fields))


def body(**fields: Any) -> dict[str, Any]:
    """The pod of such a plan."""
    return pod_body(plan(**fields))


def kernel(pod: dict[str, Any]) -> dict[str, Any]:
    """The kernel's container."""
    found: dict[str, Any] = next(c for c in pod["spec"]["containers"] if c["name"] == "kernel")
    return found
