"""Clusters of a thousand nodes: what is free is reckoned on the event loop that serves kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from shapes import Shapes, facts

from jupyter_gpu_share.engines.kubernetes.backends import make_backend
from jupyter_gpu_share.size import Size


class Read(Mapping[str, Any]):
    """An object that counts how often it is read."""

    times = 0

    def __init__(self, whole: dict[str, Any]) -> None:
        self._whole = whole

    def __getitem__(self, key: str) -> Any:
        Read.times += 1
        return self._whole[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


def group_pod(number: int) -> dict[str, Any]:
    """A pod of a group of its own; that is what KAI's are."""
    meta = {
        "name": f"pod-{number}",
        "namespace": "team",
        "labels": {"runai-gpu-group": f"group-{number}"},
        "annotations": {"gpu-fraction": "0.5"},
    }
    limits = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    return {
        "metadata": meta,
        "spec": {"nodeName": f"node-{number}", "containers": [{"name": "main", **limits}]},
        "status": {"phase": "Running"},
    }


def reads(name: str, shape: Any, nodes: int, pods: int) -> int:
    """How often pods are read for one look at what is free."""
    all_nodes = []
    for number in range(nodes):
        one = {**shape, "metadata": {**shape["metadata"], "name": f"node-{number}"}}
        all_nodes.append(one)
    known = facts(*all_nodes, pods=[Read(group_pod(number)) for number in range(pods)])
    backend = make_backend(name, {}, "pod")
    Read.times = 0
    assert backend.capacity(known)
    assert backend.room(Size.parse("1/4"), known) >= 0
    return Read.times


@pytest.mark.parametrize(
    ("name", "of", "shape"),
    [
        ("device-plugin", "device_plugin", "whole"),
        ("mig", "mig", "mixed"),
        ("kai", "kai", "node"),
        ("hami", "hami", "node"),
    ],
)
def test_pods_are_not_gone_through_for_each_node_or_group(name: str, of: str, shape: str) -> None:
    node = getattr(Shapes(of), shape)
    assert reads(name, node, 200, 40) <= reads(name, node, 50, 40)
    assert reads(name, node, 200, 80) <= 2 * reads(name, node, 200, 40)


@pytest.mark.parametrize(
    ("name", "of", "shape"),
    [
        ("device-plugin", "device_plugin", "whole"),
        ("mig", "mig", "mixed"),
        ("kai", "kai", "node"),
    ],
)
def test_nodes_are_gone_through_once_for_all_questions(name: str, of: str, shape: str) -> None:
    node = getattr(Shapes(of), shape)
    nodes = [
        Read({**node, "metadata": {**node["metadata"], "name": f"node-{number}"}})
        for number in range(20)
    ]
    known, backend = facts(*nodes), make_backend(name, {}, "pod")
    assert backend.capacity(known)
    Read.times = 0
    for size in ("1/4", "1/8"):
        backend.render(Size.parse(size), known)
        assert backend.room(Size.parse(size), known) > 0
    assert backend.capacity(known)
    assert Read.times <= 2 * len(nodes), "for what may still come, and no more"
