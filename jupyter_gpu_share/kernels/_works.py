"""The works of one kernel: at most one at a time, each awaited before the next begins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from ..engines.base import Exit, KernelRequest, Removal, Starting, Waiting
from ..errors import GpuShareError, NotPossible
from ..sentences import say, words_of
from ..size import Size
from . import _lost, _release, _rescue, _resize, _start
from ._context import CellRunsError, WorkContext
from ._details import Details
from .facts import Event, Facts, Phase, Then, Work
from .saved import Note

__all__ = ["Task", "Told", "Works", "settle", "work_of"]

_log = logging.getLogger(__name__)

#: Works that are over for whoever waits, however they end.
_NOBODY_MINDS = frozenset({Work.START, Work.WAKE, Work.UNDO, Work.STOP, Work.PARK, Work.FREE})
_CUT_SHORT = {
    Work.LOOK: say("not-asked"),
    Work.RESCUE: say("ended-just-now"),
    Work.RELEASE: say("wanted-just-now"),
    Work.RESIZE: say("ended-just-now"),
    Work.PREPARE: say("ended-just-now"),
}
#: The same where the kernel has ended, or is to end.
_ENDED = say("ended-just-now")


@dataclass
class Told:
    """An event with what comes with it. ``waiter`` gets the outcome of a wish."""

    event: Event
    waiter: asyncio.Future[Any] | None = None
    request: KernelRequest | None = None
    size: Size | None = None
    lose_variables: bool = False
    news: Waiting | Starting | None = None
    result: Any = None
    error: BaseException | None = None
    exit: Exit | None = None
    removal: Removal | None = None


class Task:
    """A work that was ordered."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.run: Callable[[], Coroutine[Any, Any, Told]]
        self.waiters: list[asyncio.Future[Any]] = []
        self.begun = self.called_off = self.ended = False

    def settle(self, told: Told) -> None:
        """Tell whoever waits what came of it."""
        if told.event is Event.FAILED and told.error is None:
            self.give_up()
        for waiter in self.waiters:
            settle(waiter, told.result, told.error)

    def give_up(self) -> None:
        """Tell whoever waits that nothing came of it."""
        why = "" if self.work in _NOBODY_MINDS else _CUT_SHORT[self.work]
        error = NotPossible(_ENDED if self.ended else why) if why else None
        for waiter in self.waiters:
            settle(waiter, error=error)


class Works:
    """Does one work after the other.

    Parameters
    ----------
    ended: told of the end of a work that was not replaced by another meanwhile.
    """

    def __init__(self, kernel_id: str, ended: Callable[[Task, Told], None]) -> None:
        self._kernel_id = kernel_id
        self._ended = ended
        self._doing: asyncio.Task[None] | None = None
        self._current: Task | None = None
        self._next: Task | None = None

    @property
    def last(self) -> Task | None:
        """The work that was ordered last and is not over."""
        return self._next or self._current

    def begin(self, task: Task) -> None:
        """Do a work, after the end of the one under way."""
        if self._current is None:
            self._start(task)
            return
        if self._next is not None:
            self._next.give_up()
        self._next = task

    def kernel_ends(self) -> None:
        """Have whoever waits for a work that is cut short know that it is for this."""
        for task in (self._current, self._next):
            if task is not None:
                task.ended = True

    def cancel(self) -> None:
        """Cut the work under way short. It ends in a known state, which may take a moment."""
        if self._doing is None or self._current is None:
            return
        if self._next is not None:
            # What is under way was cut short when this was ordered, or goes to its end.
            self._next.called_off = True
        elif self._current.begun:
            self._doing.cancel()
        else:  # a task that is cancelled before its first step never takes one
            self._current.called_off = True

    def _start(self, task: Task) -> None:
        self._current = task
        self._doing = asyncio.ensure_future(self._do(task))

    async def _do(self, task: Task) -> None:
        task.begun = True
        try:
            outcome = Told(Event.FAILED) if task.called_off else await task.run()
        except asyncio.CancelledError:
            outcome = Told(Event.FAILED)
        except CellRunsError as error:
            outcome = Told(Event.BUSY, error=error)
        except Exception as error:
            if not isinstance(error, GpuShareError):
                _log.exception("Kernel %s met an error", self._kernel_id)
            outcome = Told(Event.FAILED, error=error)
        self._current = self._doing = None
        following, self._next = self._next, None
        if following is None:
            self._ended(task, outcome)
        else:  # it was replaced, so nothing follows of it
            self._start(following)
            task.give_up()


Tell = Callable[..., None]


