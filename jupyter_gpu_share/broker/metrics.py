"""What the broker tells Prometheus. Users are named only if the administrator says so."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from .._version import __version__
from .account import Figures, Subject
from .waits import BUCKETS, Waits

__all__ = ["MOST_USERS", "Machine", "metrics_text"]

_PREFIX = "jupyter_gpu_share_broker_"
#: Users that have series of their own: those who held most.
MOST_USERS = 200
_STATES = ("used", "idle", "waiting")


@dataclass(frozen=True)
class Machine:
    """What there is at one moment.

    Attributes
    ----------
    gpus: as the route ``machine`` has them, or the broker of a cluster without what it cannot see.
    shares, processes: as the routes ``admin/shares`` and ``admin/processes`` have them; None where
        nobody can see processes without a share.
    totals: GPU-seconds of users and groups up to now, which only grow.
    waits: None before the broker serves.
    """

    gpus: Sequence[Mapping[str, Any]] = ()
    shares: Sequence[Mapping[str, Any]] = ()
    processes: Sequence[Mapping[str, Any]] | None = ()
    totals: Mapping[Subject, Figures] = field(default_factory=dict)
    waits: Waits = field(default_factory=Waits)
    paused: bool = False


def metrics_text(machine: Machine, *, by_user: bool = False) -> bytes:
    """Everything in Prometheus' text format.

    Parameters
    ----------
    by_user: with series for the users who held most.
    """
    registry = CollectorRegistry()
    registry.register(_Families(machine, by_user))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, machine: Machine, by_user: bool) -> None:
        self._machine = machine
        self._by_user = by_user

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        yield from _of_gpus(self._machine.gpus)
        yield from _of_kernels(self._machine)
        yield from _of_waits(self._machine.waits)
        users = {
            name: each for (kind, name), each in self._machine.totals.items() if kind == "user"
        }
        yield from _of_all(users)
        if self._by_user:
            yield from _of_each(users)


def _of_gpus(gpus: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    for name, key, what in (
        ("gpu_memory_bytes", "memory_bytes", "Memory of a GPU that kernels can use"),
        ("gpu_memory_held_bytes", "held_bytes", "Memory of a GPU that kernels hold"),
        ("gpu_memory_free_bytes", "free_bytes", "Memory of a GPU that can be held"),
        ("gpu_memory_unshared_bytes", "other_bytes", "Memory of a GPU used without a share"),
    ):
        if gpus and not any(key in gpu for gpu in gpus):
            continue
        family = GaugeMetricFamily(_PREFIX + name, what, labels=["gpu", "model"])
        for gpu in gpus:
            family.add_metric([gpu["uuid"], gpu["model"]], gpu[key])
        yield family


def _of_kernels(machine: Machine) -> Iterator[Metric]:
    states = Counter(_state(share) for share in machine.shares if share["state"] != "lent")
    claims = GaugeMetricFamily(
        _PREFIX + "kernels", "Kernels that hold a share, used or idle, or wait", labels=["state"]
    )
    for state in _STATES:
        claims.add_metric([state], states[state])
    yield claims
    if machine.processes is not None:
        yield GaugeMetricFamily(
            _PREFIX + "unshared_processes",
            "Processes that use a GPU without a share",
            value=len(machine.processes),
        )
    yield GaugeMetricFamily(
        _PREFIX + "paused", "1 while no new shares are given out", value=int(machine.paused)
    )
    info = GaugeMetricFamily(_PREFIX + "build_info", "Always 1", labels=["version"])
    info.add_metric([__version__], 1)
    yield info


def _state(share: Mapping[str, Any]) -> str:
    if share["state"] == "waiting":
        return "waiting"
    return "used" if share["idle_seconds"] is None else "idle"


def _of_waits(waits: Waits) -> Iterator[Metric]:
    family = HistogramMetricFamily(
        _PREFIX + "wait_seconds", "Time from the wish for a share to the share"
    )
    bounds = [*map(str, BUCKETS), "+Inf"]
    family.add_metric([], list(zip(bounds, waits.cumulative, strict=True)), waits.total)
    yield family
    yield GaugeMetricFamily(
        _PREFIX + "longest_wait_seconds",
        "For how long the one waits who waits longest now",
        value=waits.longest,
    )


def _of_all(users: Mapping[str, Figures]) -> Iterator[Metric]:
    everybody = sum(users.values(), Figures())
    held = CounterMetricFamily(
        _PREFIX + "held_gpu_seconds", "GPU-seconds that were held", labels=["state"]
    )
    held.add_metric(["used"], float(everybody.used))
    held.add_metric(["idle"], float(everybody.idle))
    yield held
    yield CounterMetricFamily(
        _PREFIX + "given_back_gpu_seconds",
        "GPU-seconds that kernels did without while they were released",
        value=float(everybody.given_back),
    )


def _of_each(users: Mapping[str, Figures]) -> Iterator[Metric]:
    held = CounterMetricFamily(
        _PREFIX + "user_held_gpu_seconds",
        "GPU-seconds that a user held",
        labels=["user", "state"],
    )
    given_back = CounterMetricFamily(
        _PREFIX + "user_given_back_gpu_seconds",
        "GPU-seconds that a user's kernels did without while they were released",
        labels=["user"],
    )
    most = heapq.nlargest(MOST_USERS, users.items(), key=lambda row: (row[1].held, row[0]))
    for name, figures in sorted(most):
        held.add_metric([name, "used"], float(figures.used))
        held.add_metric([name, "idle"], float(figures.idle))
        given_back.add_metric([name], float(figures.given_back))
    yield held
    yield given_back
