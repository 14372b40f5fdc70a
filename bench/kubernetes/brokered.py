"""What the cluster's broker costs: many users' kernels through it, and a start beside a direct one.

The broker is the real program, asked over HTTP with tokens of many users; the Hub that it asks
about them is a fake. The many kernels are pods on nodes that KWOK plays: it says of a pod that it
runs, and nothing runs in it. The cluster's own scheduler gives them their shares. A plain watch of
the pods tells how late the API server itself is. All is on one machine: API server, scheduler,
KWOK, the broker and its users have its cores together.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from jupyter_gpu_share._text import moment_in
from tests.cluster import KERNEL_IMAGE, Cluster, wait_for
from tests.cluster.images import PAUSE

from ..rows import Row, plus, times
from . import child, cluster_broker, testbed
from .pods import options
from .scale import gpus
from .worker import worker

USERS, KERNELS = 200, 1000
_SIZE, _NODES = "1/8", 70  # of two GPUs each: room for all kernels, and some more
#: Launches a second that are asked for, and those that are to be accepted.
ASKED, GOAL = 60.0, 50.0
EVICTED, _PAUSE = 300, 0.03
QUIET = 20.0
STARTS, BLOCKS, ROUND_TRIPS = 10, 6, 50
_WRITES = {"create", "update", "patch", "delete"}
_AGENT = "jupyter-gpu-share"


def rows() -> list[Row]:
    """Many kernels, then single ones beside the direct engine; nothing where no cluster can run."""
    cluster = testbed.cluster()
    if cluster is None:
        return []
    return [*_many(cluster), *_beside(cluster)]


def _engine(cluster: Cluster, space: str, **more: Any) -> dict[str, Any]:
    return {
        "kubeconfig": str(cluster.kubeconfig),
        "namespace": space,
        "image": KERNEL_IMAGE,
        "lease_image": PAUSE,
        "image_pull_policy": "Never",
        **more,
    }


# -- many kernels ----------------------------------------------------------------------------------


def _many(cluster: Cluster) -> list[Row]:
    with ExitStack() as stack:
        nodes = stack.enter_context(cluster.kwok(_NODES))
        stack.enter_context(gpus(cluster, nodes))
        space = stack.enter_context(testbed.namespace(cluster))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-share-bench-")))
        since = cluster.audit_position()
        engine = _engine(cluster, space, node_selector={"type": "kwok"})
        broker = stack.enter_context(cluster_broker.running(folder, engine))
        given = {
            "url": broker.url,
            "tokens": {name: broker.hub.know(name) for name in map(_user, range(USERS))},
            "api": cluster.api_url,
            "authority": str(cluster.authority),
            "token": cluster.admin_token,
            "namespace": space,
        }
        users = stack.enter_context(worker(child.__name__, "crowd", json.dumps(given)))
        plain = stack.enter_context(worker(child.__name__, "plain", json.dumps(given)))
        users("open")
        plain("open")
        begun, before = broker.processor_seconds(), time.monotonic()
        launched = users("launch", KERNELS, ASKED, _SIZE)
        busy, all_run = broker.processor_seconds() - begun, time.monotonic() - before
        heard = plain("close")
        events = cluster.audit(since)
        writes = sum(map(is_write, events))
        delays = sorted(_delays(events, launched["told"]))
        plainly = sorted(_delays(events, {name: heard["runs"][name] for name in launched["told"]}))
        evicted = sorted(users("evict", EVICTED, _PAUSE))
        begun = broker.processor_seconds()
        users("rest", QUIET)
        quiet = 100 * (broker.processor_seconds() - begun) / QUIET
        memory = broker.most_memory()
        watches = most_watches(cluster.audit(since))
        broker.stop()
        again = broker.start()
        users("close")
    what = f"{KERNELS} KWOK kernels of {USERS} users"
    latencies = sorted(launched["latencies"])
    print(
        f"{what}: KWOK says that their pods run, nothing runs in them; the Hub is a fake.\n"
        f"States in the answers to launches: {launched['early']}. All ran after {all_run:.0f} s. "
        f"The plain watch took {heard['watches']} watches. Watches: {watches}",
        file=sys.stderr,
        flush=True,
    )
    return [
        Row(
            f"{what}: launches accepted, asked for {ASKED:g} a second",
            "s",
            launched["accepted"],
            None,
            KERNELS / GOAL,
            f"{GOAL:g} a second",
        ),
        Row(f"{what}: answer to a launch, 99th percentile", "s", _p99(latencies), None),
        Row(
            f"{what}: writes to the API server a launch", "", writes / KERNELS, None, 3, "at most 3"
        ),
        Row(
            f"{what}: watches of one kind at once, of {len(watches)} kinds",
            "",
            max(watches.values()),
            None,
            1,
            "one",
        ),
        Row(
            f"{what}: a pod runs to the event at its user, 99th percentile, during the launches",
            "ms",
            1000 * _p99(delays),
            1000 * _p99(plainly),
            1000,
            "below 1 s",
        ),
        Row(
            f"{what}: the same, median",
            "ms",
            1000 * median(delays),
            1000 * median(plainly),
        ),
        Row(
            f"{what}: a pod fails to the event at its user, 99th percentile of {EVICTED}",
            "ms",
            1000 * _p99(evicted),
            None,
            1000,
            "below 1 s",
        ),
        Row(f"{what}: the broker's memory at most", "MB", memory, None, 250, "below 250 MB"),
        Row(f"{what}: its processor time a launch", "ms", 1000 * busy / KERNELS, None),
        Row(f"{what}: its processor time while nothing changes", "% of a core", quiet, None),
        Row(f"{what}: a new broker's start until it answers", "s", again, None),
    ]


def _user(number: int) -> str:
    return f"user-{number}"


def _p99(found: Sequence[float]) -> float:
    return found[int(len(found) * 0.99)]


def _of_broker(event: Mapping[str, Any]) -> bool:
    return str(event.get("userAgent", "")).startswith(_AGENT)


def is_write(event: Mapping[str, Any]) -> bool:
    """Whether an event of the audit log is one of the broker's writes for kernels.

    What it writes whether or not there are kernels is none: its own Lease, and its files once.
    """
    return (
        _of_broker(event)
        and event["stage"] == "ResponseComplete"
        and event["verb"] in _WRITES
        and bool(event.get("objectRef", {}).get("namespace"))
        and event["objectRef"]["resource"] not in ("leases", "configmaps")
    )


def most_watches(events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The most watches that the broker had open at once, by kind and whether of one namespace.

    Parameters
    ----------
    events: of the audit log.
    """
    moments: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for event in events:
        if not _of_broker(event) or event["verb"] != "watch" or event["stage"] == "Panic":
            continue
        target = event["objectRef"]
        kind = target["resource"] + (
            " of the kernels" if target.get("namespace") else " of the cluster"
        )
        change = {"ResponseStarted": 1, "ResponseComplete": -1}[event["stage"]]
        moments[kind].append((moment_in(event["stageTimestamp"]), change))
    most = {}
    for kind, found in moments.items():
        now = 0
        for _, change in sorted(found):
            now += change
            most[kind] = max(most.get(kind, 0), now)
    return most


