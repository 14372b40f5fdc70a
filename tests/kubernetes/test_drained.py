"""A lease that others end: only on a node that is drained the kernel may go on for a while."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.kubernetes import _drained
from jupyter_gpu_share.engines.kubernetes._drained import Unleased, takes_no_more
from jupyter_gpu_share.engines.kubernetes.api import Forbidden

CORDONED = {"spec": {"unschedulable": True}}


def tainted(key: str, effect: str = "NoSchedule") -> dict[str, Any]:
    return {"spec": {"taints": [{"key": key, "effect": effect}]}}


@pytest.mark.parametrize(
    ("node", "takes_none"),
    [
        ({}, False),
        ({"spec": {"unschedulable": False, "taints": None}}, False),
        (CORDONED, True),
        (tainted("node.kubernetes.io/unschedulable"), True),
        (tainted("karpenter.sh/disrupted"), True),
        (tainted("ToBeDeletedByClusterAutoscaler"), True),
        (tainted("ToBeDeletedByClusterAutoscaler", "PreferNoSchedule"), False),
        (tainted("nvidia.com/gpu"), False),
        (tainted("example.com/maintenance", "NoExecute"), False),  # others may tolerate it
    ],
)
def test_which_nodes_take_no_more_pods(node: dict[str, Any], takes_none: bool) -> None:
    assert takes_no_more(node) is takes_none


def pod(reason: str, kernel_id: str = "k", server: str = "alice") -> dict[str, Any]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
    notes = {"gpu-share.jupyter.org/kernel-id": kernel_id}
    labels = {"gpu-share.jupyter.org/server": server}
    return {
        "metadata": {"annotations": notes, "labels": labels},
        "status": {"conditions": [condition]},
    }


class World:
    """A kernel without its lease: what its parting and its end are told."""

    def __init__(
        self, nodes: Any, *pods: dict[str, Any], gone: dict[str, Any] | None = None
    ) -> None:
        self.asked: list[str] = []
        self.said: list[str] = []
        self.nodes = nodes
        cluster: Any = SimpleNamespace(
            pods=SimpleNamespace(objects=dict(enumerate(pods))),
            api=SimpleNamespace(list_once=self._list),
            settings=SimpleNamespace(eviction_grace=120),
        )
        parting: Any = SimpleNamespace(note=self._note)
        self.one = Unleased(cluster, parting, "alice", "k", "gpu-1", gone)
        self.spared = self.one.spared
        self.one.begin(lambda: self.said.append("end"))

    async def _list(self, resource: Any, **query: str) -> tuple[list[Any], str]:
        self.asked.append(query["fieldSelector"])
        if isinstance(self.nodes, Exception):
            raise self.nodes
        if self.nodes is None:
            await asyncio.Event().wait()
        return self.nodes, "1"

    def _note(self, found: dict[str, Any], *, told: float) -> None:
        assert told == 120
        self.said.append(found["status"]["conditions"][0]["reason"])

    async def over(self) -> list[str]:
        await asyncio.wait_for(self.one.done(), PATIENCE)
        return self.said


async def test_on_a_drained_node_the_variables_may_be_saved() -> None:
    for where in ({"gone": pod("EvictionByEvictionAPI")}, {}):
        beside = () if where else (pod("EvictionByEvictionAPI"),)
        world = World([CORDONED], *beside, **where)
        assert await world.over() == ["EvictionByEvictionAPI"]
        assert world.one.spared
        assert world.asked == ["metadata.name=gpu-1"]


@pytest.mark.parametrize(
    "nodes",
    [[], [{}], [tainted("nvidia.com/gpu")], Forbidden("no")],
    ids=["gone", "open", "tainted", "unseen"],
)
async def test_where_somebody_else_may_get_the_share_the_kernel_ends(nodes: Any) -> None:
    world = World(nodes, pod("EvictionByEvictionAPI"))
    assert world.spared, "that is found out first"
    assert await world.over() == ["end"]
    assert not world.one.spared


async def test_a_cluster_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_drained, "_PATIENCE", 0.05)
    assert await World(None, pod("EvictionByEvictionAPI")).over() == ["end"]


@pytest.mark.parametrize(
    "pods",
    [
        (),
        (pod("PreemptionByScheduler"),),
        (pod("EvictionByEvictionAPI", "another"),),
        (pod("EvictionByEvictionAPI", "k", "bob"),),
    ],
    ids=["deleted", "preempted", "another's", "another server's"],
)
async def test_a_lease_that_no_drain_has_ended_is_at_once_somebody_elses(pods: Any) -> None:
    world = World([CORDONED], *pods)
    assert not world.spared
    await eventually(lambda: world.said == ["end"], "it ends")
    assert world.asked == []
