"""What Kueue does with a kernel's pod, in words: messages as Kueue 0.17 writes them.

Sources: pkg/scheduler/flavorassigner/flavorassigner.go (Pending), pkg/scheduler/preemption and
pkg/controller/jobs/pod/pod_controller.go (TerminationTarget), jobframework/reconciler.go (Events of
the pod). ``test_kueue.py`` has a real Kueue say them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from traitlets import TraitError
from waiting import PATIENCE

from jupyter_gpu_share.allocations import QueuePosition
from jupyter_gpu_share.engines.base import Waiting
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine, _waits
from jupyter_gpu_share.engines.kubernetes import _failures as failures
from jupyter_gpu_share.engines.kubernetes import _kueue as kueue
from jupyter_gpu_share.engines.kubernetes._events import Events
from jupyter_gpu_share.engines.kubernetes._making import _queued
from jupyter_gpu_share.engines.kubernetes._objects import KernelPlan, Owner
from jupyter_gpu_share.engines.kubernetes._waits import Wait
from jupyter_gpu_share.engines.kubernetes.backends import Rendered
from jupyter_gpu_share.size import Size

pytestmark = pytest.mark.timeout(PATIENCE)

POD: dict[str, Any] = {
    "metadata": {"uid": "u-1", "labels": {kueue.QUEUE: "notebooks"}},
    "spec": {"schedulingGates": [{"name": kueue.GATE}]},
    "status": {
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }
        ]
    },
}
WAITS = "It waits for admission by Kueue, queue notebooks"
SMALLER = "Choose a smaller size, or tell the administrator."
BEFORE = "couldn't assign flavors to pod set main: "
USED_UP = "insufficient unused quota for nvidia.com/gpu in flavor gpu, 1 more needed"
NEVER = (
    "insufficient quota for nvidia.com/gpu in flavor gpu, previously considered podsets requests "
    "(0) + current podset request (2) > maximum capacity (1)"
)
CREATED = {
    "reason": "CreatedWorkload",
    "message": "Created Workload: notebooks/pod-gpu-share-1-4f2a1",
    "lastTimestamp": "2026-11-29T10:00:00Z",
}


def pending(message: str) -> dict[str, Any]:
    return {"reason": "Pending", "message": message, "lastTimestamp": "2026-11-29T10:00:01Z"}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (BEFORE + USED_UP, f"{WAITS}: the quota is used up, it lacks 1 of nvidia.com/gpu."),
        (
            BEFORE + "insufficient unused quota for cpu in flavor a, 100m more needed, " + USED_UP,
            f"{WAITS}: the quota is used up, it lacks 100m of cpu, 1 of nvidia.com/gpu.",
        ),
        (
            BEFORE + NEVER,
            f"{WAITS}, which has never more than 1 of nvidia.com/gpu. {SMALLER}",
        ),
        # Of two flavors one has enough, though not now.
        (
            f"{BEFORE}{NEVER}, {USED_UP}",
            f"{WAITS}: the quota is used up, it lacks 1 of nvidia.com/gpu.",
        ),
        (
            f"{BEFORE}{USED_UP}. Pending the preemption of 1 workload(s)",
            f"{WAITS}: the quota is used up, it lacks 1 of nvidia.com/gpu.",
        ),
        # As earlier ones say the two.
        (
            BEFORE + USED_UP.replace("quota for", "quota in cohort for"),
            f"{WAITS}: the quota is used up, it lacks 1 of nvidia.com/gpu.",
        ),
        (
            (
                f"{BEFORE}insufficient quota for nvidia.com/gpu in flavor gpu, request > maximum "
                f"capacity (2 > 1), {USED_UP.replace('nvidia.com/gpu', 'cpu')}"
            ),
            f"{WAITS}, which has never more than 1 of nvidia.com/gpu. {SMALLER}",
        ),
        ("ClusterQueue team is inactive", f"{WAITS}: ClusterQueue team is inactive."),
        ("", ""),
    ],
)
def test_a_wait_is_told_in_words(message: str, words: str) -> None:
    assert kueue.waits_for(POD, [pending("before"), pending(message)]) == words


def test_other_events_are_not_taken_for_a_reason() -> None:
    assert kueue.waits_for(POD, [CREATED]) == ""
    assert kueue.events_of([CREATED]) == (
        "involvedObject.kind=Workload,involvedObject.name=pod-gpu-share-1-4f2a1"
    )
    assert kueue.events_of([{"reason": "Started", "message": CREATED["message"]}]) == ""


class Api:
    """Has Events of a pod and of its Workload."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def list_once(self, resource: Any, namespace: str, **query: str) -> Any:
        selector = query["fieldSelector"]
        self.asked.append(selector)
        if selector == "involvedObject.uid=u-1":
            return [CREATED], "1"
        return [pending(BEFORE + USED_UP)], "1"