def work_of(
    work: Work,
    told: Told,
    *,
    context: WorkContext,
    facts: Facts,
    details: Details,
    seen: int,
    note: Callable[[], Note | None],
    tell: Tell,
) -> Callable[[], Coroutine[Any, Any, Told]]:
    """What a work does, and the event that its end is.

    Parameters
    ----------
    told: what it follows from.
    facts: as they are when it is ordered.
    seen: how many cells had been sent when the idle rule decided last.
    note: whose its saved variables are.
    tell: told of how far it is; takes an event and ``news``.
    """
    request = details.request
    keeps_share = facts.then is not Then.CLOSE and details.share is not None

    def report(news: Waiting | Starting) -> None:
        tell(Event.QUEUED if isinstance(news, Waiting) else Event.GRANTED, news=news)

    def known() -> bool:
        return request is None or note() is not None  # an earlier server has noted it

    async def start() -> Told:
        assert request is not None
        running = await _start.start(context, request, report, again=facts.again, note=note())
        return Told(Event.ANSWERED, result=running)

    async def wake() -> Told:
        assert details.running is not None
        running = await _release.wake(context, details.running, report)
        return Told(Event.ANSWERED, result=running)

    async def release() -> Told:
        left = await _release.release(
            context,
            note(),
            tell,
            lose_variables=told.lose_variables,
            unused_since=seen if told.event is Event.UNUSED else None,
        )
        return Told(Event.LEFT if left.process else Event.SAVED, result=left)

    async def resize() -> Told:
        assert request is not None
        assert told.size is not None
        assert details.share is not None
        resized = await _resize.resize(
            context,
            told.size,
            request.size,
            details.share,
            note(),
            tell,
            lose_variables=told.lose_variables,
        )
        if resized.left is None:
            return Told(Event.CHANGED, result=resized)
        return Told(Event.LEFT if resized.left.process else Event.SAVED, result=resized)

    async def rescue() -> Told:
        away = facts.phase is Phase.RELEASING
        try:
            left = await _rescue.rescue(context, note(), tell, away=away)
        except Exception as error:
            if not isinstance(error, GpuShareError):
                _log.exception("The variables of kernel %s met an error", context.kernel_id)
            tell(Event.UNSAVED, error=error)
            # Jupyter may start it again before anybody has read the reason.
            context.keeper.owe(_lost.not_rescued(details.removed, words_of(error)))
            # Its end is seen here, too; until then nothing may be handed to it.
            return Told(Event.DIED, exit=await _rescue.its_end(context, details.removed))
        return Told(Event.FAILED) if left is None else Told(Event.SAVED, result=left)

    async def look() -> Told:
        if told.size is not None:
            found = await _resize.kept_by_resize(context, told.size)
        else:
            found = await _release.look(context)
        return Told(Event.LOOKED, result=found, size=told.size)

    async def free_what_is_kept() -> None:
        # A start that was replaced before it began has given back nothing of a restart's.
        if not facts.process:
            await _start.free(context)

    async def prepare() -> Told:
        assert told.size is not None
        saved = note()
        if saved is not None:
            saved = replace(saved, size=str(told.size))
        await free_what_is_kept()
        await _resize.prepare(context, told.size, saved, away=facts.process)
        return Told(Event.DONE, result=told.size)

    async def stop() -> Told:
        await end(keep_share=keeps_share)
        return Told(Event.DONE)

    def stays() -> bool:
        return facts.process and context.engine.keeps(context.kernel_id)

    async def park() -> Told:
        if not stays():  # else the process itself is kept, and once is enough
            await _release.save(context, note())
        await end(keep_share=False)
        return Told(Event.DONE)

    async def end(*, keep_share: bool) -> None:
        left = stays()  # and with it all that it has: nothing is lost, and no file is wanted
        kept = not left and _are_kept(told.event, facts, known(), context)
        goes = facts.again and not kept and not left  # only a stop leaves it to the next server
        lost = goes and (facts.work is Work.PARK or await _release.has_snapshot(context))
        await _start.stop(context, keep_share=keep_share, keep_variables=kept)
        if facts.work is Work.STOP:  # it has ended with its server there
            await context.keeper.rests_no_more()
        if lost and (noted := note()) is not None:
            await context.keeper.note_loss(noted, _lost.not_kept())

    async def free() -> Told:
        await _start.free(context)
        return Told(Event.DONE)

    async def undo() -> Told:
        await free_what_is_kept()
        return Told(Event.DONE)

    return {
        Work.START: start,
        Work.WAKE: wake,
        Work.RELEASE: release,
        Work.RESIZE: resize,
        Work.LOOK: look,
        Work.RESCUE: rescue,
        Work.PREPARE: prepare,
        Work.STOP: stop,
        Work.PARK: park,
        Work.FREE: free,
        Work.UNDO: undo,
    }[work]


def _are_kept(event: Event, facts: Facts, known: bool, context: WorkContext) -> bool:
    """Whether saved variables outlive the end of their kernel's process.

    ``known`` says that the next server can know whose they are.
    """
    if event is Event.PARK:  # what a kernel had that went on since is old
        return facts.again and known and context.keeper.outlives
    return event is not Event.CLOSE  # a restart says itself what becomes of them


def settle(
    waiter: asyncio.Future[Any] | None, result: Any = None, error: BaseException | None = None
) -> None:
    """Finish a future that somebody may have cancelled meanwhile."""
    if waiter is None or waiter.done():
        return
    if error is not None:
        waiter.set_exception(error)
    else:
        waiter.set_result(result)
