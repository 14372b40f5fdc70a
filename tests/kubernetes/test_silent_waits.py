"""What is told while a pod waits: words where there are some, else that there are none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.allocations import QueuePosition
from jupyter_gpu_share.engines.base import Starting, Waiting
from jupyter_gpu_share.engines.kubernetes import _waits
from jupyter_gpu_share.engines.kubernetes._kernel import PodKernel
from jupyter_gpu_share.engines.kubernetes._waits import Wait

pytestmark = pytest.mark.timeout(PATIENCE)

UNPLACED: dict[str, Any] = {"spec": {"schedulerName": "kai-scheduler"}}
PLACED: dict[str, Any] = {"spec": {"nodeName": "gpu-1"}}
TURNED_AWAY: dict[str, Any] = {
    **UNPLACED,
    "status": {
        "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes fit."}]
    },
}


def wait(told: list[Any], clock: list[float]) -> Wait:
    backend: Any = SimpleNamespace(explain=lambda words: None)
    one = Wait(backend, told.append, lambda: QueuePosition(1, 1))
    one._end += clock[0] - one._clock()
    one._clock = lambda: clock[0]
    return one


async def test_that_nobody_says_anything_is_told_once() -> None:
    told: list[Waiting] = []
    clock = [0.0]
    one = wait(told, clock)
    one.tell(UNPLACED)
    assert told == []
    clock[0] = _waits.PATIENCE
    one.tell(UNPLACED)
    one.tell(UNPLACED)
    (news,) = told
    assert "The scheduler kai-scheduler has said nothing" in str(news.reason)


async def test_words_are_told_at_once_and_instead_of_their_absence() -> None:
    told: list[Waiting] = []
    clock = [_waits.PATIENCE]
    one = wait(told, clock)
    one.tell(TURNED_AWAY)
    assert "0/3 nodes fit" in str(told[-1].reason)
    clock[0] = 100.0
    one.tell(TURNED_AWAY)
    assert len(told) == 1


async def test_a_pod_that_has_its_place_without_a_gpu_is_told() -> None:
    told: list[Waiting] = []
    clock = [0.0]
    one = wait(told, clock)
    one.tell({**TURNED_AWAY, **PLACED})
    assert told == [], "what the scheduler said before is over"
    clock[0] = _waits.PATIENCE
    one.tell(PLACED)
    assert "on the node gpu-1" in str(told[-1].reason)


def kernel(pod: dict[str, Any], **backend: Any) -> PodKernel:
    cluster: Any = SimpleNamespace(
        server="alice",
        pod=lambda name: pod,
        backend=SimpleNamespace(**backend),
        settings=SimpleNamespace(eviction_grace=120),
        events=SimpleNamespace(words=lambda pod: ""),
    )
    request: Any = SimpleNamespace(kernel_id="k-1")
    return PodKernel(cluster, request)


async def test_a_node_that_takes_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pod: dict[str, Any] = {"metadata": {}, **PLACED, "status": {}}
    one = kernel(pod)
    one.share = object()  # type: ignore[assignment]
    told: list[Any] = []

    async def until(look: Any) -> Any:
        for _ in range(2):
            assert look() is None
        status = {"name": "kernel", "state": {"running": {}}}
        pod["status"] = {"podIP": "10.0.0.7", "containerStatuses": [status]}
        return look()

    monkeypatch.setattr(one, "until", until)
    assert await one._up(told.append) == "10.0.0.7"
    assert told == []
    pod["status"] = {}
    monkeypatch.setattr("jupyter_gpu_share.engines.kubernetes._kernel.PATIENCE", 0.0)
    await one._up(told.append)
    (news,) = told
    assert isinstance(news, Starting)
    assert "The node gpu-1 is still preparing" in news.notice


@pytest.mark.parametrize("ended", [True, False])
async def test_a_pod_that_a_scheduler_deletes_was_reclaimed_before_it_is_gone(ended: bool) -> None:
    """It is told to end first, with a grace period: the deletion itself comes too late."""
    state = {"terminated": {"exitCode": 143}} if ended else {"running": {}}
    pod: dict[str, Any] = {
        "metadata": {"name": "k", "uid": "u", "deletionTimestamp": "2026-11-28T10:00:00Z"},
        "spec": {"nodeName": "gpu-1"},
        "status": {"containerStatuses": [{"name": "kernel", "state": state}]},
    }
    one = kernel(pod, reclaimed=lambda last: f"reclaimed from {last['metadata']['name']}")
    one.note()
    assert one._ended.done() is ended
    if ended:
        assert (await one.ended()).reason == "reclaimed from k"
