"""Which processes of users' servers are alive, as far as they are heard; no clock of theirs counts.

A process that is alive has a stream of events open, or has asked for something lately. One that is
silent may have been stopped, or may have crashed and be started again in a moment: the Hub is asked
which. It takes the token of a stopped server back, and that of one that crashed stays good. What is
to become of a kernel whose process is gone is decided here too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from heapq import heappop, heappush
from itertools import count
from math import inf
from time import monotonic
from typing import NamedTuple

__all__ = [
    "RETURN",
    "Fate",
    "Presence",
    "Process",
    "Signs",
    "ask_at",
    "fate_of",
    "free_at",
    "gone_at",
]

_log = logging.getLogger(__name__)

#: Seconds without a stream and a request after which a process is silent: another one of its server
#: may take over what it has, and the Hub is asked about it. Then seconds to the next question.
QUIET, AGAIN = 5.0, 5.0
#: Seconds that a process has to come back about which the Hub cannot be asked, and to be heard
#: after a restart of the broker before another one may take over what it has.
RETURN = 20.0
#: Seconds after which a silent process is gone though the Hub knows nothing of a stop.
SILENCE = 120.0
#: Seconds that everybody has to come back after a restart of the broker, and when the Hub is back.
RESTART = 60.0
#: Processes of one server at once: terminals and programs have their own.
_MOST = 64
#: Streams of one process at once: an old one may not have been seen to end.
_MOST_STREAMS = 8
#: Processes that have said that they end, and are remembered: what they sent may come later.
_MOST_OVER = 4096
#: Streams of all of a user's processes at once: each costs memory for as long as it is not read.
_MOST_OF_USER = 64


class Process(NamedTuple):
    """One process of a proven user's server.

    Attributes
    ----------
    server: its name among the user's servers; empty for the default one.
    instance: chosen by the process, 32 hexadecimal digits. It tells processes of one server apart
        and proves nothing.
    """

    user: str
    server: str
    instance: str


@dataclass(frozen=True)
class Signs:
    """What was heard of one process. Times are seconds of this broker's monotonic clock.

    Attributes
    ----------
    streams: of events, that are open now.
    ended: when the last one was closed that is not open any more; None: there was none.
    heard: when it asked for something last.
    until: till then it counts as alive whatever is heard.
    left: it has said that it ends, or its token was refused.
    proven: it was heard with a token, which the Hub can be asked about.
    asked: when the Hub was asked about it last.
    born: which of the processes by this name it is, should it have been forgotten in between.
    """

    streams: int = 0
    ended: float | None = None
    heard: float = 0.0
    until: float = 0.0
    left: bool = False
    proven: bool = False
    asked: float = float("-inf")
    born: int = 0

    @property
    def last(self) -> float:
        """When something was heard of it last, if it has no stream open."""
        return self.heard if self.ended is None else max(self.ended, self.heard)


def gone_at(signs: Signs, silence: float = SILENCE) -> float | None:
    """When a process counts as gone if nothing more is heard of it; None: not while that holds."""
    if signs.left:
        return float("-inf")
    if signs.streams:
        return None
    return max(signs.last + (silence if signs.proven else RETURN), signs.until)


def free_at(signs: Signs) -> float | None:
    """When another process of its server may take over what it has; None: not while that holds."""
    if signs.left:
        return float("-inf")
    return None if signs.streams else signs.last + (QUIET if signs.proven else RETURN)


def ask_at(signs: Signs) -> float | None:
    """When the Hub is to be asked about a process; None: not while that holds."""
    if signs.left or signs.streams or not signs.proven:
        return None
    return max(signs.last + QUIET, signs.asked + AGAIN)


def _look_at(signs: Signs, silence: float) -> float | None:
    """When a process is to be looked at."""
    return min(
        (at for at in (gone_at(signs, silence), ask_at(signs)) if at is not None), default=None
    )


class Fate(Enum):
    """What becomes of a kernel whose process is gone."""

    DELETE = "delete"  #: nothing is lost: it had not come up, or has ended
    KEEP = "keep"  #: it holds no share, and waits for the next process of its server
    GIVE_BACK = "give back"  #: it lives on without its share, as :attr:`KEEP`
    PARK = "park"  #: its agent takes it off its GPU, then as :attr:`GIVE_BACK`; else :attr:`END`
    END = "end"  #: its pod ends, and with it what the kernel has in memory


def fate_of(*, up: bool, lent: bool, ended: bool, detachable: bool, vacated: bool) -> Fate:
    """What becomes of a kernel whose process is gone.

    Parameters
    ----------
    up: the kernel's process runs in the pod, as far as the broker knows.
    lent: the share was given back.
    detachable: the share can go while the kernel lives.
    vacated: by the process's last word nothing of the kernel is on its GPU.
    """
    if ended or not up:
        return Fate.DELETE
    if lent:
        return Fate.KEEP
    if not detachable:
        return Fate.END
    return Fate.GIVE_BACK if vacated else Fate.PARK


class Presence:
    """The processes that were heard of. For one event loop.

    Parameters
    ----------
    gone: called once for each process that is gone, in the loop; must not block.
    heard: seconds since everybody can be heard again: 0 while the Hub is away that proves who
        calls, infinity if it never was. Until they had their time to come back silence says
        nothing.
    ask: called again and again for each process that is silent, in the loop; must not block. Has
        the Hub asked about it, and calls :meth:`refused` where it accepts the token no more.
    silence: seconds that a silent process has to come back while the Hub accepts its token.
    clock: seconds, monotonic.
    """

    def __init__(
        self,
        gone: Callable[[Process], None],
        clock: Callable[[], float] = monotonic,
        heard: Callable[[], float] = lambda: inf,
        ask: Callable[[Process], None] = lambda process: None,
        silence: float = SILENCE,
    ) -> None:
        self._gone = gone
        self._heard = heard
        self._ask = ask
        self._silence = silence
        self._clock = clock
        self._signs: dict[Process, Signs] = {}
        self._count: dict[tuple[str, str], int] = {}
        #: Streams that are open, by user.
        self._streams: Counter[str] = Counter()
        #: When each is to be looked at again, the first first, and of each the one that counts.
        #: An end that has come to be later is found when the earlier one is looked at.
        self._due: list[tuple[float, Process]] = []
        self._next: dict[Process, float] = {}
        #: Those that have said that they end, the first first.
        self._over: dict[Process, None] = {}
        self._born = count(1)
        self._timer: asyncio.TimerHandle | None = None

    def alive(self, process: Process) -> bool:
        """Whether the process is there, as far as anybody can know here."""
        signs = self._signs.get(process)
        if signs is None:
            return False
        end = gone_at(signs, self._silence)
        return end is None or end > self._clock()

    def holds(self, process: Process) -> bool:
        """Whether no other process of its server may take over what it has.

        What is silent may be alive still, and has lost that all the same.
        """
        signs = self._signs.get(process)
        if signs is None:
            return False
        free = free_at(signs)
        return free is None or free > self._clock()

    def hears(self, process: Process) -> bool:
        """Whether the process is told at once what happens, as far as anybody can know here."""
        signs = self._signs.get(process)
        if signs is None or not signs.proven or not self.holds(process):
            return False
        return bool(signs.streams) or signs.ended is None or signs.heard > signs.ended

    def expected(self, process: Process) -> bool:
        """Whether it may come back after the broker's restart, and was not heard since."""
        signs = self._signs.get(process)
        return signs is not None and not signs.proven and self.alive(process)

    def has_left(self, process: Process) -> bool:
        """Whether it has said that it ends."""
        return process in self._over

    def hear(self, process: Process) -> bool:
        """The process has asked for something. False: its server has too many processes.

        One that has said that it ends is not there again by that.
        """
        if process in self._over:
            return True
        signs = self._signs.get(process)
        if signs is None:
            if self._count.get(process[:2], 0) >= _MOST:
                return False
            signs = self._new()
        if not signs.left:
            self._note(process, replace(signs, heard=self._clock(), proven=True))
        return True

    def expect(self, process: Process) -> None:
        """The process has kernels, by the cluster, and may come back after the broker's restart."""
        now = self._clock()
        signs = self._signs.get(process) or self._new()
        self._note(process, replace(signs, until=now + RESTART))

    def room_for_stream(self, process: Process) -> bool:
        """Whether the process may have one more stream open."""
        signs = self._signs.get(process)
        own = 0 if signs is None else signs.streams
        return own < _MOST_STREAMS and self._streams[process.user] < _MOST_OF_USER

    @contextmanager
    def stream(self, process: Process) -> Iterator[None]:
        """While this is entered the process has a stream of events open."""
        self._over.pop(process, None)
        signs = self._signs.get(process) or self._new()
        born, streams = signs.born, signs.streams + 1
        self._note(process, replace(signs, streams=streams, left=False, proven=True))
        self._streams[process.user] += 1
        try:
            yield
        finally:
            self._streams[process.user] -= 1
            if not self._streams[process.user]:
                del self._streams[process.user]
            now, last = self._clock(), self._signs.get(process)
            if last is not None and last.born == born:
                self._note(process, replace(last, streams=last.streams - 1, ended=now))

    def leaves(self, process: Process) -> None:
        """The process has said that it ends. What it has sent before may come later."""
        self._over[process] = None
        if len(self._over) > _MOST_OVER:
            del self._over[next(iter(self._over))]
        self.refused(process)

    def refused(self, process: Process) -> None:
        """The Hub accepts the token of a process no more: its server was stopped.

        It says nothing of other processes of that server: the next one has a token of its own.
        """
        if (signs := self._signs.get(process)) is not None:
            self._note(process, replace(signs, left=True, until=0.0))

    def close(self) -> None:
        """Tell nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._signs.clear()
        self._next.clear()
        self._due.clear()

    def look(self) -> None:
        """Tell of those that are gone by now. Called by the timer."""
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            at, process = heappop(self._due)
            if self._next.get(process) != at:
                continue
            del self._next[process]
            signs = self._signs[process]
            end = gone_at(signs, self._silence)
            if end is None:
                continue  # it is put down again when the stream ends
            if end <= now and not signs.left and (early := RESTART - self._heard()) > 0:
                end = now + early
                signs = replace(signs, until=end)
            if end > now:
                asks = ask_at(signs)
                if asks is not None and asks <= now:
                    signs = replace(signs, asked=now)
                    self._called(self._ask, process)
                self._put_down(process, signs)
                continue
            self._forget(process)
            self._called(self._gone, process)
        self._set_timer()

    def _called(self, told: Callable[[Process], None], process: Process) -> None:
        try:
            told(process)
        except Exception:
            _log.exception("What became of a server's process could not be taken note of")

    def _new(self) -> Signs:
        return Signs(heard=self._clock(), born=next(self._born))

    def _note(self, process: Process, signs: Signs) -> None:
        if process not in self._signs:
            self._count[process[:2]] = self._count.get(process[:2], 0) + 1
        if self._put_down(process, signs):
            self._set_timer()

    def _put_down(self, process: Process, signs: Signs) -> bool:
        """Take signs for what holds now; whether it is to be looked at earlier than before."""
        self._signs[process] = signs
        at = _look_at(signs, self._silence)
        if at is None or at >= self._next.get(process, float("inf")):
            return False
        self._next[process] = at
        heappush(self._due, (at, process))
        if len(self._due) > 2 * len(self._next) + 2:
            # What counts no more would stay for as long as a process has to come back.
            self._due = sorted((at, process) for process, at in self._next.items())
        return True

    def _forget(self, process: Process) -> None:
        del self._signs[process]
        self._next.pop(process, None)
        self._count[process[:2]] -= 1
        if not self._count[process[:2]]:
            del self._count[process[:2]]

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            pause = max(0.0, self._due[0][0] - self._clock())
            self._timer = asyncio.get_running_loop().call_later(pause, self.look)
