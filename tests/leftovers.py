"""What kernels have left in a namespace of the test cluster."""

from __future__ import annotations

from typing import Any

from cluster import wait_for

#: Seconds until what belonged to the last pod is gone.
_GONE = 60.0


def nothing_left(cluster: Any, namespace: str) -> None:
    """Wait until no pod, Secret, claim or server's Lease is there any more; fail if one stays."""
    core = f"/api/v1/namespaces/{namespace}"
    paths = {
        "pods": f"{core}/pods",
        "secrets": f"{core}/secrets",
        "claims": f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims",
        "leases": f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
    }

    def left() -> dict[str, list[str]]:
        found = {what: cluster.api.get(path)["items"] for what, path in paths.items()}
        return {
            what: [i["metadata"]["name"] for i in items] for what, items in found.items() if items
        }

    wait_for(lambda: not left(), f"nothing is left in {namespace}", _GONE, lambda: str(left()))