def _delays(events: Iterable[Mapping[str, Any]], told: Mapping[str, float]) -> list[float]:
    """Seconds from KWOK's word that a pod runs to the event that tells its user.

    From when the API server received it; what it takes to write it is in them.
    """
    found = {}
    for event in events:
        target = event.get("objectRef", {})
        if (
            str(event.get("userAgent", "")).startswith("kwok")
            and event["verb"] in ("patch", "update")
            and (target.get("resource"), target.get("subresource")) == ("pods", "status")
            and target.get("name") in told
        ):
            at = moment_in(event["requestReceivedTimestamp"])
            found.setdefault(target["name"], at.timestamp())
    assert found.keys() == told.keys(), f"{len(found)} of {len(told)} in the audit log"
    return [told[name] - at for name, at in found.items()]


# -- single kernels beside the direct engine -------------------------------------------------------


def _beside(cluster: Cluster) -> list[Row]:
    """Starts and round trips by turns, in two processes that differ by nothing but the broker."""
    with ExitStack() as stack:
        space = stack.enter_context(testbed.namespace(cluster))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-share-bench-")))
        broker = stack.enter_context(cluster_broker.running(folder, _engine(cluster, space)))
        env = {
            **os.environ,
            "JUPYTER_GPU_SHARE_BROKER": broker.url,
            "JUPYTERHUB_API_TOKEN": broker.hub.know("ann"),
        }
        given = options(cluster, space)
        direct = stack.enter_context(worker(child.__name__, "ours", given))
        brokered = stack.enter_context(worker(child.__name__, "ours", given, env=env))
        workers = {"direct": direct, "brokered": brokered}

        def gone() -> bool:
            return not cluster.api.get(f"/api/v1/namespaces/{space}/pods")["items"]

        starts: dict[str, list[float]] = {name: [] for name in workers}
        for turn in range(STARTS + 1):
            for name in sorted(workers, reverse=bool(turn % 2)):
                seconds = workers[name]("start")
                if turn:  # the first one imports, and gets to know the cluster
                    starts[name].append(1000 * seconds)
                workers[name]("end")
                wait_for(gone, "its pod is gone", child.PATIENCE)
        trips: dict[str, list[float]] = {name: [] for name in workers}
        for each in workers.values():
            each("start")
        for block in range(BLOCKS + 1):
            for name, each in workers.items():
                found = each("round_trips", ROUND_TRIPS)
                if block:  # the first one warms up
                    trips[name] += [1000 * seconds for seconds in found]
        for each in workers.values():
            each("end")
    start = {name: median(found) for name, found in starts.items()}
    trip = {name: median(found) for name, found in trips.items()}
    name = "beside the engine with rights of its own"
    return [
        Row(
            f"a kernel's start through the broker to first kernel_info_reply, {name}",
            "ms",
            start["brokered"],
            start["direct"],
            *plus(60, start["direct"], "ms"),
        ),
        Row(
            f"round trip of kernel_info with such a kernel, {name}",
            "ms",
            trip["brokered"],
            trip["direct"],
            *times(1.1, trip["direct"]),
        ),
    ]
