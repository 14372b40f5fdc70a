"""What an autoscaler says of a pod that waits. The words are those of the autoscalers' sources.

Cluster Autoscaler: processors/status/eventing_scale_up_processor.go; Karpenter:
pkg/controllers/provisioning/scheduling/events.go. GKE's own, FailedScaleUp: as users quote them.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.allocations import QueuePosition
from jupyter_gpu_share.engines.base import Waiting
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine, _doctor, _events
from jupyter_gpu_share.engines.kubernetes._autoscaler import told_by
from jupyter_gpu_share.engines.kubernetes._events import Events
from jupyter_gpu_share.engines.kubernetes._waits import Wait
from jupyter_gpu_share.engines.kubernetes.api import EVENTS, Forbidden, KubernetesError, Resource

pytestmark = pytest.mark.timeout(PATIENCE)

BRINGS = "The cluster's autoscaler brings a node for it, which takes some minutes."
POD: dict[str, Any] = {
    "metadata": {"uid": "u-1"},
    "spec": {},
    "status": {
        "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available."}
        ]
    },
}


def event(reason: str, message: str, at: str = "2026-11-29T10:00:00Z") -> dict[str, Any]:
    return {"reason": reason, "message": message, "lastTimestamp": at}


TRIGGERED = event(
    "TriggeredScaleUp",
    "pod triggered scale-up: [{projects/p/zones/z/instanceGroups/a 0->1 (max: 8)}]",
)
REFUSED = event(
    "NotTriggerScaleUp",
    "pod didn't trigger scale-up: 2 Insufficient nvidia.com/gpu",
    "2026-11-29T10:01:00Z",
)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (TRIGGERED, BRINGS),
        (event("Nominated", "Pod should schedule on: nodeclaim/gpu-x7k2p"), BRINGS),
        (
            REFUSED,
            "The cluster's autoscaler brings no node for it: 2 Insufficient nvidia.com/gpu.",
        ),
        (
            event(
                "NotTriggerScaleUp",
                "pod didn't trigger scale-up: max total nodes in cluster reached",
            ),
            "The cluster's autoscaler brings no node for it: max total nodes in cluster reached.",
        ),
        (
            event("FailedScheduling", 'Failed to schedule pod, incompatible with nodepool "gpu"'),
            'The cluster\'s autoscaler brings no node for it: incompatible with nodepool "gpu".',
        ),
        # As older ones and GKE's say it.
        (
            event(
                "NotTriggerScaleUp",
                "pod didn't trigger scale-up (it wouldn't fit if a new node is added): "
                "1 node(s) didn't match node selector, 1 max node group size reached",
            ),
            (
                "The cluster's autoscaler brings no node for it: 1 node(s) didn't match node "
                "selector, 1 max node group size reached."
            ),
        ),
        (
            event(
                "NotTriggerScaleUp",
                "pod didn't trigger scale-up (it wouldn't fit if a new node is added)",
            ),
            (
                "The cluster's autoscaler brings no node for it: it wouldn't fit if a new node is "
                "added."
            ),
        ),
        *(
            (
                event("FailedScaleUp", f"{said}Pod is at risk of not being scheduled."),
                f"The cluster's autoscaler brings no node for it: {cause}.",
            )
            for said, cause in (
                (
                    (
                        "Node scale up in zones us-central1-c, us-central1-a associated with this "
                        "pod failed: GCE out of resources. "
                    ),
                    "GCE out of resources",
                ),
                (
                    "Node scale up in zones associated with this pod failed: Internal error. ",
                    "Internal error",
                ),
                ("In other words. ", "In other words"),
            )
        ),
        (event("FailedScaleUp", ""), ""),
        (event("NotTriggerScaleUp", "pod didn't trigger scale-up: "), ""),
        (event("FailedScheduling", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."), ""),
        (event("Pulled", "Container image already present"), ""),
        ({}, ""),
    ],
)
def test_events_are_told_in_words(said: dict[str, Any], words: str) -> None:
    assert told_by([said]) == words


class Api:
    """Answers with Events, or fails."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.trouble: KubernetesError | None = None
        self.asked: list[str] = []
        self.answered = asyncio.Event()

    async def list_once(self, resource: Any, namespace: str, **query: str) -> Any:
        self.asked.append(query["fieldSelector"])
        self.answered.set()
        if self.trouble is not None:
            raise self.trouble
        return self.events, "1"

    async def select_once(self, resource: Any, namespace: str, keep: Any, **query: str) -> Any:
        self.asked.append("all")
        return [event for event in self.events if keep(event) is not None], "1"


async def read(one: Events) -> None:
    """Until what is being read was read."""
    if one._reading is not None:
        await one._reading


async def test_what_was_said_last_counts() -> None:
    again = {**TRIGGERED, "series": {"lastObservedTime": "2026-11-29T10:02:00.000000Z"}}
    for events, last in (
        ([TRIGGERED, REFUSED], "no node"),
        ([REFUSED, TRIGGERED], "no node"),
        ([again, REFUSED], BRINGS),
    ):
        api: Any = Api()
        api.events = events
        one = Events(api, "notebooks")
        one.words(POD)
        await read(one)
        assert last in one.words(POD)


