"""Starts, round trips and restarts of kernels in pods, and what they cost the API server."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from tests.cluster import KERNEL_IMAGE, Cluster, wait_for
from tests.cluster.images import PAUSE

from ..rows import Row, plus, times
from . import child, gateway_environment, testbed
from .worker import Worker, worker

STARTS, LAUNCHES = 10, 10
ROUND_TRIPS, BLOCKS = 50, 6
_WRITES = {"create", "update", "patch", "delete"}
_CHILD = "bench.kubernetes.child"
#: How the API server knows a contender's requests.
_AGENTS = {"ours": "jupyter-gpu-share", "gateway": "OpenAPI-Generator/"}


def rows() -> list[Row]:
    """All that is measured beside gateway_provisioners; nothing where no cluster can run."""
    cluster = testbed.cluster()
    if cluster is None:
        return []
    with testbed.namespace(cluster) as namespace, _workers(cluster, namespace) as workers:
        return [
            *_starts(cluster, namespace, workers),
            *_round_trips(workers),
            *_restarts(workers),
            *_launches(workers),
        ]


def options(cluster: Cluster, namespace: str, **more: Any) -> str:
    """Options of a contender of ours, for the command line."""
    given = {
        "kubeconfig": str(cluster.kubeconfig),
        "namespace": namespace,
        "image": KERNEL_IMAGE,
        "lease_image": PAUSE,
    }
    return json.dumps(given | more)


@contextmanager
def _workers(cluster: Cluster, namespace: str) -> Iterator[dict[str, Worker]]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-share-bench-"))
        env = gateway_environment.prepare(cluster, namespace, Path(folder))
        given = options(cluster, namespace)
        theirs = json.dumps({"kernelspecs": folder})
        python = gateway_environment.interpreter()
        contenders = {
            "ours": worker(_CHILD, "ours", given),
            "gateway": worker(_CHILD, "gateway", theirs, python=python, env=env),
            "bare": worker(_CHILD, "bare", options(cluster, namespace, proper=True)),
            "plain": worker(_CHILD, "bare", options(cluster, namespace, proper=False)),
        }
        found = {name: stack.enter_context(each) for name, each in contenders.items()}
        found["bare"]("prepare")
        yield found


def _starts(cluster: Cluster, namespace: str, workers: dict[str, Worker]) -> list[Row]:
    """Ten starts each, by turns, none while the pod before it is still being taken down.

    Each turn has another order: what a start leaves behind on the machine, the next one meets.
    """
    shuffle = random.Random(1).shuffle  # noqa: S311 - no secret
    turns = list(workers)
    taken: dict[str, list[float]] = {name: [] for name in workers}
    asked: dict[str, list[tuple[int, int]]] = {name: [] for name in workers}
    for turn in range(STARTS + 1):
        shuffle(turns)
        for name in turns:
            order = workers[name]
            since = cluster.audit_position()
            seconds = order("start")
            if turn:  # the first one imports, and gets to know the cluster
                taken[name].append(seconds * 1000)
                asked[name].append(_requests(cluster, since, name))
            order("end")
            wait_for(lambda: not _pods(cluster, namespace), "its pod is gone", child.PATIENCE)
    ours, gateway, bare, plain = (median(found) for found in taken.values())
    faster, goal = times(0.7, gateway)
    near, distance = plus(120, bare, "ms")
    name = "pod: start to first kernel_info_reply"
    found = [
        Row(f"{name}, beside gateway_provisioners", "ms", ours, gateway, faster, goal),
        Row(
            f"{name}, beside a bare pod, restricted, keys in a Secret",
            "ms",
            ours,
            bare,
            near,
            distance,
        ),
        Row(f"{name}, beside a bare pod without volume and security", "ms", ours, plain),
    ]
    for at, (what, limit) in enumerate((("writes", 3), ("reads", 0))):
        most = [float(max(each[at] for each in asked[name])) for name in ("ours", "gateway")]
        row = f"API {what} in a launch, most of {STARTS}; beside gateway_provisioners"
        found.append(Row(row, "requests", *most, float(limit), f"at most {limit}"))
    return found


def _pods(cluster: Cluster, namespace: str) -> list[Any]:
    found: list[Any] = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    return found


def _requests(cluster: Cluster, since: int, name: str) -> tuple[int, int]:
    """Writes and reads in the namespace of kernels, by the API server's own log.

    Watches are neither, nor is a server's sign of life, which it gives whether it starts kernels
    or not; it reads the GPUs anew, which are in no namespace, every two minutes at most.
    """
    agent = _AGENTS.get(name)
    verbs = [
        event["verb"]
        for event in cluster.audit(since)
        if agent is not None
        and str(event.get("userAgent", "")).startswith(agent)
        and event["stage"] == "ResponseComplete"
        and event.get("objectRef", {}).get("namespace")
        and event["objectRef"]["resource"] != "leases"
        and event["verb"] != "watch"
    ]
    writes = sum(verb in _WRITES for verb in verbs)
    return writes, len(verbs) - writes


def _round_trips(workers: dict[str, Worker]) -> list[Row]:
    """In blocks by turns, so that what disturbs the machine disturbs all."""
    names = ("ours", "bare", "gateway")
    for name in names:
        workers[name]("start")
    orders = {
        "ours": (workers["ours"], "round_trips"),
        "encrypted": (workers["ours"], "direct_round_trips"),
        "unencrypted": (workers["bare"], "round_trips"),
        "gateway": (workers["gateway"], "round_trips"),
    }
    taken: dict[str, list[float]] = {name: [] for name in orders}
    for block in range(BLOCKS + 1):
        for name, (each, order) in orders.items():
            found = each(order, ROUND_TRIPS)
            if block:  # the first one warms up
                taken[name] += found
    for name in names:
        workers[name]("end")
    ms = {name: median(found) * 1000 for name, found in taken.items()}
    limit, goal = times(1.3, ms["encrypted"])
    name = "pod: round trip of kernel_info"
    return [
        Row(
            f"{name}, beside a direct one as encrypted",
            "ms",
            ms["ours"],
            ms["encrypted"],
            limit,
            goal,
        ),
        Row(f"{name}, beside a direct one not encrypted", "ms", ms["ours"], ms["unencrypted"]),
        Row(f"{name}, beside gateway_provisioners, not encrypted", "ms", ms["ours"], ms["gateway"]),
    ]


def _restarts(workers: dict[str, Worker]) -> list[Row]:
    taken: dict[str, list[float]] = {}
    for name in ("ours", "gateway"):
        workers[name]("start")
    for _ in range(STARTS):
        for name in ("ours", "gateway"):
            taken.setdefault(name, []).append(workers[name]("restart"))
    for name in ("ours", "gateway"):
        workers[name]("end")
    ours, gateway = median(taken["ours"]), median(taken["gateway"])
    name = "pod: restart at once, to first kernel_info_reply; beside gateway_provisioners"
    return [Row(name, "s", ours, gateway, 0.6, "at most 0.6 s")]


def _launches(workers: dict[str, Worker]) -> list[Row]:
    found: dict[str, Any] = {
        name: workers[name]("launch", LAUNCHES) for name in ("ours", "gateway")
    }
    ms = {key: [found[name][key] * 1000 for name in found] for key in ("median", "p99")}
    name = f"event-loop lag, {LAUNCHES} pods launched at once"
    return [
        Row(f"{name}; beside gateway_provisioners", "ms", *ms["median"], 1.0, "median below 1 ms"),
        Row("99th percentile of that lag", "ms", *ms["p99"]),
    ]
