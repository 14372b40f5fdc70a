"""Which of the kernels that wait the cluster's scheduler sees, where nobody else orders them.

A scheduler that knows no users places whom it can in the order of arrival. So those who wait are
kept from it until it is their turn. One without room of each size it sees all the same: so an
autoscaler learns what is missing, and users read why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from ...errors import EngineError, GpuShareError
from ...sentences import say
from ..claim import Claim
from ..order import PATIENCE, Room, Turn, line, passed_by

__all__ = ["Decision", "NoRoom", "Turns", "turns"]

_log = logging.getLogger(__name__)

#: Seconds between two decisions while somebody waits and nothing changes.
_AGAIN = 5.0
#: Seconds between two decisions at most, whatever one of them costs.
_LONGEST_PAUSE = 2.0
#: For so long after a restart of the broker nobody is let who waits, where others waited before it:
#: the longest pause between two tries of a client. Who asks again first would be the first else.
SETTLES = timedelta(seconds=5)
#: How old the line may be by which it is told who was passed, and who is where.
_LATELY = timedelta(seconds=1)


@dataclass(frozen=True)
class Decision:
    """What became of those who wait.

    Attributes
    ----------
    let: names of the kernels that the scheduler may see from now on, in their order.
    passed: names of those that wait on though somebody behind them has got room.
    """

    let: tuple[str, ...]
    passed: frozenset[str]


@dataclass
class _Line:
    """The line as it was at a moment.

    Attributes
    ----------
    names: of the kernels, in their order; ``place`` is where each of them is in it.
    passed: so many of the first are known to have been passed.
    """

    at: datetime
    names: list[str]
    passed: int = 0
    place: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.place = {name: number for number, name in enumerate(self.names)}


class NoRoom:
    """Room where nothing is free, or nothing is known of it."""

    def take(self, claim: Claim) -> bool:
        """See :meth:`Room.take <jupyter_gpu_share.broker.order.Room.take>`."""
        return not claim.gpus

    def hold(self, claim: Claim) -> None:
        """See :meth:`Room.hold <jupyter_gpu_share.broker.order.Room.hold>`."""


def turns(in_line: Sequence[Turn], seen: Collection[str], room: Room) -> Decision:
    """Which of those who wait are let to the scheduler now. Pure but for ``room``.

    What the scheduler sees already cannot be called back: it is given room first. Of those without
    room one of each size is let, but no second one of a user while others wait: the scheduler may
    give them what comes free, whoever has least. Nor is one let beside an earlier one of its user
    and size that has room: the scheduler may look at that later. While one waits that others have
    passed for too long, and for which room is held, it is the only one.

    Parameters
    ----------
    in_line: all that wait, those that the scheduler sees among them; see :func:`line
        <jupyter_gpu_share.broker.order.line>`.
    seen: names of those that the scheduler sees.
    room: what is free; it is changed.
    """
    known = frozenset(seen)
    served: dict[str, bool] = {}
    let: list[str] = []
    first = next((turn.claim.kernel_id for turn in in_line if turn.overdue), None)

    def serve(claim: Claim) -> bool:
        found = room.take(claim)
        if found:
            served[claim.kernel_id] = bool(claim.gpus)
        return found

    without = [
        turn.claim for turn in in_line if turn.claim.kernel_id in known and not serve(turn.claim)
    ]
    for turn in in_line:  # those that are overdue come first in it
        claim, name = turn.claim, turn.claim.kernel_id
        if name in served:
            continue
        if name not in known and serve(claim):
            let.append(name)
        elif turn.overdue:
            room.hold(claim)
            if name == first and name not in known:
                let.append(name)
    if first is None:
        let += _trials([turn.claim for turn in in_line], {*known, *let}, without)
    return Decision(tuple(let), passed_by([turn.claim.kernel_id for turn in in_line], served))


def _trials(waiting: Sequence[Claim], seen: Collection[str], without: Sequence[Claim]) -> list[str]:
    """Of those without room the ones that the scheduler is to see all the same."""
    sizes = {claim.size for claim in without}
    users = {claim.user for claim in without}
    own = {(claim.user, claim.size) for claim in waiting if claim.kernel_id in seen}
    alone = len({claim.user for claim in waiting}) == 1
    found = []
    for claim in waiting:
        if claim.kernel_id in seen or claim.size in sizes or (claim.user in users and not alone):
            continue
        if (claim.user, claim.size) in own:
            continue
        sizes.add(claim.size)
        users.add(claim.user)
        found.append(claim.kernel_id)
    return found


class Turns:
    """Those who wait, and whom the scheduler sees of them. For one event loop.

    Parameters
    ----------
    active: whether anybody is kept from the scheduler; not where KAI or Kueue orders.
    held: the GPUs that each user holds; ``mean``: held of late, at a moment.
    room: what is free for those who wait; where it raises GpuShareError, nothing is known to be.
    clock: the time now, aware.
    patience: for how long others may pass one for whom there is no room.
    """

    def __init__(
        self,
        *,
        active: bool,
        held: Callable[[], Mapping[str, float]],
        mean: Callable[[str, datetime], float],
        room: Callable[[Sequence[Claim]], Awaitable[Room]],
        clock: Callable[[], datetime],
        patience: timedelta = PATIENCE,
    ) -> None:
        self.active = active
        self._held = held
        self._mean = mean
        self._room = room
        self._clock = clock
        self._patience = patience
        self._waiting: dict[str, Claim] = {}
        self._seen: set[str] = set()
        self._admitted: dict[str, asyncio.Event] = {}
        self._wake = asyncio.Event()
        self._last: _Line | None = None
        #: Till when nobody is let.
        self._settled: datetime | None = None

    # -- who waits -------------------------------------------------------------------------------

    def add(self, claim: Claim, *, seen: bool = False) -> None:
        """A kernel waits, or still does.

        Parameters
        ----------
        seen: the scheduler sees it already, as one that an earlier broker has let.
        """
        name = claim.kernel_id
        known = self._waiting.get(name)
        passed = known.passed_since if known is not None else claim.passed_since
        self._waiting[name] = replace(claim, passed_since=passed)
        if seen:
            self._let(name)
        self._wake.set()

    def begin(self) -> None:
        """All that waited for an earlier broker have been told of; others may ask again now."""
        if self._waiting.keys() - self._seen:
            self._settled = self._clock() + SETTLES

    @property
    def _settles(self) -> float:
        """Seconds for which nobody is let yet."""
        if self._settled is None:
            return 0.0
        left = self._settled - self._clock()
        if not timedelta(0) < left <= SETTLES:  # a clock that was set back holds nobody up
            self._settled = None
            return 0.0
        return left / timedelta(seconds=1)

    def hide(self, name: str) -> None:
        """The scheduler does not see a kernel yet that was told of as seen."""
        self._seen.discard(name)

    def served(self, name: str) -> None:
        """A kernel has its share. Those in line before it were passed."""
        claim = self._waiting.get(name)
        if claim is not None and claim.gpus and self.active and len(self._waiting) > 1:
            now, lately = self._clock(), self._lately(name)
            place = lately.place[name]
            for other in lately.names[lately.passed : place]:
                if other in self._waiting:
                    self._pass(other, now)
            lately.passed = max(lately.passed, place)
        self.ended(name)

    def ended(self, name: str) -> None:
        """A kernel waits no more. One that is not known did so before."""
        if self._waiting.pop(name, None) is not None:
            self._seen.discard(name)
            if (event := self._admitted.pop(name, None)) is not None:
                event.set()
            self._wake.set()

    def changed(self) -> None:
        """What is free may have changed."""
        if self._waiting:
            self._wake.set()

    def sees(self, name: str) -> bool:
        """Whether the scheduler may see a kernel that waits."""
        return not self.active or name in self._seen

    async def admitted(self, name: str) -> None:
        """Wait until the scheduler may see a kernel, which :meth:`add` has told of.

        One that does not wait may be seen. A start awaits this before it makes what it is
        scheduled by; whoever gives up waiting says so by :meth:`ended`.

        Raises
        ------
        EngineError: the kernel waits no more.
        """
        if not self.active or name not in self._waiting:
            return
        if len(self._waiting) == 1 and not self._settles:
            self._let(name)
        if name in self._seen:
            return
        await self._admitted.setdefault(name, asyncio.Event()).wait()
        if name not in self._seen:
            raise EngineError(say("ended-in-line"))

    def _let(self, name: str) -> None:
        self._seen.add(name)
        if name in self._admitted:
            self._admitted[name].set()

    def in_line(self) -> list[Turn]:
        """All that wait, in the order in which they are served."""
        now = self._clock()
        return line(
            self._waiting.values(),
            self._held(),
            lambda user: self._mean(user, now),
            now,
            self._patience,
        )

    def place(self, name: str) -> tuple[int, int] | None:
        """The place in line of a kernel, from 1, and how many wait, as of late; None: it does not.

        That costs no more where many wait: the line is made once for all who ask in a second.
        """
        if name not in self._waiting:
            return None
        lately = self._lately(name)
        return lately.place[name] + 1, len(lately.names)

    def _lately(self, name: str) -> _Line:
        """The line as it was lately, with a kernel in it that waits."""
        now = self._clock()
        if self._last is None or name not in self._last.place or now - self._last.at >= _LATELY:
            self._last = _Line(now, [turn.claim.kernel_id for turn in self.in_line()])
        return self._last

    # -- whose turn it is ------------------------------------------------------------------------

    async def follow(self) -> None:
        """Let kernels to the scheduler as their turns come, until it is cancelled.

        A decision is made at each change, but no more often than takes a third of the time.
        """
        loop = asyncio.get_running_loop()
        while True:
            # Whose patience is over is known by the time alone.
            pause = self._pause()
            timer = None if pause is None else loop.call_later(pause, self._wake.set)
            try:
                # Not by wait_for: before Python 3.12 a cancel that meets a wake was lost in it.
                await self._wake.wait()
            finally:
                if timer is not None:
                    timer.cancel()
            self._wake.clear()
            begin = loop.time()
            await self.decide()
            await asyncio.sleep(min(2 * (loop.time() - begin), _LONGEST_PAUSE))

    def _pause(self) -> float | None:
        """Seconds until it is decided anew though nothing changes; None: not before it does."""
        if not self._waiting:
            return None
        return min(self._settles or _AGAIN, _AGAIN)

    async def decide(self) -> None:
        """Let those whose turn it is by now."""
        if not self.active or not self._waiting or self._settles:
            return
        room: Room = NoRoom()
        asked = dict(self._waiting)
        if not asked.keys() - self._seen:
            return  # the scheduler has them all, and where none is let none is passed
        try:
            room = await self._room(list(asked.values()))
        except GpuShareError as error:
            _log.warning("It is not known what is free: %s", error)
        # Nothing comes in between this and what follows. Who came meanwhile is next.
        in_line = [turn for turn in self.in_line() if turn.claim.kernel_id in asked]
        decision = turns(in_line, self._seen, room)
        now = self._clock()
        for name in decision.passed:
            self._pass(name, now)
        for name in decision.let:
            self._let(name)

    def _pass(self, name: str, now: datetime) -> None:
        claim = self._waiting[name]
        if claim.passed_since is None:
            self._waiting[name] = replace(claim, passed_since=now)