async def test_the_wait_says_what_the_autoscaler_does() -> None:
    api: Any = Api()
    one = Events(api, "notebooks")
    clock = [0.0]
    one._clock = lambda: clock[0]
    told: list[Waiting] = []
    backend: Any = SimpleNamespace(explain=lambda words: "All GPUs that fit are in use.")
    wait = Wait(backend, told.append, lambda: QueuePosition(1, 1), one.words)
    api.events = [TRIGGERED]
    wait.tell(POD)
    assert told[-1].reason == "All GPUs that fit are in use."
    await read(one)
    wait.tell(POD)
    assert told[-1].reason == f"All GPUs that fit are in use. {BRINGS}"
    assert api.asked == ["involvedObject.uid=u-1"], "what was read just now is not read again"
    api.events = [TRIGGERED, REFUSED]
    clock[0] = _events._AGAIN
    wait.tell(POD)
    await read(one)
    wait.tell(POD)
    assert "no node for it" in str(told[-1].reason)
    await one.close()


async def test_who_may_not_read_events_asks_seldom() -> None:
    api: Any = Api()
    api.trouble = Forbidden("no")
    one = Events(api, "notebooks")
    clock = [0.0]
    one._clock = lambda: clock[0]
    for clock[0] in (0.0, 100.0, 200.0):
        assert one.words(POD) == ""
        await read(one)
    assert len(api.asked) == 1
    # The right was granted since, or an API server that had just come back knew of no rights.
    api.trouble, api.events = None, [TRIGGERED]
    clock[0] = _events._REFUSED
    one.words(POD)
    await read(one)
    assert one.words(POD) == BRINGS


async def test_an_answer_that_does_not_come_is_asked_for_again() -> None:
    api: Any = Api()
    api.trouble = KubernetesError("away")
    one = Events(api, "notebooks")
    clock = [0.0]
    one._clock = lambda: clock[0]
    one.words(POD)
    await read(one)
    api.trouble, api.events = None, [TRIGGERED]
    clock[0] = _events._AGAIN
    one.words(POD)
    await read(one)
    assert one.words(POD) == BRINGS
    # What nobody asks for is not kept.
    clock[0] = _events._AGAIN + _events._FORGET
    one.words({"metadata": {"uid": "u-2"}})
    await read(one)
    assert set(one._known) == {"u-2"}


async def test_of_many_pods_all_events_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server looks through all Events each time: a thousand pods would keep it busy."""
    monkeypatch.setattr(_events, "_PAUSE", 0.0)
    api: Any = Api()
    one = Events(api, "notebooks")
    pods = [{**POD, "metadata": {**POD["metadata"], "uid": f"u-{n}"}} for n in range(100)]
    api.events = [
        {**TRIGGERED, "involvedObject": {"kind": "Pod", "uid": "u-7"}},
        {**REFUSED, "involvedObject": {"kind": "Pod", "uid": "u-8"}},
        {**REFUSED, "involvedObject": {"kind": "Pod", "uid": "of somebody else"}},
    ]
    for pod in pods:
        one.words(pod)
    await read(one)
    assert api.asked == ["all"]
    assert one.words(pods[7]) == BRINGS
    assert "no node for it" in one.words(pods[8])
    assert one.words(pods[9]) == ""
    await read(one)
    assert api.asked == ["all"], "what was read just now is not read again"


async def test_of_many_that_kueue_holds_back_their_workloads_are_told() -> None:
    api: Any = Api()
    one = Events(api, "notebooks")
    made = {"reason": "CreatedWorkload", "message": "Created Workload: notebooks/pod-a"}
    pending = {"reason": "Pending", "message": "it is full"}
    api.events = [
        {**made, "involvedObject": {"kind": "Pod", "uid": "u-3"}},
        {**pending, "involvedObject": {"kind": "Workload", "name": "pod-a", "uid": "w"}},
    ]
    await one._read_all({f"u-{n}": True for n in range(10)})
    assert {each["reason"] for each in one._known["u-3"][0]} == {"CreatedWorkload", "Pending"}
    assert not one._known["u-4"][0]


async def test_reading_ends_with_the_cluster() -> None:
    api: Any = Api()
    never = asyncio.Event()

    async def stuck(*args: Any, **query: str) -> None:
        api.answered.set()
        await never.wait()

    api.list_once = stuck
    one = Events(api, "notebooks")
    one.words(POD)
    await api.answered.wait()
    await one.close()
    assert not one._reading


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kinds": [{"memory": "80GiB"}]},
        {"kueue_queue": "notebooks"},
        {"sizes": {"1": {"kueue_queue": "notebooks"}}},
    ],
)
@pytest.mark.parametrize("may", [True, False])
async def test_doctor_tells_a_missing_right_to_whom_it_concerns(
    settings: dict[str, Any], may: bool
) -> None:
    async def allowed(verb: str, resource: Resource, *where: str) -> bool:
        return resource is not EVENTS or may

    cluster: Any = SimpleNamespace(
        settings=KubernetesEngine(**settings),
        namespace="notebooks",
        backend=SimpleNamespace(name="device-plugin"),
        api=SimpleNamespace(allowed=allowed),
        looked_at=[],
    )
    told = [finding.what for finding in await _doctor._about_rights(cluster)]
    assert any("may not read Events" in what for what in told) is (bool(settings) and not may)
