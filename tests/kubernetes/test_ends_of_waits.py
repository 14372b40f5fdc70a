"""The administrator's end of a wait, and what a node says meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.allocations import QueuePosition
from jupyter_gpu_share.engines.base import Exit, Starting, Waiting
from jupyter_gpu_share.engines.kubernetes import _preparing as preparing
from jupyter_gpu_share.engines.kubernetes._attention import Attention
from jupyter_gpu_share.engines.kubernetes._kernel_objects import KernelObjects
from jupyter_gpu_share.engines.kubernetes._kueue import GATE
from jupyter_gpu_share.engines.kubernetes._objects import KernelPlan, Keys, Owner
from jupyter_gpu_share.engines.kubernetes._waits import Told
from jupyter_gpu_share.errors import KernelStartError
from jupyter_gpu_share.size import Size

pytestmark = pytest.mark.timeout(PATIENCE)

POD: dict[str, Any] = {"metadata": {"name": "p", "uid": "u"}, "spec": {}, "status": {}}


async def _none(*words: Any) -> Any:
    return SimpleNamespace(claims=[])


async def never() -> bool:
    return False


def attention(pod: dict[str, Any] | None = None) -> Attention:
    ended: list[Exit] = []
    return Attention(
        pod=lambda: pod,
        ended=lambda: ended[0] if ended else None,
        tell=lambda words: True,
        ask_again=never,
        patience=lambda: 600.0,
    )


async def test_a_wait_ends_at_its_limit_with_its_words() -> None:
    one = attention()
    with (
        pytest.raises(KernelStartError, match="long enough"),
        one.limit(0.01, lambda: "That was long enough."),
    ):
        await one.until(lambda: None)


async def test_all_waits_within_a_limit_end_together_and_none_after_it() -> None:
    one = attention()
    clock = [0.0]
    one._clock = lambda: clock[0]
    with one.limit(10.0, lambda: "That was long enough."):
        assert await one.until(lambda: "at once") == "at once"
        clock[0] = 10.0
        assert await one.until(lambda: "there in time") == "there in time"
        with pytest.raises(KernelStartError):
            await one.until(lambda: None)
    looks = iter([None, "found"])
    one.rouse()
    waits = asyncio.ensure_future(one.until(lambda: next(looks)))
    while not waits.done():
        await asyncio.sleep(0)
        one.rouse()
    assert await waits == "found"


async def test_without_a_limit_there_is_no_end() -> None:
    one = attention()
    with one.limit(0.0, lambda: "no"):
        assert one._limit is None


async def test_while_the_node_tries_again_no_one_is_told_what_to_do() -> None:
    waiting = {"reason": "ErrImagePull", "message": "503 Service Unavailable"}
    status = {"name": "kernel", "image": "i", "state": {"waiting": waiting}}
    one = attention({"status": {"containerStatuses": [status]}})
    told: list[str] = []
    one._tell = lambda words: told.append(words) is None
    clock = [0.0]

    def look() -> None:
        clock[0] += 400.0
        one.rouse()

    one._clock = lambda: clock[0]
    with pytest.raises(KernelStartError, match=r"Unavailable\. Try again later"):
        await one.until(look)
    assert told == ["The image 'i' cannot be had (ErrImagePull): 503 Service Unavailable."]


def test_the_end_says_what_was_waited_for() -> None:
    news: list[Any] = []
    told = Told(news.append)
    told(Waiting(QueuePosition(1, 1), "All GPUs that fit are in use."))
    words = told.too_long("no-place-in-time")
    assert "c.KubernetesEngine.longest_wait" in words
    assert words.endswith("All GPUs that fit are in use.")
    share: Any = None
    told(Starting(share, "It says so."))
    assert told.too_long("node-too-slow").endswith("It says so.")
    assert len(news) == 2


def kernel(pod: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **settings: Any) -> KernelObjects:
    """Of size 0, whose pod is made and stays as it is."""
    given = {"longest_wait": 0.0, "node_patience": 0.0, "style": "pod", "image_patience": 600.0}
    cluster: Any = SimpleNamespace(
        pod=lambda name: pod,
        place=lambda name: QueuePosition(1, 1),
        events=SimpleNamespace(words=lambda pod: ""),
        backend=SimpleNamespace(explain=lambda words: None, told_beside=False),
        settings=SimpleNamespace(**given | settings),
    )
    plan = KernelPlan("k-1", "python3", Size.parse("0"), keys=Keys(b"k"))
    one = KernelObjects(cluster, Owner("alice", "mine"), plan)

    async def make() -> None:
        """It is there."""

    async def ask_again() -> bool:
        return False

    monkeypatch.setattr(one, "_make", make)
    monkeypatch.setattr(one, "_ask_again", ask_again)
    return one


@pytest.mark.parametrize(
    ("spec", "setting"),
    [({}, "longest_wait"), ({"nodeName": "cpu-1"}, "node_patience")],
    ids=["the queue", "the node"],
)
async def test_a_start_ends_as_the_administrator_has_set(
    monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], setting: str
) -> None:
    one = kernel({**POD, "spec": spec}, monkeypatch, **{setting: 0.01})
    with pytest.raises(KernelStartError, match=f"c.KubernetesEngine.{setting}"):
        await one.start(lambda news: None)


async def test_a_lease_is_taken_when_kueue_lets_the_pod_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No GPU is held beside a pod that waits for quota, perhaps for hours."""
    pod: dict[str, Any] = {**POD, "spec": {"schedulingGates": [{"name": GATE}]}}
    one = kernel(pod, monkeypatch, style="lease")
    one.plan = replace(one.plan, size=Size.parse("1/4"))
    one.cluster.render = one.cluster.refresh = _none  # type: ignore[method-assign]
    one.cluster.refresh_soon = lambda: None  # type: ignore[method-assign]
    asked = asyncio.Event()

    class Held:
        async def acquire(self, *words: Any) -> None:
            asked.set()
            raise KernelStartError("far enough")

    monkeypatch.setattr(one, "_new_lease", lambda: Held())
    starting = asyncio.ensure_future(one.start(lambda news: None))
    while one._report is None or not one.made:
        await asyncio.sleep(0)
    for _ in range(20):
        one._attention.rouse()
        await asyncio.sleep(0)
    assert not asked.is_set()
    pod["spec"] = {}
    one._attention.rouse()
    with pytest.raises(KernelStartError, match="far enough"):
        await starting


