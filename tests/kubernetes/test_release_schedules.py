"""The schedules of ``tests/release`` on pods, where a server can die and find its kernels again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from faults import processes
from release.schedules import Schedule
from rounds import ROUNDS, SEED
from servers import Server, until
from waiting import PATIENCE

pytestmark = [*CLUSTER_MARKS, pytest.mark.fault]

PART = "gpu-share.jupyter.org/part"
RESTARTER = {"AsyncIOLoopKernelRestarter.time_to_dead": 0.2}
Start = Callable[..., Server]


class World:
    """What is killed."""

    def __init__(self, cluster: Any, namespace: str, start: Start) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self._start = start

    def start(self) -> Server:
        return self._start(style="lease", **RESTARTER)

    def pods(self) -> list[dict[str, Any]]:
        """Pods of kernels that are not about to end."""
        pods = self.cluster.api.get(f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        return [
            pod
            for pod in pods
            if pod["metadata"]["labels"].get(PART) == "kernel"
            and not pod["metadata"].get("deletionTimestamp")
            and pod["status"].get("phase") not in ("Failed", "Succeeded")
        ]

    def pod(self) -> dict[str, Any]:
        """The kernel's pod, once there is one."""
        found: dict[str, Any] = until(self.pods, "there is a pod")[0]
        return found

    def kill_server(self, schedule: Schedule) -> bool:
        """The Jupyter server dies; the next one takes the kernel over, with its variables."""
        os.kill(schedule.server.process.pid, signal.SIGKILL)
        schedule.server.process.wait(PATIENCE)
        server = schedule.server = self.start()
        until(
            lambda: server.kernels() == [schedule.kernel_id],
            "the kernel is taken over",
        )
        return True

    def kill_agent(self, schedule: Schedule) -> bool:
        """The first process of the pod dies, and the pod with it."""
        pod, pid = until(self._agent, "an agent runs")
        os.kill(pid, signal.SIGKILL)
        return self._started_again(schedule, pod)

    def _agent(self) -> tuple[dict[str, Any], int] | None:
        """A pod, which may be a moment old, and the process of its agent once that runs."""
        found = ((pod, processes(pod, "gpu_share_kernel.agent")) for pod in self.pods())
        return next(((pod, pids[0]) for pod, pids in found if pids), None)

    def delete_pod(self, schedule: Schedule) -> bool:
        """Somebody deletes the pod, with no time to save what is in it."""
        pod = self.pod()
        name = pod["metadata"]["name"]
        self.cluster.api.delete(f"/api/v1/namespaces/{self.namespace}/pods/{name}", grace=0)
        return self._started_again(schedule, pod)

    def _started_again(self, schedule: Schedule, old: dict[str, Any]) -> bool:
        place = f"gpu-share/allocations/{schedule.kernel_id}"
        uid = old["metadata"]["uid"]
        until(
            lambda: any(pod["metadata"]["uid"] != uid for pod in self.pods()),
            "it is started again",
        )
        until(lambda: schedule.server.ok(place)["state"] in ("active", "idle"), "it runs again")
        return False


@pytest.mark.parametrize("turn", range(4 * ROUNDS))
def test_no_cell_is_lost_or_doubled(cluster: Any, namespace: str, start: Start, turn: int) -> None:
    world = World(cluster, namespace, start)
    server = world.start()
    kernel_id = server.start_kernel("3/4")
    kills = {"server": world.kill_server, "agent": world.kill_agent, "pod": world.delete_pod}
    schedule = Schedule(server, kernel_id, f"{SEED}-lease-{turn}", kills)
    schedule.run()
    schedule.server.ok(f"api/kernels/{kernel_id}", "DELETE")
    for what in ("api/v1", "apis/resource.k8s.io/v1"):
        kind = "pods" if what == "api/v1" else "resourceclaims"
        until(
            lambda what=what, kind=kind: (
                not cluster.api.get(f"/{what}/namespaces/{namespace}/{kind}")["items"]
            ),
            f"no {kind} left",
        )
