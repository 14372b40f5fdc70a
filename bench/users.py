"""Many users on few GPUs: by the broker's order and limits, by each server's own rule, reserved.

One session of a public trace is one user. The clock is simulated; what decides is what a broker
runs.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fractions import Fraction

from jupyter_gpu_share.broker.claim import Claim
from jupyter_gpu_share.broker.limits import Limits
from jupyter_gpu_share.broker.order import Turn, asked_back, gpus_by_user, line, serve
from jupyter_gpu_share.broker.standing import Standing
from jupyter_gpu_share.engines.base import Waiter
from jupyter_gpu_share.idle import History, IdlePolicy, Situation
from jupyter_gpu_share.idle.replay import Gpus, Session, draw, percentile, read_parts, read_trace

from .replay import _DATA, _PARTS, _TRACE
from .rows import Row

_USERS, _GPUS = 200, 40
_BEGIN = datetime.fromisoformat("2021-06-01T00:00:00+00:00")
_MODES = ("reserved", "each server's own", "broker")


def rows() -> list[Row]:
    """The three ways beside each other; none where the trace is not there."""
    if not (_TRACE.exists() and _PARTS.exists()):
        print(f"left out: the public traces are not in {_DATA.name}/ beside the project's root")
        return []
    sessions = draw(read_trace(_TRACE), read_parts(_PARTS), seed=1)
    chance = random.Random(1)  # noqa: S311 - no secret
    chosen = chance.sample([each for each in sessions if each[0].size.count <= 4], _USERS)
    runs = {mode: Run(chosen, mode, _GPUS).run() for mode in _MODES}
    last = runs["reserved"]
    found = []
    for mode, run in runs.items():
        for name, unit, ours, peer in (
            ("GPU-hours served within the trace's time", "h", run.hours, last.hours),
            ("waited in all", "h", run.waited / 3600, last.waited / 3600),
            ("waits of users, median of their sums", "h", run.median, last.median),
            ("the same, 95th percentile", "h", run.late, last.late),
            ("largest part of all waiting that one user has", "%", run.unfair, last.unfair),
        ):
            found.append(Row(f"{mode}: {name}", unit, ours, None if run is last else peer))
    return found


@dataclass
class _User:
    name: str
    claim: Claim
    bursts: list[tuple[float, float]]
    place: int = 0
    places: list[int] | None = None
    asked: float | None = None
    idle: float | None = None
    begun: int = 0
    history: History = field(default_factory=History)
    paused: Situation | None = None


class Run:
    """One way over all sessions.

    Attributes
    ----------
    hours: of GPUs in use, up to the moment at which the trace itself ends.
    waits: seconds that each user waited, by name.
    """

    def __init__(self, sessions: Sequence[Session], mode: str, gpus: int) -> None:
        self.mode = mode
        self.gpus = Gpus(gpus)
        self.policy = IdlePolicy()
        self.limits = Limits([{"resource": "gpus", "limit": 8, "scope": {"user": ["*"]}}])
        self.standing = Standing()
        self.users: dict[str, _User] = {}
        self.queue: dict[str, _User] = {}
        self.asked: dict[str, datetime] = {}
        self.waits: Counter[str] = Counter()
        self.hours = 0.0
        self.end = max(session[-1].end for session in sessions)
        self.todo: list[tuple[float, int, str, str, int]] = []
        self.count = 0
        for number, session in enumerate(sessions):
            size = max((burst.size for burst in session), key=lambda each: each.count)
            gpu = (size.fraction or Fraction(1)) * size.count
            name = f"u{number:03}"
            claim = Claim(name, name, size, gpu, int(gpu * 80 * 2**30), _BEGIN)
            bursts = []
            for burst, following in zip(session, [*session[1:], None], strict=True):
                pause = max(following.begin - burst.end, 0.0) if following else 0.0
                bursts.append((burst.end - burst.begin, pause))
            self.users[name] = _User(name, claim, bursts)
            self.later(session[0].begin, "ask", self.users[name])

    @property
    def waited(self) -> float:
        """Seconds, of all users together."""
        return float(sum(self.waits.values()))

    @property
    def median(self) -> float:
        """Hours."""
        return self._percentile(50)

    @property
    def late(self) -> float:
        """Hours."""
        return self._percentile(95)

    @property
    def unfair(self) -> float:
        """In hundredths of all waiting."""
        return 100 * max(self.waits.values(), default=0.0) / (self.waited or 1.0)

    def _percentile(self, percent: int) -> float:
        sums = [self.waits[name] for name in self.users]
        return (percentile(sums, percent) or 0.0) / 3600

    def later(self, moment: float, what: str, user: _User) -> None:
        """Have something happen, unless the user's share has changed hands by then."""
        self.count += 1
        heapq.heappush(self.todo, (moment, self.count, what, user.name, user.begun))

    def run(self) -> Run:
        """All that happens, to its end."""
        while self.todo:
            now, _, what, name, begun = heapq.heappop(self.todo)
            user = self.users[name]
            if what == "ask":
                self.ask(user, now)
            elif user.begun == begun and user.places is not None:
                if what == "done":
                    self.done(user, now)
                elif user.idle is not None and (what == "release" or name in self.asked):
                    self.give(user, now)
            if self.queue and (not self.todo or self.todo[0][0] > now):
                self.serve(now)
        return self

    def ask(self, user: _User, now: float) -> None:
        """A burst is to begin."""
        user.asked = now
        if user.paused is not None and user.idle is not None:
            self.policy.watch(user.paused, user.history, now - user.idle)
        user.idle = None
        self.asked.pop(user.name, None)
        if user.places is not None:
            self.begin(user, now)
        else:
            user.claim = replace(user.claim, asked_at=moment_of(now), passed_since=None)
            self.queue[user.name] = user

    def begin(self, user: _User, now: float) -> None:
        """A burst begins."""
        user.begun += 1
        self.waits[user.name] += now - (user.asked if user.asked is not None else now)
        length = user.bursts[user.place][0]
        self.hours += max(min(now + length, self.end) - now, 0.0) * float(user.claim.gpus) / 3600
        user.asked = now
        self.later(now + length, "done", user)

    def done(self, user: _User, now: float) -> None:
        """A burst has ended."""
        pause = user.bursts[user.place][1]
        user.history.burst(user.asked or now, now)
        user.place += 1
        if user.place == len(user.bursts):
            self.give(user, now)
            return
        user.idle = now
        moment = moment_of(now)
        user.paused = Situation(
            moment, moment, user.claim.size, shifts=self.policy.calibration.shifts
        )
        self.later(now + pause, "ask", user)
        release = self.policy.plan(user.paused, user.history).release_at
        if self.mode != "reserved" and release is not None:
            self.later((release - _BEGIN).total_seconds(), "release", user)

    def give(self, user: _User, now: float) -> None:
        """A share goes back."""
        assert user.places is not None
        self.gpus.free(user.claim.size, user.places)
        user.places = None
        user.claim = replace(user.claim, held_since=None, idle_since=None)
        self.asked.pop(user.name, None)
        self.standing.change(user.name, -float(user.claim.gpus), moment_of(now))

    def held(self) -> list[Claim]:
        """All shares as they are."""
        return [
            replace(user.claim, idle_since=None if user.idle is None else moment_of(user.idle))
            for user in self.users.values()
            if user.places is not None
        ]

    def serve(self, now: float) -> None:
        """Who waits gets what is free, and idle shares are asked back for the others."""
        moment, held = moment_of(now), self.held()
        waiting = [user.claim for user in self.queue.values()]
        if self.mode == "broker":
            has = gpus_by_user(held)
            turns = line(waiting, has, lambda who: self.standing.mean(who, moment), moment)
        else:  # first come, first served, and room is held
            order = sorted(waiting, key=lambda each: (each.asked_at, each.user))
            turns = [Turn(claim, overdue=True) for claim in order]
        floor = Floor(self.gpus.copy())
        found = serve(
            turns,
            held,
            floor,
            lambda claim, have: self.limits.check(claim, have, (), moment) is None,
        )
        for claim in found.granted:
            user = self.queue.pop(claim.user)
            user.places = floor.places[claim.kernel_id]
            self.gpus.use(claim.size, user.places)
            user.claim = replace(claim, held_since=moment, passed_since=None)
            self.standing.change(user.name, float(claim.gpus), moment)
            self.begin(user, now)
        for name in found.passed & self.queue.keys():
            user = self.queue[name]
            since = user.claim.passed_since or moment
            user.claim = replace(user.claim, passed_since=since)
        if self.mode != "reserved" and self.queue:
            left = [turn.claim for turn in turns if turn.claim.user in self.queue]
            self.ask_back(left, now)

    def ask_back(self, left: Sequence[Claim], now: float) -> None:
        """Have idle shares go for those who still wait."""
        moment, held = moment_of(now), self.held()
        places = {c.kernel_id: (c, self.users[c.user].places or []) for c in held}
        rest = Rest(self.gpus, places, left)
        due = asked_back(rest, held, self.policy, moment, asked=self.asked)
        for name in self.asked.keys() - due.keys():
            del self.asked[name]
        for name, when in due.items():
            if name not in self.asked:
                self.asked[name] = moment
                self.later((when - _BEGIN).total_seconds(), "taken", self.users[name])


