"""Each session by itself: GPUs are never short, and a share that is asked for is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple

from ...size import Size
from .._calibration import Calibration, Watch
from .._history import History
from .._policy import IdlePolicy
from .._situation import Situation
from ._trace import Burst, Session, gpus_of

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

    def add(self, length: float, gpus: float, after: float) -> bool:
        """Count a pause in which the share went back ``after`` seconds, if it did not end before.

        One that ends at that very moment is not met by the release. True where the burst waits.
        """
        self.pauses += 1
        self.idle += length * gpus
        if after < length:
            self.waiting += 1
            self.returned += (length - after) * gpus
            return True
        return False


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
    """What each of the policies comes to.

    All sessions go on side by side, in the order of time, so that the adaptive rule finds out about
    its waits as it would in a server. It begins with nothing found out.
    """
    rows = [_Row(policy) for policy in policies]
    models = list({id(row.policy.model): row.policy.model for row in rows}.values())
    histories = [History() for _ in sessions]
    #: Pauses that go on: when they end, and what is then watched.
    going: list[tuple[float, int, list[Callable[[], None]]]] = []
    pauses = _pauses(sessions)
    for number, (now, session, before, length) in enumerate(pauses):
        if number % 1000 == 0:
            progress(number / len(pauses))
        while going and going[0][0] <= now:
            for watch in heappop(going)[2]:
                watch()
        history = histories[session]
        history.burst(before.begin, before.end)
        kinds = {id(model): model.kind(history) for model in models}
        found = [row.meet(before, length, kinds, history) for row in rows]
        if any(found):
            heappush(going, (now + length, number, [each for each in found if each]))
    progress(1.0)
    return [row.outcome for row in rows]


def _pauses(sessions: Sequence[Session]) -> list[tuple[float, int, Burst, float]]:
    """All pauses by their beginnings: with the session's number, the burst before, the length."""
    found = []
    for number, session in enumerate(sessions):
        last = 0.0
        for before, after in pairwise(session):
            last = max(last, before.end)  # bursts may overlap, and keep their order
            found.append((last, number, before, max(after.begin - before.end, 0.0)))
    return sorted(found, key=lambda pause: pause[0])


class _Row:
    """A policy in a replay: the same answers as :meth:`IdlePolicy.plan` gives, sooner."""

    def __init__(self, policy: IdlePolicy) -> None:
        self.policy = policy
        self.outcome = Outcome()
        policy.calibration = Calibration()
        #: By size: seconds; or the rule's watch and price; or None where it depends on the time.
        self._known: dict[Size, float | tuple[Watch, float] | None] = {}
        self._model = policy.model
        self._at_least: float = policy.idle_after

    def meet(
        self, before: Burst, length: float, kinds: Mapping[int, int], history: History
    ) -> Callable[[], None] | None:
        """Count a pause. What is returned is called when it is over.

        Parameters
        ----------
        kinds: of the notebook, by the identity of models.
        """
        size = before.size
        if size not in self._known:
            self._known[size] = self._prepare(size)
        known = self._known[size]
        gpus = gpus_of(size)
        if isinstance(known, float):
            self.outcome.add(length, gpus, known)
            return None
        if known is None:
            return self._plan(before, length, history)
        watch, price = known
        age = self._model.release_of(kinds[id(self._model)], price + watch.shift)
        waited = self.outcome.add(length, gpus, max(age, self._at_least))
        return watch.waited if waited else watch.found

    def _prepare(self, size: Size) -> float | tuple[Watch, float] | None:
        policy, terms = self.policy, self.policy.steady(size)
        if terms is None:
            return None
        if terms.rule == "fixed":
            return max(terms.timeout, self._at_least)
        if terms.rule == "adaptive":
            return policy.calibration.of(terms.aim), policy.price(terms.aim, size)
        return math.inf

    def _plan(self, before: Burst, length: float, history: History) -> Callable[[], None]:
        end = BEGIN + timedelta(seconds=before.end)
        situation = Situation(
            now=end,
            idle_since=end,
            size=before.size,
            shifts=self.policy.calibration.shifts,
        )
        release = self.policy.plan(situation, history).release_at
        after = math.inf if release is None else (release - end).total_seconds()
        self.outcome.add(length, gpus_of(before.size), after)
        # The notebook's history stays as it is until this is called.
        return partial(self.policy.watch, situation, history, length)


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The smallest value that so many of them do not exceed; None where there are none."""
    if not values:
        return None
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]
