"""Each session by itself: GPUs are never short, and a share that is asked for is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import NamedTuple

from .._history import History
from .._policy import IdlePolicy
from .._situation import Situation
from ._trace import Session, gpus_of

__all__ = ["BEGIN", "Outcome", "Pause", "Progress", "pauses_of", "percentile", "replay"]

#: The moment at which traces begin. The 1st of June 2021 is the first day of the public one.
BEGIN = datetime(2021, 6, 1, tzinfo=timezone.utc)

#: Is told what part is done.
Progress = Callable[[float], None]


class Pause(NamedTuple):
    """From the end of a burst to the beginning of the next one, in seconds."""

    length: float
    gpus: float


@dataclass
class Outcome:
    """What a policy came to.

    Attributes
    ----------
    pauses: how many there were; each is followed by a burst that may have to wait.
    waiting: bursts that had to wait until a share was back.
    idle, returned: seconds of GPUs, unused and of these given back.
    """

    pauses: int = 0
    waiting: int = 0
    idle: float = 0.0
    returned: float = 0.0

    @property
    def part_returned(self) -> float:
        """Of the idle GPU-hours."""
        return self.returned / self.idle if self.idle else 0.0

    @property
    def part_waiting(self) -> float:
        """Of the bursts after a pause."""
        return self.waiting / self.pauses if self.pauses else 0.0

    def add(self, pause: Pause, after: float | None) -> None:
        """Count a pause in which the share went back ``after`` seconds, if it did not end before.

        One that ends at that very moment is not met by the release.
        """
        self.pauses += 1
        self.idle += pause.length * pause.gpus
        if after is not None and after < pause.length:
            self.waiting += 1
            self.returned += (pause.length - after) * pause.gpus


def pauses_of(sessions: Sequence[Session]) -> list[Pause]:
    """All pauses. Bursts that overlap have one of no length between them."""
    return [
        Pause(max(after.begin - before.end, 0.0), gpus_of(before.size))
        for session in sessions
        for before, after in pairwise(session)
    ]


def replay(
    sessions: Sequence[Session],
    policies: Sequence[IdlePolicy],
    progress: Progress = lambda part: None,
) -> list[Outcome]:
    """What each of the policies comes to."""
    outcomes = [Outcome() for _ in policies]
    rows = list(zip(policies, outcomes, strict=True))
    for number, session in enumerate(sessions):
        progress(number / len(sessions))
        history = History()
        for before, after in pairwise(session):
            history.burst(before.begin, before.end)
            end = BEGIN + timedelta(seconds=before.end)
            pause = Pause(max(after.begin - before.end, 0.0), gpus_of(before.size))
            situation = Situation(now=end, idle_since=end, size=before.size)
            for policy, outcome in rows:
                release = policy.plan(situation, history).release_at
                outcome.add(pause, None if release is None else (release - end).total_seconds())
    progress(1.0)
    return outcomes


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The smallest value that so many of them do not exceed; None where there are none."""
    if not values:
        return None
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]