def moment_of(now: float) -> datetime:
    """A moment of the trace."""
    return _BEGIN + timedelta(seconds=now)


class Floor:
    """Room on the simulated GPUs, for one decision."""

    def __init__(self, gpus: Gpus) -> None:
        self.gpus = gpus
        self.places: dict[str, list[int]] = {}

    def take(self, claim: Claim) -> bool:
        """See ``Room.take``."""
        places = self.gpus.take(claim.size)
        if places is not None:
            self.places[claim.kernel_id] = places
        return places is not None

    def hold(self, claim: Claim) -> None:
        """See ``Room.hold``."""
        self.gpus.hold(claim.size)


@dataclass
class Rest:
    """Who still waits, and who would be served if some shares went back; the first few count."""

    gpus: Gpus
    places: dict[str, tuple[Claim, list[int]]]
    left: Sequence[Claim]

    @property
    def waiting(self) -> Sequence[Waiter]:
        """See ``Snapshot.waiting``."""
        return [Waiter(claim.kernel_id, claim.size) for claim in self.left[:8]]

    def served(self, freed: Collection[str]) -> frozenset[int]:
        """See ``Snapshot.served``."""
        gpus = self.gpus.copy()
        for kernel in set(freed) & self.places.keys():
            claim, places = self.places[kernel]
            gpus.free(claim.size, places)
        return frozenset(
            number for number, claim in enumerate(self.left[:8]) if gpus.take(claim.size)
        )
