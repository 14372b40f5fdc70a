"""What a kernel of the broker's sees of its user's files, on a real cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from brokers_of_cluster import cluster_broker
from cluster.fixtures import CLUSTER_MARKS

from jupyter_gpu_share.engines.kubernetes._objects import HUB_USER

pytestmark = CLUSTER_MARKS

#: As in docs/jupyterhub.md, but that the volume is empty, and a container looks into it.
SETTINGS: dict[str, Any] = {
    "volumes": [{"name": "homes", "emptyDir": {}}],
    "volume_mounts": [
        {"name": "homes", "mountPath": "/tmp/home", "subPathExpr": "home/$(HUB_USER)"},
        {"name": "homes", "mountPath": "/tmp/all"},
    ],
    "pod_patch": {
        "spec": {
            "containers": [
                {
                    "name": "kernel",
                    "env": [
                        {
                            "name": "HUB_USER",
                            "valueFrom": {
                                "fieldRef": {"fieldPath": f"metadata.annotations['{HUB_USER}']"}
                            },
                        }
                    ],
                }
            ]
        }
    },
}


async def test_each_users_kernels_have_their_own_folder(
    cluster: Any, namespace: str, tmp_path: Path
) -> None:
    async with cluster_broker(
        tmp_path, cluster.kubeconfig, namespace, style="pod", **SETTINGS
    ) as broker:
        name = "Ann.B@example.org"
        ann = broker.user(name)
        row = await ann.start("a", "0")
        pod = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods/{row['name']}")
        assert pod["status"]["phase"] == "Running"
        volumes = cluster.run / "kubelet" / "pods" / pod["metadata"]["uid"] / "volumes"
        (homes,) = volumes.glob("*/homes/home")
        assert [each.name for each in homes.iterdir()] == [name]
        await ann.ok("DELETE", f"/v1/shares/a?attempt={row['attempt']}")