def test_what_the_node_says_is_told_until_it_goes_on() -> None:
    attach = {
        "reason": "FailedAttachVolume",
        "message": 'Multi-Attach error for volume "home" Volume is already used by pod(s) other',
    }
    assert preparing.told_by({}, [{"reason": "Scheduled"}]) == ""
    assert preparing.told_by({}, [attach]) == (
        'It says (FailedAttachVolume): Multi-Attach error for volume "home" Volume is already used '
        "by pod(s) other."
    )
    assert preparing.told_by({}, [attach, {"reason": "SuccessfulAttachVolume"}]) == ""
    assert preparing.told_by({}, [{"reason": "Pulling"}, attach]) != ""


def test_what_comes_before_the_kernel_in_its_pod_is_told() -> None:
    """As an injected agent that waits for its server: it runs, and no Event tells of it."""
    waits = {
        "type": "Initialized",
        "status": "False",
        "reason": "ContainersNotInitialized",
        "message": "containers with incomplete status: [vault-agent-init]",
    }
    pod = {"status": {"conditions": [{"type": "PodScheduled", "status": "True"}, waits]}}
    begun = {"reason": "Started", "message": "Started container vault-agent-init"}
    words = "It says (ContainersNotInitialized): containers with incomplete status: "
    assert preparing.told_by(pod, [begun]) == f"{words}[vault-agent-init]."
    probe = {"reason": "Unhealthy", "message": "Startup probe failed: connection refused"}
    assert preparing.told_by(pod, [begun, probe]) == (
        "It says (Unhealthy): Startup probe failed: connection refused."
    )
    done = {"status": {"conditions": [{**waits, "status": "True"}]}}
    for events in ([begun], [begun, probe]):
        assert preparing.told_by(done, events) == "", "another container's, beside the kernel"
