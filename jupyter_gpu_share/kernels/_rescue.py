"""The work that saves a kernel's variables while others end what it runs in."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from .._threads import to_the_end, within
from ..allocations import Kept
from ..engines.base import Exit, Removal
from ..errors import GpuShareError, NotPossible
from ..relay import Activity
from ..sentences import paragraph, say
from ._context import WorkContext, closed, relayed
from ._progress import following
from ._release import Left, end
from .facts import Event
from .saved import Note

__all__ = ["its_end", "rescue"]

_log = logging.getLogger(__name__)

T = TypeVar("T")
Tell = Callable[[Event], None]

#: Parts of the time that is left: till a running cell is interrupted, and till it is given up.
_INTERRUPT_AFTER, _GIVE_UP_AFTER = 1 / 3, 2 / 3
#: Seconds between two looks whether a cell runs, and between two interrupts.
_LOOK, _AGAIN = 0.1, 5.0
#: Seconds between two looks whether the time has become another.
_LOOK_AT_TIME = 1.0
#: How often is tried to save them, and seconds between two tries.
_TRIES, _BETWEEN_TRIES = 3, 0.5
#: Seconds after which an end that is not heard of is taken for one: its node may be gone.
_UNHEARD = 60.0
#: Part of the time for saving in which it is read back. Where that does not suffice, it is saved
#: all the same: else it is lost for sure.
_PROVING = 0.5


async def rescue(context: WorkContext, note: Note | None, tell: Tell, *, away: bool) -> Left | None:
    """Save the variables, and end the process; None where nobody ends what it runs in.

    What cannot be saved is lost: the process ends either way. A cell that runs may do so for a
    part of the time; what comes meanwhile waits for the next process.

    Parameters
    ----------
    note: with which the next server may take saved variables over.
    tell: told when no cell runs any more, and when the process ends.
    away: the process is without its share, and paused.

    Raises
    ------
    GpuShareError: nothing was saved. The kernel ends in order, and nothing reaches it any more.
    """
    removal = context.engine.removal(context.kernel_id)
    if removal is None:  # it was told of an earlier process
        return None
    time = _Time(context, removal)
    try:
        if away:
            found = await time.bound(_back(context))
            kept = await _save(context, note, found, time)
        else:
            kept = await _when_quiet(context, note, tell, time)
    except Exception:
        await context.engine.let_go(context.kernel_id)
        raise
    if away:
        tell(Event.ENDS)
    try:
        await to_the_end(end(context))
    except GpuShareError as error:  # tried again before the next start
        _log.warning("A kernel that was saved could not be ended properly: %s", error)
    return Left(process=False, kept=kept, unanswered=context.engine.unanswered(context.kernel_id))


async def its_end(context: WorkContext, reason: str) -> Exit:
    """Wait for the end of a process of which nothing was saved, in its own way.

    One of which nobody hears any more counts as ended some time after it had to be, with the
    ``reason``. Cancelling has it answer for itself until then.
    """
    removal = context.engine.removal(context.kernel_id)
    left = removal.seconds if removal is not None else 0.0
    try:
        return await within(left + _UNHEARD, context.engine.wait(context.kernel_id))
    except asyncio.TimeoutError:
        return Exit(-signal.SIGTERM, reason)
    except asyncio.CancelledError:
        await relayed(context.relay.resume())
        raise


class _Time:
    """How much is left. Whoever ends the process may say more of it later, or give it less."""

    def __init__(self, context: WorkContext, removal: Removal) -> None:
        self.removal = removal
        self._context = context
        self._clock = asyncio.get_running_loop().time
        self._begun = self._clock()
        self._end = self._begun + removal.seconds

    def _look(self) -> None:
        known = self._context.engine.removal(self._context.kernel_id)
        if known is not None:
            self.removal, self._end = known, self._clock() + known.seconds

    @property
    def all(self) -> float:
        """Seconds from the beginning to the end."""
        self._look()
        return self._end - self._begun

    def after(self, part: float) -> bool:
        """Whether this part of all is over."""
        return self._clock() >= self._begun + part * self.all

    @property
    def left(self) -> float:
        """Seconds, at least 0."""
        self._look()
        return max(0.0, self._end - self._clock())

    async def bound(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for something as long as there is time.

        Raises
        ------
        NotPossible: there is no more.
        """
        doing = asyncio.ensure_future(work)
        try:
            while not doing.done():
                if not (left := self.left):
                    grace = say("no-time-to-save", grace=self.all)
                    raise NotPossible(say("not-saved", why=grace))
                await asyncio.wait({doing}, timeout=min(left, _LOOK_AT_TIME))
            return doing.result()
        finally:
            doing.cancel()
            await to_the_end(asyncio.gather(doing, return_exceptions=True))


async def _when_quiet(context: WorkContext, note: Note | None, tell: Tell, time: _Time) -> Kept:
    async with closed(context) as pause:
        if never := context.keeper.saves_never:
            raise NotPossible(never)
        await _no_cell(context, time)
        tell(Event.LEAVES)
        kept = await _save(context, note, pause.activity, time)
        tell(Event.ENDS)
        pause.stays = True
        return kept


async def _no_cell(context: WorkContext, time: _Time) -> None:
    """Wait until the kernel has done what it has, and interrupt what runs for too long.

    Raises
    ------
    NotPossible: it does not end.
    """
    clock = asyncio.get_running_loop().time
    interrupted: float | None = None
    while await relayed(context.relay.at_work()):
        if time.after(_GIVE_UP_AFTER):
            raise NotPossible(say("not-saved", why=say("cell-did-not-end")))
        if time.after(_INTERRUPT_AFTER) and (
            interrupted is None or clock() >= interrupted + _AGAIN
        ):
            if interrupted is None:
                words = paragraph(time.removal.reason, say("interrupted-for-saving"))
                context.relay.notify(words)
            interrupted = clock()
            await context.engine.signal(context.kernel_id, signal.SIGINT)
        await asyncio.sleep(_LOOK)


async def _back(context: WorkContext) -> Activity:
    """Have a process that lives on without its share be where its variables can be read."""
    await relayed(context.relay.pause())
    if context.keeper.moved:
        await context.engine.take_back(context.kernel_id, lambda _: None)
        await context.keeper.resume()
    return context.relay.activity


async def _save(context: WorkContext, note: Note | None, activity: Activity, time: _Time) -> Kept:
    """Save what can be, and try again: an interrupt of a cell may meet what is asked after it."""
    tries = _TRIES
    while True:
        try:
            return await _save_once(context, note, activity, time)
        except NotPossible:
            tries -= 1
            if not tries or not time.left:
                raise
        await asyncio.sleep(_BETWEEN_TRIES)


async def _save_once(
    context: WorkContext, note: Note | None, activity: Activity, time: _Time
) -> Kept:
    keeper = context.keeper
    found = await time.bound(keeper.look(activity, ends=True))
    if found.kept.how != "snapshot":
        raise NotPossible(found.why or say("only-python-keeps"))
    proving = _PROVING * time.left
    async with following(context.say, "saving", keeper.written):
        saving = keeper.save(note, lose=True, patience=proving, certain=False)
        more = await time.bound(saving)
    return replace(found.kept, lost=(*found.kept.lost, *more))
