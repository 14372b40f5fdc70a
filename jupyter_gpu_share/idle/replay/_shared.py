"""All sessions on a number of GPUs, with a queue where those are short."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from fractions import Fraction
from itertools import pairwise

from ...size import Size
from .._calibration import Calibration
from .._history import History
from .._policy import IdlePolicy
from .._situation import Situation
from ._alone import BEGIN, Outcome, Progress
from ._gpus import Gpus
from ._trace import Session, TraceError

__all__ = ["Shared", "replay_shared"]


@dataclass
class Shared(Outcome):
    """What a policy came to on a number of GPUs.

    Attributes
    ----------
    wakes: seconds that each burst waited whose share had gone back: in the queue, and for the wake.
    starts: seconds that each session waited for its first share.
    demanded: releases because somebody waited.
    served: shares granted that would not have been there, had every session kept its own.
    """

    wakes: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    demanded: int = 0
    served: int = 0


#: Nobody is idle for that long in a trace.
_LONG_AGO = BEGIN - timedelta(days=366)


class _Notebook:
    """One session as it goes.

    Attributes
    ----------
    leaves: when its share goes to somebody who waits, in seconds; None where nobody is to get it.
    """

    __slots__ = (
        "asked",
        "ends",
        "held",
        "history",
        "idle_since",
        "leaves",
        "left",
        "number",
        "paused",
        "reserved",
        "size",
        "started",
    )

    def __init__(self, number: int, session: Session) -> None:
        self.number = number
        size = max((burst.size for burst in session), key=lambda size: size.count)
        self.size = size
        self.reserved = size.count * (size.fraction or Fraction(0))
        lengths = [burst.end - burst.begin for burst in session]
        thinks = [max(after.begin - before.end, 0.0) for before, after in pairwise(session)]
        #: Bursts to come, with the pause after each.
        self.left = deque(zip(lengths, [*thinks, 0.0], strict=True))
        self.history = History()
        self.held: list[int] | None = None
        self.started = False
        self.asked = 0.0
        self.idle_since: float | None = None
        self.leaves: float | None = None
        self.ends = 0.0
        #: As it was when the pause began.
        self.paused: Situation | None = None


def replay_shared(
    sessions: Sequence[Session],
    policy: IdlePolicy,
    gpus: int,
    *,
    wake: float = 1.0,
    progress: Progress = lambda part: None,
) -> Shared:
    """What a policy comes to on so many GPUs.

    Who waits is served first come, first served, be it a session that starts or one whose share
    went back. A share that goes for somebody goes when its owner was warned for long enough; who
    comes back meanwhile keeps it. A burst that waits is as long as in the trace, and so is the
    pause after it.

    Parameters
    ----------
    wake: seconds from having the share back to running.

    Raises
    ------
    TraceError: a session asks for more GPUs than there are.
    """
    most = max(burst.size.count for session in sessions for burst in session)
    if most > gpus:
        raise TraceError(f"A session of the trace asks for {most} GPUs, and there are {gpus}")
    policy.calibration = Calibration()
    return _Run(sessions, policy, gpus, wake).run(progress)


class _Run:
    def __init__(
        self, sessions: Sequence[Session], policy: IdlePolicy, gpus: int, wake: float
    ) -> None:
        self._policy = policy
        self._wake = wake
        self._count = gpus
        self._gpus = Gpus(gpus)
        #: What those sessions would hold that have begun and not ended, had they kept it all.
        self._reserved = Fraction(0)
        self._queue: deque[_Notebook] = deque()
        #: Idle ones that may go back if somebody waits, by number.
        self._ready: dict[int, _Notebook] = {}
        #: Those of them that somebody is to get, and whose owners are warned, by number.
        self._leaving: dict[int, _Notebook] = {}
        self._found = Shared()
        #: What is planned in a pause lies before its end, so that none of it is ever outdated.
        self._todo: list[tuple[float, int, str, _Notebook]] = []
        self._order = 0
        self._bursts = sum(map(len, sessions))
        for number, session in enumerate(sessions):
            self._later(session[0].begin, "ask", _Notebook(number, session))

    def run(self, progress: Progress) -> Shared:
        done = 0
        while self._todo:
            now, _, what, notebook = heapq.heappop(self._todo)
            if what == "end":
                done += 1
                if done % 1000 == 0:
                    progress(done / self._bursts)
                self._end(notebook, now)
            elif what == "ask":
                self._ask(notebook, now)
            elif what == "release" and notebook.held:
                self._give_back(notebook, now)
                self._serve(now)
            elif what == "ready" and notebook.held:
                self._ready[notebook.number] = notebook
                self._serve(now)
            elif what == "leave" and notebook.leaves == now:
                self._leave(notebook, now)
        progress(1.0)
        return self._found

    def _later(self, at: float, what: str, notebook: _Notebook) -> None:
        self._order += 1
        heapq.heappush(self._todo, (at, self._order, what, notebook))

    # -- one notebook --------------------------------------------------------------------------

    def _ask(self, notebook: _Notebook, now: float) -> None:
        """The next burst is to begin."""
        self._ready.pop(notebook.number, None)
        notebook.asked = now
        if notebook.paused is not None and notebook.idle_since is not None:
            pause = now - notebook.idle_since
            self._policy.watch(notebook.paused, notebook.history, pause)
        if notebook.held:
            left = self._stays(notebook)
            self._begin(notebook, now)
            if left:
                self._serve(now)  # who was to get this share looks for another
        else:
            self._queue.append(notebook)
            self._serve(now)

    def _begin(self, notebook: _Notebook, now: float) -> None:
        notebook.idle_since = None
        notebook.asked = now
        self._later(now + notebook.left[0][0], "end", notebook)

    def _end(self, notebook: _Notebook, now: float) -> None:
        """A burst has ended."""
        _, pause = notebook.left.popleft()
        notebook.history.burst(notebook.asked, now)
        if not notebook.left:
            self._gpus.free(notebook.size, notebook.held or [])
            notebook.held = None
            self._reserved -= notebook.reserved
            self._serve(now)
            return
        notebook.idle_since = now
        notebook.ends = now + pause
        self._found.pauses += 1
        self._found.idle += pause * float(notebook.reserved)
        self._later(notebook.ends, "ask", notebook)
        notebook.paused = replace(
            self._situation(notebook, now), shifts=self._policy.calibration.shifts
        )
        situation = notebook.paused
        self._plan(notebook, "release", situation)
        # When it may go for others at all: as if they had waited, and it been warned, for long.
        self._plan(notebook, "ready", replace(situation, waiting_since=_LONG_AGO))

    def _plan(self, notebook: _Notebook, what: str, situation: Situation) -> float | None:
        """When a share would go; None where its owner comes back before."""
        release = self._policy.plan(situation, notebook.history).release_at
        if release is None:
            return None
        at = (release - BEGIN).total_seconds()
        if at >= notebook.ends:
            return None
        self._later(at, what, notebook)
        return at

    def _situation(self, notebook: _Notebook, now: float) -> Situation:
        idle = now if notebook.idle_since is None else notebook.idle_since
        paused = notebook.paused
        return Situation(
            now=BEGIN + timedelta(seconds=now),
            idle_since=BEGIN + timedelta(seconds=idle),
            size=notebook.size,
            shifts=paused.shifts if paused else None,
        )

    def _give_back(self, notebook: _Notebook, now: float) -> None:
        self._ready.pop(notebook.number, None)
        self._stays(notebook)
        self._gpus.free(notebook.size, notebook.held or [])
        notebook.held = None
        self._found.waiting += 1
        self._found.returned += (notebook.ends - now) * float(notebook.reserved)

    def _warn(self, notebook: _Notebook, now: float) -> None:
        """Somebody is to get this share; its owner is told, and may come back before it goes."""
        situation = self._situation(notebook, now)
        self._leaving[notebook.number] = notebook
        notebook.leaves = self._plan(
            notebook, "leave", replace(situation, waiting_since=situation.now)
        )

    def _leave(self, notebook: _Notebook, now: float) -> None:
        """The warning is over. The share goes if somebody is still to get it."""
        self._stays(notebook)
        without = self._room()
        served = self._count_served(without.copy())
        without.free(notebook.size, notebook.held or [])
        if self._count_served(without) > served:
            self._give_back(notebook, now)
            self._found.demanded += 1
        self._serve(now)

    def _stays(self, notebook: _Notebook) -> bool:
        """The share goes to nobody now. False where it was to go to nobody."""
        notebook.leaves = None
        return self._leaving.pop(notebook.number, None) is not None

    # -- who waits -----------------------------------------------------------------------------

    def _serve(self, now: float) -> None:
        while self._queue:
            notebook = self._queue[0]
            held = self._gpus.take(notebook.size)
            if held is None:
                break
            self._queue.popleft()
            notebook.held = held
            waited = now - notebook.asked
            if notebook.started:
                waited += self._wake
                self._found.wakes.append(waited)
            else:
                notebook.started = True
                self._reserved += notebook.reserved
                self._found.starts.append(waited)
            self._found.served += self._reserved > self._count
            self._begin(notebook, notebook.asked + waited)
        if self._queue and self._ready:
            self._make_room(now)

    def _make_room(self, now: float) -> None:
        """Have unused shares go back for those that wait, in their order; as few as it takes."""
        trial = self._room()
        for waiting in self._queue:
            if trial.take(waiting.size) is not None:
                continue
            chosen = self._choose(trial, waiting.size, now)
            if not chosen:
                return  # whoever is behind is not served before
            for each in chosen:
                self._warn(each, now)
            trial.take(waiting.size)

    def _room(self) -> Gpus:
        """The GPUs as they are once those shares are gone that are to go."""
        trial = self._gpus.copy()
        for each in self._leaving.values():
            trial.free(each.size, each.held or [])
        return trial

    def _count_served(self, trial: Gpus) -> int:
        """How many of those that wait would be served in turn."""
        for number, waiting in enumerate(self._queue):
            if trial.take(waiting.size) is None:
                return number
        return len(self._queue)

    def _choose(self, trial: Gpus, size: Size, now: float) -> list[_Notebook]:
        """Whose shares make room for a size, freed in ``trial``; none where all do not."""
        ready = [each for each in self._ready.values() if each.number not in self._leaving]
        if not trial.could(size, [notebook.size for notebook in ready]):
            return []
        chosen: list[_Notebook] = []
        rows = ((each, self._situation(each, now)) for each in ready)
        for each in self._policy.order(rows):
            trial.free(each.size, each.held or [])
            chosen.append(each)
            if trial.fits(size):
                break
        else:
            return []
        for each in self._spared(chosen, trial, size):
            chosen.remove(each)
        return chosen

    def _spared(self, chosen: Sequence[_Notebook], trial: Gpus, size: Size) -> Iterator[_Notebook]:
        """Those whose return is not needed; the most recently used first."""
        for each in reversed(chosen[:-1]):
            trial.use(each.size, each.held or [])
            if trial.fits(size):
                yield each
            else:
                trial.free(each.size, each.held or [])
