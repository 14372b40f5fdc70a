"""What is told while a pod waits: words where there are some, else that there are none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from unanswered import Store
from waiting import PATIENCE

from jupyter_gpu_share.allocations import QueuePosition
from jupyter_gpu_share.engines.base import Starting, Waiting
from jupyter_gpu_share.engines.kubernetes import _waits
from jupyter_gpu_share.engines.kubernetes._kernel_objects import KernelObjects
from jupyter_gpu_share.engines.kubernetes._lease import Lease
from jupyter_gpu_share.engines.kubernetes._objects import KernelPlan, Owner
from jupyter_gpu_share.engines.kubernetes._pods import Labels
from jupyter_gpu_share.engines.kubernetes._waits import Wait
from jupyter_gpu_share.engines.kubernetes._writes import Writes
from jupyter_gpu_share.engines.kubernetes.backends import DraBackend
from jupyter_gpu_share.size import Size

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


async def test_a_wait_that_is_over_soon_is_not_told() -> None:
    told: list[Waiting] = []
    clock = [0.0]
    one = wait(told, clock)
    one._patient = True
    one.tell(TURNED_AWAY)
    assert told == []
    clock[0] = _waits.PATIENCE
    one.tell(TURNED_AWAY)
    assert "0/3 nodes fit" in str(told[-1].reason)


OWNER = Owner("alice", "mine")
ALL = "0/3 nodes are available: "
TAINTED = "1 node(s) had untolerated taint(s)"
PREEMPTION = "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."


@pytest.mark.parametrize(
    ("words", "explained"),
    [
        (f"{ALL}1 Insufficient memory, 2 cannot allocate all claims.", False),
        (f"{ALL}1 Insufficient cpu, 2 Insufficient nvidia.com/gpu.", False),
        (f"{ALL}1 Too many pods, 2 Insufficient nvidia.com/gpu.", False),
        (f"{ALL}1 Insufficient cpu, 1 Insufficient nvidia.com/gpu, {TAINTED}. {PREEMPTION}", False),
        ("Insufficient memory on gpu-1", False),
        # A node without GPUs, and that with them, which is emptied or does not answer.
        (f"{ALL}1 node(s) were unschedulable, 2 Insufficient nvidia.com/gpu. {PREEMPTION}", False),
        (f"{ALL}1 node(s) were unschedulable, 2 cannot allocate all claims.", False),
        (
            (
                f"{ALL}1 node(s) had untolerated taint {{node.kubernetes.io/unreachable: }}, "
                "2 Insufficient nvidia.com/gpu."
            ),
            False,
        ),
        (
            (
                f"{ALL}1 node(s) had untolerated taint "
                "{node-role.kubernetes.io/control-plane: }, 2 Insufficient nvidia.com/gpu."
            ),
            True,
        ),
        # No node has a GPU left, and some lack more besides.
        (f"{ALL}1 Insufficient cpu, 3 Insufficient nvidia.com/gpu. {PREEMPTION}", True),
        (f"{ALL}1 Insufficient cpu, {TAINTED}, 2 Insufficient nvidia.com/mig-1g.10gb.", True),
        (f"{ALL}3 Insufficient nvidia.com/gpu.", True),
        (f"{ALL}3 cannot allocate all claims.", True),
    ],
)
async def test_what_a_node_lacks_besides_is_not_told_as_a_want_of_gpus(
    words: str, explained: bool
) -> None:
    told: list[Waiting] = []
    one = wait(told, [0.0])
    one._backend = SimpleNamespace(explain=lambda words: "All are in use.")  # type: ignore
    condition = {"type": "PodScheduled", "status": "False", "message": words}
    one.tell({"spec": {}, "status": {"conditions": [condition]}})
    (news,) = told
    assert (str(news.reason) == "All are in use.") is explained
    assert explained or words.removesuffix(f" {PREEMPTION}").rstrip(".") in str(news.reason)


async def test_a_kernel_whose_node_has_no_room_for_it_beside_its_lease_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_waits, "PATIENCE", 0.0)
    words = "0/2 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint(s)."
    condition = {"type": "PodScheduled", "status": "False", "message": words}
    store = Store()
    store.objects["pods", "kernel"] = {
        "metadata": {"name": "kernel"},
        "spec": {},
        "status": {"conditions": [condition]},
    }
    cluster = store.cluster(DraBackend())
    lease = Lease(
        cluster, OWNER, Size.parse("1/4"), Writes(), Labels("alice", "k-1", "a"), {"name": "kernel"}
    )
    lease._own = "kernel-gpu"
    told: list[Any] = []

    async def until(look: Any) -> Any:
        assert look() is None, "it is no matter of the GPU: the lease stays"
        condition["message"] = "0/2 nodes are available: 2 cannot allocate all claims."
        return look()

    assert await lease._refused("kernel", told.append, until)
    (news,) = told
    assert "Insufficient memory" in news.reason


async def test_a_kernel_that_has_its_lease_and_no_node_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_waits, "PATIENCE", 0.0)
    pod = {**TURNED_AWAY, "metadata": {"name": "kernel"}}
    one = kernel(pod, explain=lambda words: None)
    one.cluster.place = lambda name: QueuePosition(1, 1)  # type: ignore[method-assign]
    one.lease = object()  # type: ignore[assignment]
    told: list[Any] = []

    async def until(look: Any) -> Any:
        assert look() is None
        pod["spec"] = {"nodeName": "gpu-1"}
        return look()

    monkeypatch.setattr(one, "until", until)
    await one._on_a_node(told.append)
    (news,) = told
    assert "0/3 nodes fit" in news.reason


def kernel(pod: dict[str, Any], **backend: Any) -> KernelObjects:
    cluster: Any = SimpleNamespace(
        pod=lambda name: pod,
        backend=SimpleNamespace(**backend),
        settings=SimpleNamespace(eviction_grace=120),
        events=SimpleNamespace(words=lambda pod: ""),
    )
    return KernelObjects(cluster, OWNER, KernelPlan("k-1", "python3", Size.parse("1/4")))


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
    assert await one._running(told.append) == "10.0.0.7"
    assert told == []
    pod["status"] = {}
    monkeypatch.setattr("jupyter_gpu_share.engines.kubernetes._kernel_objects.PATIENCE", 0.0)
    await one._running(told.append)
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
    one.look()
    assert one._ended.done() is ended
    if ended:
        assert (await one.ended()).reason == "reclaimed from k"