async def test_the_wait_says_what_kueue_says_of_the_workload() -> None:
    api: Any = Api()
    events = Events(api, "notebooks")
    told: list[Waiting] = []
    clock = [0.0]
    backend: Any = SimpleNamespace(explain=lambda words: None)
    wait = Wait(backend, told.append, lambda: QueuePosition(1, 1), events.words)
    wait._end, wait._clock = _waits.PATIENCE, lambda: clock[0]
    wait.tell(POD)
    assert told == [], "that the scheduler has not seen it is no news"
    clock[0] = _waits.PATIENCE
    wait.tell(POD)
    assert "no such LocalQueue" in told[-1].reason
    await events._reading
    wait.tell(POD)
    assert told[-1].reason == f"{WAITS}: the quota is used up, it lacks 1 of nvidia.com/gpu."
    assert len(api.asked) == 2
    # Once it is let go, the scheduler's words count again.
    ungated = {**POD, "spec": {}}
    ungated["status"] = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "x"}]}
    wait.tell(ungated)
    assert "no place for it: x" in told[-1].reason


async def test_a_wait_is_told_for_longer_than_the_cluster_keeps_events() -> None:
    """Else the notebook says after an hour that Kueue may not run."""
    api: Any = Api()
    events = Events(api, "notebooks")
    clock = [0.0]
    events._clock = lambda: clock[0]
    for clock[0] in (0.0, 10.0):
        events.words(POD)
        await events._reading
    words = events.words(POD)
    assert words == f"{WAITS}: the quota is used up, it lacks 1 of nvidia.com/gpu."
    listed = api.list_once

    async def forgotten(resource: Any, namespace: str, **query: str) -> Any:
        await listed(resource, namespace, **query)
        return later if "Workload" in query["fieldSelector"] else [], "1"

    api.list_once, later = forgotten, []
    for clock[0] in (20.0, 30.0):
        assert events.words(POD) == words
        await events._reading
    assert events.words(POD) == words
    # What is said of the workload from then on is still heard of, and said once.
    later.append({**pending("The queue is stopped"), "lastTimestamp": "2026-11-29T13:00:00Z"})
    for clock[0] in (40.0, 50.0, 60.0):
        events.words(POD)
        await events._reading
    assert events.words(POD) == f"{WAITS}: The queue is stopped."
    (known, _) = events._known["u-1"]
    assert len(known) == 3


async def test_nobody_asks_for_a_workload_of_a_pod_without_gate() -> None:
    api: Any = Api()
    events = Events(api, "notebooks")
    events.words({**POD, "spec": {}})
    await events._reading
    assert api.asked == ["involvedObject.uid=u-1"]


@pytest.mark.parametrize(
    ("reason", "message", "kind", "words"),
    [
        (
            "WorkloadEvictedDueToPreempted",
            "Preempted to accommodate a workload (UID: 1, JobUID: 2) due to prioritization in ...",
            "reclaimed",
            "Kueue has given the kernel's quota in the queue notebooks to others",
        ),
        (
            "WorkloadEvictedDueToClusterQueueStopped",
            "The ClusterQueue is stopped",
            "reclaimed",
            "Kueue's queue notebooks, or the kernel's place in it, was stopped",
        ),
        (
            "WorkloadEvictedDueToAdmissionCheck",
            "At least one admission check is false",
            "evicted",
            "out of the queue notebooks: At least one admission check is false.",
        ),
        (
            "NoMatchingWorkload",
            "missing workload",
            "evicted",
            "out of the queue notebooks: missing workload.",
        ),
    ],
)
@pytest.mark.parametrize("gone", [False, True])
def test_a_kernel_that_kueue_takes_out_is_told_so(
    reason: str, message: str, kind: str, words: str, gone: bool
) -> None:
    condition = {
        "type": "TerminationTarget",
        "status": "True",
        "reason": reason,
        "message": message,
    }
    pod = {
        "metadata": {**POD["metadata"], "deletionTimestamp": "2026-11-29T10:00:00Z"},
        "spec": {},
        "status": {"phase": "Failed", "conditions": [condition]},
    }
    cause = failures.end_of(None, pod) if gone else failures.end_of(pod, None)
    assert cause is not None
    assert (cause.kind, cause.code) == (kind, 143)
    assert words in cause.text
    assert cause.text.endswith("Restart it to queue again.")


@pytest.mark.parametrize(
    ("settings", "size", "queue"),
    [
        ({}, "1/4", None),
        ({"kueue_queue": "notebooks"}, "1/4", "notebooks"),
        ({"kueue_queue": "notebooks"}, "0", "notebooks"),
        ({"kueue_queue": "notebooks", "sizes": {"1": {"kueue_queue": "big"}}}, "1", "big"),
        ({"kueue_queue": "notebooks", "sizes": {"0": {"kueue_queue": ""}}}, "0", None),
        ({"kueue_queue": "notebooks", "sizes": {"1/4": {"image": "a"}}}, "1/4", "notebooks"),
    ],
)
def test_the_queue_of_a_size(settings: dict[str, Any], size: str, queue: str | None) -> None:
    cluster: Any = SimpleNamespace(settings=KubernetesEngine(**settings), backend=None)
    plan = KernelPlan("k", "python3", Size.parse(size))
    rendered = _queued(cluster, Owner("alice", "i"), plan, Rendered(labels={"a": "b"}))
    assert rendered.labels.get("a") == "b"
    assert rendered.labels.get(kueue.QUEUE) == queue


@pytest.mark.parametrize(
    "settings", [{"kueue_queue": "No Queue"}, {"sizes": {"1": {"kueue_queue": "x" * 64}}}]
)
def test_what_cannot_be_a_queue_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(TraitError, match="no name of a LocalQueue"):
        KubernetesEngine(**settings)
