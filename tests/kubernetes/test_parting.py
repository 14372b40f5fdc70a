"""A pod that others end: what is known of it, how long it has, and who is waited for."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.engines import kubernetes
from jupyter_gpu_share.engines.kubernetes._failures import removal_of
from jupyter_gpu_share.engines.kubernetes._parting import Parting

#: How `kubectl drain`, the scheduler and others mark a pod (Kubernetes 1.37, seen in the cluster
#: of the tests for the first).
WORDS = {
    "EvictionByEvictionAPI": "eviction, as when its node is drained",
    "PreemptionByScheduler": "for work of higher priority",
    "DeletionByTaintManager": "its node is out of service",
    "DeletionByPodGC": "its node is out of service",
    "DeletionByDeviceTaintManager": "its GPU is out of service",
    "TerminationByKubelet": "as when it shuts down or is short of memory or disk",
    "SomethingNew": "took the kernel's pod away (SomethingNew)",
}


def pod(grace: int | None = 120, reason: str = "") -> dict[str, Any]:
    """A pod that is to end, or not where there is no grace."""
    meta = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace}
    found: dict[str, Any] = {"metadata": meta if grace is not None else {}, "status": {}}
    if reason:
        condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
        found["status"]["conditions"] = [condition]
    return found


class Told:
    """A parting, and how often its pod was let go of."""

    def __init__(self, *, reclaimed: str | None = None) -> None:
        self.left = 0
        self.parting = Parting(lambda: 100.0, lambda _: reclaimed, self._leave)

    def _leave(self) -> None:
        self.left += 1


@pytest.mark.parametrize(("reason", "words"), WORDS.items())
def test_why_it_is_taken_away_is_told(reason: str, words: str) -> None:
    for grace in (None, 120):  # the condition comes before the deletion
        assert words in removal_of(pod(grace, reason), by_scheduler=True)


def test_what_leaves_no_word_in_the_pod_is_told_as_well_as_it_is_known() -> None:
    assert "deleted in the cluster" in removal_of(pod(), by_scheduler=False)
    assert "most likely for other work" in removal_of(pod(), by_scheduler=True)
    assert "node ended its pod" in removal_of(pod(None), by_scheduler=True)


async def listening(told: Told) -> asyncio.Future[Any]:
    waiting = asyncio.ensure_future(told.parting.wait())
    await asyncio.sleep(0)
    return waiting


async def test_a_pod_that_stays_has_no_parting() -> None:
    told = Told()
    waiting = await listening(told)
    told.parting.note(pod(None))
    told.parting.note(pod(None, "EvictionByEvictionAPI"))  # it may be refused still
    told.parting.note(None)
    told.parting.let_go()
    assert told.parting.removal is None
    assert told.left == 0
    assert not waiting.done()
    waiting.cancel()


async def test_whoever_listens_has_the_grace_of_the_pod_but_for_its_end() -> None:
    for grace, least, most in ((120, 110, 112), (10, 7, 7.5), (0, 0, 0)):
        told = Told()
        waiting = await listening(told)
        told.parting.note(pod(grace, "PreemptionByScheduler"))
        removal = await asyncio.wait_for(waiting, PATIENCE)
        assert least <= removal.seconds <= most
        assert "higher priority" in removal.reason
        assert told.left == 0
        told.parting.let_go()
        told.parting.let_go()
        assert told.left == 1, "it is said once"


async def test_a_grace_that_is_made_shorter_counts() -> None:
    told = Told()
    waiting = await listening(told)
    told.parting.note(pod(3600))
    told.parting.note(pod(40))
    told.parting.note(pod(3600))
    assert (await asyncio.wait_for(waiting, PATIENCE)).seconds <= 32


async def test_where_nobody_listens_the_pod_ends_at_once() -> None:
    told = Told()
    told.parting.note(pod())
    assert told.left == 1
    left = Told()
    waiting = await listening(left)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    left.parting.note(pod())
    assert left.left == 1


async def test_the_agents_word_is_enough() -> None:
    """A node that shuts down ends pods without a word in the cluster."""
    told = Told()
    waiting = await listening(told)
    told.parting.note(pod(None), told=30.0)
    removal = await asyncio.wait_for(waiting, PATIENCE)
    assert "node ended its pod" in removal.reason
    assert 20 <= removal.seconds <= 22.5
    # What the cluster says later counts, and is made longer by no word of the agent.
    told.parting.note(pod(120, "EvictionByEvictionAPI"))
    now = told.parting.removal
    assert now is not None
    assert 110 <= now.seconds <= 112
    assert "drained" in now.reason
    told.parting.note(pod(20, "EvictionByEvictionAPI"), told=30.0)
    now = told.parting.removal
    assert now is not None
    assert now.seconds <= 15
    without = Told()
    waiting = await listening(without)
    without.parting.note(None, told=30.0)
    assert "node ended its pod" in (await asyncio.wait_for(waiting, PATIENCE)).reason


def test_whoever_deletes_a_pod_here_says_how_long_it_has() -> None:
    """What a pod has itself is for others: ours is not waited for, its variables are saved."""
    found = []
    for path in Path(kubernetes.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "attr", "") or getattr(node.func, "id", "")
            what = {
                getattr(each, "id", "") for each in node.args[:2]
            }  # the first may be the cluster
            if called in ("delete", "delete_as_read") and what & {"PODS", "resource"}:
                found.append(path.name)
                assert any(each.arg == "grace" for each in node.keywords), path.name
    assert len(found) >= 4, found
