"""A FAKE of KAI Scheduler: places pods by its annotations on one node's GPUs, as far as tests go.

KAI itself cannot be had here. What is played is what this package relies on: pods of the scheduler
``kai-scheduler`` are put into groups of a GPU each, labelled and annotated, and bound through the
API's binding subresource; those without room are told so in KAI's words; and what a running pod
counts for is read anew at every round from its annotations. Queues are there where a test asks for
them: they count what their pods hold, and refuse nobody. There are no reservations of GPUs and no
webhooks, and nobody is evicted unless a test does that.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster._api import ApiError
from waiting import PATIENCE

_LABELLED = 81920
#: What KAI counts of it.
MIB_OF_GPU = _LABELLED // 100 * 100
SCHEDULER = "kai-scheduler"
_ROUND = 0.1
_GPU = "nvidia.com/gpu"
_LABELS = {
    "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
    "nvidia.com/gpu.memory": str(_LABELLED),
    "nvidia.com/gpu.replicas": "1",
    "nvidia.com/gpu.sharing-strategy": "none",
}
_NO_ROOM = (
    "no nodes with enough resources were found: 1 node(s) didn't have enough resources: GPUs."
)
_KINDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_QUEUES = "/apis/scheduling.run.ai/v2/queues"
_QUEUE = {"apiVersion": "scheduling.run.ai/v2", "kind": "Queue"}
_ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_QUEUE_KIND: dict[str, Any] = {
    "metadata": {"name": "queues.scheduling.run.ai"},
    "spec": {
        "group": "scheduling.run.ai",
        "scope": "Cluster",
        "names": {
            "plural": "queues",
            "singular": "queue",
            "kind": "Queue",
            "listKind": "QueueList",
        },
        "versions": [
            {
                "name": "v2",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": _ANYTHING},
                "subresources": {"status": {}},
            }
        ],
    },
}
_PRIORITIES = {"build": 100, "build-preemptible": 75}


class FakeKai:
    """Schedules onto the GPUs of one node. Rounds can be held back, to have something happen."""

    def __init__(self, api: Any, node: str, gpus: int) -> None:
        self._api, self._node, self._gpus = api, node, gpus
        self._ended = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._thread = threading.Thread(target=self._rounds, name="fake kai")
        self.error: BaseException | None = None
        self._queues: tuple[str, ...] = ()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what went wrong meanwhile is raised."""
        self._ended.set()
        self._going.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """No round begins meanwhile."""
        self._going.clear()
        try:
            yield
        finally:
            self._going.set()

    def pods(self) -> list[dict[str, Any]]:
        """All pods of this scheduler that have not ended."""
        query = f"?fieldSelector=spec.schedulerName%3D{SCHEDULER}"
        found = self._api.get(f"/api/v1/pods{query}")["items"]
        return [pod for pod in found if pod["status"].get("phase") in ("Pending", "Running")]

    def counted(self) -> dict[str, int]:
        """MiB for which the pods of each group count."""
        total: dict[str, int] = {}
        for pod in self.pods():
            if group := pod["metadata"].get("labels", {}).get("runai-gpu-group"):
                total[group] = total.get(group, 0) + amount(pod)
        return total

    def bind(self, pod: dict[str, Any], group: str) -> None:
        """Bind a pod to a GPU whether or not there is room, as after a look that is out of date."""
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self._api.patch(
            path,
            {
                "metadata": {
                    "labels": {"runai-gpu-group": group},
                    "annotations": {
                        "received-resource-type": "Fraction",
                        "pod-group-name": f"pg-{meta['name']}",
                    },
                }
            },
        )
        target = {"apiVersion": "v1", "kind": "Node", "name": self._node}
        self._api.create(f"{path}/binding", {"metadata": {"name": meta["name"]}, "target": target})

    # -- queues ------------------------------------------------------------------------------

    @contextmanager
    def queues(self, **limits: float) -> Iterator[None]:
        """Queues of these names, and the most GPUs that each may hold."""
        self._api.create(_KINDS, _QUEUE_KIND)
        try:
            for name, limit in limits.items():
                gpu = {"quota": limit, "limit": limit}
                self._create_queue(
                    {"metadata": {"name": name}, "spec": {"resources": {"gpu": gpu}}}
                )
            self._queues = tuple(limits)
            yield
        finally:
            self._queues = ()
            self._api.delete(f"{_KINDS}/{_QUEUE_KIND['metadata']['name']}")

    def _create_queue(self, queue: dict[str, Any]) -> None:
        """As soon as the API server knows the kind."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self._api.create(_QUEUES, {**_QUEUE, **queue})
                return
            except ApiError as error:
                if error.status != 404 or time.monotonic() > end:
                    raise
                time.sleep(_ROUND)

    def held(self, queue: str) -> float:
        """GPUs that a queue says its pods hold."""
        status = self._api.get(f"{_QUEUES}/{queue}").get("status", {})
        return int(status.get("allocated", {}).get(_GPU, "0m").removesuffix("m")) / 1000

    def _count_queues(self) -> None:
        for queue in self._queues:
            held = sum(
                amount(pod)
                for pod in self.pods()
                if pod["spec"].get("nodeName")
                and pod["metadata"]["labels"].get("kai.scheduler/queue") == queue
            )
            gpus = {_GPU: f"{held * 1000 // MIB_OF_GPU}m"}
            status = {"allocated": gpus, "allocatedNonPreemptible": {}}
            try:
                self._api.patch(f"{_QUEUES}/{queue}/status", {"status": status})
            except ApiError as error:
                if error.status != 404 or queue in self._queues:  # else it was taken away just now
                    raise

    # -- rounds ------------------------------------------------------------------------------

    def _rounds(self) -> None:
        try:
            while not self._ended.wait(_ROUND):
                self._going.wait()
                if not self._ended.is_set():
                    self._round()
                    self._count_queues()
        except BaseException as error:
            self.error = error

    def _round(self) -> None:
        counted = self.counted()
        for pod in self.pods():
            if pod["spec"].get("nodeName") or pod["metadata"].get("deletionTimestamp"):
                continue
            wanted = amount(pod)
            groups = [g for g, taken in counted.items() if taken + wanted <= MIB_OF_GPU]
            if not groups and len(counted) < self._gpus:
                groups = [str(uuid.uuid4())]
            try:
                if groups:
                    self.bind(pod, groups[0])
                    counted[groups[0]] = counted.get(groups[0], 0) + wanted
                else:
                    self._refuse(pod)
            except ApiError as error:
                if error.status not in (404, 409):
                    raise

    def _refuse(self, pod: dict[str, Any]) -> None:
        conditions = pod["status"].get("conditions", [])
        if any(each.get("message") == _NO_ROOM for each in conditions):
            return
        meta = pod["metadata"]
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": _NO_ROOM,
        }
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        self._api.patch(path, {"status": {"conditions": [condition]}})


def amount(pod: dict[str, Any]) -> int:
    """MiB for which KAI counts a pod; its arithmetic is that of floats."""
    notes = pod["metadata"].get("annotations", {})
    for key, value in notes.items():
        if key.startswith("nvidia.com/container.") and key.endswith(".gpu-memory.request"):
            assert value.endswith("Mi"), value
            return int(value.removesuffix("Mi"))
    if "gpu-fraction" in notes:
        return int(float(notes["gpu-fraction"]) * MIB_OF_GPU)
    return int(notes["gpu-memory"])


@contextmanager
def fake_kai(cluster: Any, gpus: int) -> Iterator[FakeKai]:
    """The fake on the cluster's real node, which for so long says that it has GPUs."""
    api, node = cluster.api, f"/api/v1/nodes/{cluster.node}"
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    kai = FakeKai(api, cluster.node, gpus)
    amounts = {_GPU: str(gpus)}
    try:
        for name, value in _PRIORITIES.items():
            # A run that was killed has left them.
            api.delete(f"{classes}/{name}")
            api.create(classes, {"metadata": {"name": name}, "value": value})
        api.patch(node, {"metadata": {"labels": {**_LABELS, "nvidia.com/gpu.count": str(gpus)}}})
        api.patch(f"{node}/status", {"status": {"capacity": amounts, "allocatable": amounts}})
        kai.start()
        try:
            yield kai
        finally:
            kai.stop()
    finally:
        none = dict.fromkeys([*_LABELS, "nvidia.com/gpu.count"])
        api.patch(node, {"metadata": {"labels": none}})
        gone = {_GPU: None}
        api.patch(f"{node}/status", {"status": {"capacity": gone, "allocatable": gone}})
        for name in _PRIORITIES:
            api.delete(f"{classes}/{name}")
