"""Users who wait for shares of simulated GPUs, and hold them for some minutes of simulated time."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction
from typing import Any

from moments import MINUTE, START

from jupyter_gpu_share.broker.claim import Claim
from jupyter_gpu_share.broker.order import Turn, gpus_by_user, line
from jupyter_gpu_share.broker.standing import Standing
from jupyter_gpu_share.idle.replay import Gpus
from jupyter_gpu_share.size import Size

__all__ = ["Floor", "SimulatedLine", "at", "claim"]


def at(minutes: float) -> datetime:
    return START + minutes * MINUTE


def claim(user: str, kernel: str, size: str = "1/4", minute: float = 0, **more: Any) -> Claim:
    found = Size.parse(size)
    gpus = (found.fraction or Fraction(0)) * found.count
    return Claim(user, kernel, found, gpus, int(gpus * 80 * 2**30), at(minute), **more)


class Floor:
    """Room on simulated GPUs.

    Attributes
    ----------
    places: what was taken, by kernels.
    """

    def __init__(self, gpus: Gpus) -> None:
        self.gpus = gpus
        self.places: dict[str, list[int]] = {}

    def take(self, asked: Claim) -> bool:
        places = self.gpus.take(asked.size) if asked.gpus else []
        if places is None:
            return False
        self.places[asked.kernel_id] = places
        return True

    def hold(self, asked: Claim) -> None:
        self.gpus.hold(asked.size)


@dataclass
class SimulatedLine(ABC):
    """Who waits is in line as a broker has it; whom it serves a test says by :meth:`serve`.

    Attributes
    ----------
    now: the minute.
    started: whose share began, and in which minute.
    """

    gpus: Gpus
    now: float = 0.0
    waiting: dict[str, Claim] = field(default_factory=dict)
    held: dict[str, Claim] = field(default_factory=dict)
    started: list[tuple[float, Claim]] = field(default_factory=list)
    _minutes: dict[str, float] = field(default_factory=dict)
    _places: dict[str, list[int]] = field(default_factory=dict)
    _todo: list[tuple[float, int, str, Claim]] = field(default_factory=list)
    _standing: Standing = field(default_factory=Standing)

    @abstractmethod
    def serve(self) -> None:
        """Somebody has come, or has gone: :meth:`give` shares to those that get one now."""

    @property
    def moment(self) -> datetime:
        return at(self.now)

    def ask(self, minute: float, asked: Claim, minutes: float) -> None:
        """Somebody is going to ask, and to hold the share for some minutes."""
        self._minutes[asked.kernel_id] = minutes
        heapq.heappush(self._todo, (minute, len(self._minutes), "ask", asked))

    def run(self, until: float = 1e9) -> None:
        while self._todo and self._todo[0][0] <= until:
            self.now, _, what, asked = heapq.heappop(self._todo)
            if what == "ask":
                self.waiting[asked.kernel_id] = asked
            else:
                del self.held[asked.kernel_id]
                self.gpus.free(asked.size, self._places.pop(asked.kernel_id))
                self._standing.change(asked.user, -float(asked.gpus), self.moment)
            if not self._todo or self._todo[0][0] > self.now:
                self.serve()

    def turns(self) -> list[Turn]:
        return line(
            self.waiting.values(),
            gpus_by_user(self.held.values()),
            lambda user: self._standing.mean(user, self.moment),
            self.moment,
        )

    def give(self, asked: Claim, places: list[int]) -> None:
        """Have a claim that waits hold its share; the places on the GPUs are taken already."""
        name = asked.kernel_id
        del self.waiting[name]
        self.held[name] = asked
        self._places[name] = places
        self._standing.change(asked.user, float(asked.gpus), self.moment)
        self.started.append((self.now, asked))
        end = self.now + self._minutes[name]
        heapq.heappush(self._todo, (end, len(self.started), "end", asked))

    def mark_passed(self, name: str) -> None:
        """Another one went before a claim that comes first."""
        if self.waiting[name].passed_since is None:
            self.waiting[name] = replace(self.waiting[name], passed_since=self.moment)

    def start_of(self, name: str) -> float | None:
        return next((when for when, each in self.started if each.kernel_id == name), None)
