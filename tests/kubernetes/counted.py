"""A FAKE of the API of one cluster that counts what is asked of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any

import pytest

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine, _cluster, _live, _queue, _shared
from jupyter_gpu_share.engines.kubernetes._cluster import Cluster
from jupyter_gpu_share.engines.kubernetes.api import NotFound, Resource
from jupyter_gpu_share.engines.kubernetes.backends import Facts, make_backend

__all__ = ["Clock", "CountedApi", "gpu_node", "gpu_pod", "looked_at"]

Object = dict[str, Any]


class CountedApi:
    """The calls of ``KubeApi`` that looks are made of.

    Attributes
    ----------
    objects: by the plural of their kind.
    asked: how often, such as ``list pods``.
    queries: of lists and watches, in order.
    watchable: plurals that may be watched.
    missing: plurals that the cluster does not have.
    fails: what the next lists of a plural end with.
    answers: set to let lists be answered.
    sends: set to let streams begin.
    silent: watches hear of nothing.
    """

    def __init__(self) -> None:
        self.objects: dict[str, list[Object]] = {"nodes": [], "pods": []}
        self.asked: Counter[str] = Counter()
        self.queries: list[dict[str, str]] = []
        self.watchable = {"nodes", "pods"}
        self.missing: set[str] = set()
        self.fails: dict[str, list[Exception]] = {}
        self.answers = asyncio.Event()
        self.answers.set()
        self.sends = asyncio.Event()
        self.sends.set()
        self.streams_lists = True
        self.silent = False
        self.version = 1
        self._followers: dict[str, list[asyncio.Queue[bytes]]] = {}

    async def allowed(self, verb: str, resource: Resource, namespace: str | None) -> bool:
        self.asked[f"may {verb} {resource.plural}"] += 1
        await asyncio.sleep(0)
        return resource.plural in self.watchable

    async def list(
        self, resource: Resource, namespace: str, **query: str
    ) -> tuple[list[Object], str]:
        return await self.select(resource, namespace, lambda each: each, **query), ""

    async def list_metadata(self, resource: Resource, namespace: str, **query: str) -> list[Object]:
        self.asked[f"list metadata of {resource.plural}"] += 1
        self.queries.append(query)
        return [{"metadata": deepcopy(each["metadata"])} for each in self.objects[resource.plural]]

    async def list_once(
        self, resource: Resource, namespace: str, **query: str
    ) -> tuple[list[Object], str]:
        return await self.list(resource, namespace, **query)

    async def select_once(
        self, resource: Resource, namespace: str, keep: Callable[..., Any], **query: str
    ) -> tuple[list[Object], str]:
        return await self.select(resource, namespace, keep, **query), str(self.version)

    async def select(
        self, resource: Resource, namespace: str | None, keep: Callable[..., Any], **query: str
    ) -> list[Object]:
        self.asked[f"list {resource.plural}"] += 1
        self.queries.append(query)
        if resource.plural in self.missing:
            raise NotFound("It is not there.")
        found = deepcopy(self.objects[resource.plural])
        await self.answers.wait()
        if self.fails.get(resource.plural):
            raise self.fails[resource.plural].pop(0)
        return [kept for each in found if (kept := keep(each)) is not None]

    @asynccontextmanager
    async def stream(
        self, path: str, what: str, query: Any, silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        plural = path.rpartition("/")[2]
        self.queries.append(dict(query))
        first = "sendInitialEvents" in query
        self.asked[f"{'stream' if first else 'watch'} {plural}"] += 1
        if plural in self.missing:
            raise NotFound("It is not there.")
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        if first:
            await self.sends.wait()
            for each in self.objects[plural]:
                queue.put_nowait(_line("ADDED", each))
            notes = {"k8s.io/initial-events-end": "true"}
            meta = {"resourceVersion": str(self.version), "annotations": notes}
            queue.put_nowait(_line("BOOKMARK", {"metadata": meta}))
        else:
            self._followers.setdefault(plural, []).append(queue)

        async def lines() -> AsyncIterator[bytes]:
            while True:
                yield await queue.get()

        try:
            yield lines()
        finally:
            if not first:
                self._followers[plural].remove(queue)

    async def close(self) -> None:
        """Nothing is open."""

    def following(self, plural: str) -> int:
        """How many watches of a kind are open."""
        return len(self._followers.get(plural, []))

    def put(self, plural: str, item: Object) -> None:
        """An object is new."""
        self.version += 1
        item["metadata"] |= {"uid": f"u-{self.version}", "resourceVersion": str(self.version)}
        self.objects[plural].append(item)
        for queue in self._followers.get(plural, []) if not self.silent else []:
            queue.put_nowait(_line("ADDED", item))


class Clock:
    """The clock of looks, which can be put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (_cluster, _live, _queue, _shared):
            monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self.now


def looked_at(api: Any) -> Cluster:
    """A cluster whose GPUs are split by a device plugin, without its own watches."""
    cluster = Cluster(KubernetesEngine(), lambda change: None)
    cluster.api = api
    cluster.facts = Facts(groups=frozenset({"v1"}))
    cluster.backend = make_backend("device-plugin", {}, "pod")
    cluster._reads = cluster.backend.reads | cluster.backend.uses
    return cluster


def gpu_node(name: str, gpus: int = 4) -> Object:
    amounts = {"nvidia.com/gpu": str(gpus)}
    labels = {
        "nvidia.com/gpu.count": str(gpus),
        "nvidia.com/gpu.memory": "40960",
        "nvidia.com/gpu.product": "A100",
        "nvidia.com/gpu.replicas": "1",
    }
    return {
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": amounts, "capacity": amounts},
    }


def gpu_pod(name: str, node: str, gpus: int = 1) -> Object:
    main = {"name": "main", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
    return {
        "metadata": {"name": name, "namespace": "others"},
        "spec": {"nodeName": node, "containers": [main]},
        "status": {"phase": "Running"},
    }


def _line(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode()
