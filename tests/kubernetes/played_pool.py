"""A pool of nodes with GPUs, and an autoscaler for it. Both are played.

The nodes are KWOK's: pods on them run without a process. The autoscaler looks when it is told to,
as Cluster Autoscaler does by itself: it sees pods that no node has room for, writes the Event that
Cluster Autoscaler writes, and its node comes when the test says so.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from cluster._kwok import node

TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


class PlayedPool:
    """A pool at zero.

    Parameters
    ----------
    names: of KWOK's nodes; what comes is added, and goes with them.
    labels: of its nodes, by which pods choose it.
    gpus: units of ``nvidia.com/gpu`` of a node.
    """

    def __init__(
        self, api: Any, namespace: str, names: list[str], labels: dict[str, str], gpus: int
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._names = names
        self._labels = labels
        self._gpus = gpus

    def scale_up(self) -> list[str]:
        """Tell each pod that waits for a node of the pool that one comes; the pods' names."""
        pods = self._api.get(f"/api/v1/namespaces/{self._namespace}/pods")["items"]
        found = [pod for pod in pods if self._waits_for_it(pod)]
        for pod in found:
            message = "pod triggered scale-up: [{pool-of-the-test 0->1 (max: 1)}]"
            self._tell(pod, "TriggeredScaleUp", message)
        return [pod["metadata"]["name"] for pod in found]

    def bring(self, name: str) -> None:
        """Have a node come."""
        self._names.append(name)
        body = node(name, self._gpus)
        body["metadata"]["labels"] |= self._labels
        body["spec"] = {"taints": [TAINT]}
        self._api.create("/api/v1/nodes", body)

    def _waits_for_it(self, pod: dict[str, Any]) -> bool:
        selector = pod["spec"].get("nodeSelector") or {}
        return self._labels.items() <= selector.items() and any(
            condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable"
            for condition in pod["status"].get("conditions", [])
        )

    def _tell(self, pod: dict[str, Any], reason: str, message: str) -> None:
        meta, now = pod["metadata"], datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "metadata": {"generateName": f"{meta['name']}."},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": self._namespace,
                "name": meta["name"],
                "uid": meta["uid"],
            },
            "reason": reason,
            "message": message,
            "type": "Normal",
            "source": {"component": "cluster-autoscaler"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self._api.create(f"/api/v1/namespaces/{self._namespace}/events", event)
