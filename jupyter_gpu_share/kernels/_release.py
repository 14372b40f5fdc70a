"""The works that part a living kernel from its share, and bring both together again."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .._threads import in_thread, to_the_end, within
from ..allocations import Kept
from ..engines.base import Report, Running, Starting
from ..errors import GpuShareError, NotPossible
from ..sentences import paragraph, say, words_of
from . import _lost
from ._checkpoint import Look
from ._context import Pause, WorkContext, paused, relayed
from ._progress import following
from .facts import Event
from .saved import Note

__all__ = ["Allowed", "Left", "WouldLoseError", "end", "look", "part", "release", "save", "wake"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Left:
    """How a kernel has left its share.

    Attributes
    ----------
    process: whether it lives on.
    kept: how its state is kept.
    unanswered: whether it is not known yet that the share is free.
    """

    process: bool
    kept: Kept
    unanswered: bool = False


class WouldLoseError(NotPossible):
    """Something would be lost, and nobody has allowed that.

    Attributes
    ----------
    kept: how the state would be kept, and what not.
    """

    def __init__(self, what: str, found: Look, allow: str) -> None:
        super().__init__(paragraph(what, found.why, say("allow-the-loss", how=allow)))
        self.kept = found.kept


@dataclass(frozen=True)
class Allowed:
    """Whether something may be lost.

    Attributes
    ----------
    would: says what would be lost.
    how: the name under which a user allows it.
    given: it is allowed.
    """

    would: Callable[[Sequence[str]], str]
    how: str
    given: bool

    def check(self, found: Look) -> None:
        """Raises :class:`WouldLoseError` where something would be lost that may not."""
        if found.kept.lost and not self.given:
            raise WouldLoseError(self.would(found.kept.lost), found, self.how)


def _release_would_lose(lost: Sequence[str]) -> str:
    return say("release-would-lose", lost=lost)


Tell = Callable[[Event], None]

#: Seconds that a process gets to save its variables when its server stops, and, of these, to read
#: them back. Where that does not suffice, they are saved all the same: else they are lost for sure.
_SAVING, _PROVING = 7.0, 3.5


async def look(context: WorkContext) -> Look:
    """What works in the kernel although no cell runs, and how its state would be kept.

    Clients notice nothing of it. Cancelling it lets the kernel go on.

    Raises
    ------
    CellRunsError
    """
    async with paused(context) as pause:
        return await context.keeper.look(pause.activity)


async def release(
    context: WorkContext,
    note: Note | None,
    tell: Tell,
    *,
    lose_variables: bool,
    unused_since: int | None,
) -> Left:
    """Give the share of a kernel back that answers.

    Parameters
    ----------
    note: with which the next server may take saved variables over.
    tell: told when it can only go on, or the process ends.
    unused_since: number of cells that were sent when it was found unused; None: a person wants it.

    Raises
    ------
    CellRunsError
    NotPossible: variables would be lost and ``lose_variables`` is not set, or, of one that is
        unused, something works. The kernel goes on.
    """
    async with paused(context, seen=unused_since) as pause:
        found = await context.keeper.look(pause.activity)
        if unused_since is not None and found.background:
            raise NotPossible(say("works-now", what=found.background))
        allowed = Allowed(_release_would_lose, "lose_variables", given=lose_variables)
        return await part(context, pause, found, note, tell, allowed)


async def part(
    context: WorkContext,
    pause: Pause,
    found: Look,
    note: Note | None,
    tell: Tell,
    allowed: Allowed,
) -> Left:
    """Part a paused kernel from its share, keeping its state as was found possible.

    Raises
    ------
    WouldLoseError: more would be lost than is allowed. The kernel is as it was.
    """
    allowed.check(found)
    keeper = context.keeper
    how = found.kept.how
    if how == "in-place":
        tell(Event.COMMITS)
        async with following(context.say, "moving-away"):
            await keeper.vacate()
        leaving = asyncio.ensure_future(_give_back(context, note))
        try:
            await to_the_end(leaving)
        except asyncio.CancelledError:
            if leaving.cancelled() or leaving.exception() is not None:
                raise
        pause.stays = True
        unanswered = context.engine.unanswered(context.kernel_id)
        return Left(process=True, kept=found.kept, unanswered=unanswered)
    if how == "snapshot":
        async with following(context.say, "saving", keeper.written):
            lost = await keeper.save(note, lose=allowed.given)
        found = replace(found, kept=replace(found.kept, lost=(*found.kept.lost, *lost)))
        if lost:
            allowed.check(found)
    else:  # of a wake that did not bring back all, and older than what is given up now
        await in_thread(keeper.discard)
    tell(Event.ENDS)
    pause.stays = True
    try:
        await to_the_end(end(context))
    except GpuShareError as error:  # tried again before the next start
        _log.warning("A kernel that was saved could not be ended properly: %s", error)
    unanswered = context.engine.unanswered(context.kernel_id)
    return Left(process=False, kept=found.kept, unanswered=unanswered)


async def _give_back(context: WorkContext, note: Note | None) -> None:
    """Give the share back, or have the process on its GPU as it was, which is not cut short."""
    try:
        await context.keeper.rests(note)
        await context.engine.give_back(context.kernel_id)
    except BaseException:
        # It says so only where the share is still held.
        await context.keeper.resume()
        await context.keeper.rests_no_more()
        raise


async def end(context: WorkContext) -> None:
    """End a process whose variables are saved, or are not wanted."""
    await relayed(context.relay.detach())
    await context.engine.put_away(context.kernel_id)


async def wake(context: WorkContext, away: Running, report: Report) -> Running:
    """Take the share back for a process that lives on without it.

    However it ends other than by returning, the process is as it was, and holds no share.
    """
    share = await context.engine.take_back(context.kernel_id, report)
    report(Starting(share))
    # From here on it is a moment, and cut short it would be neither here nor there.
    moving = asyncio.ensure_future(_move_back(context))
    try:
        await to_the_end(moving)
    except asyncio.CancelledError:
        if moving.cancelled() or moving.exception() is not None:
            raise
    return replace(away, share=share)


async def _move_back(context: WorkContext) -> None:
    try:
        async with following(context.say, "moving-back"):
            await context.keeper.resume()
        await relayed(context.relay.resume())
    except BaseException:
        await _stay_away(context)
        raise
    await context.keeper.rests_no_more()


async def _stay_away(context: WorkContext) -> None:
    """Undo the way back of a process, which may have moved already."""
    kernel_id, engine = context.kernel_id, context.engine
    try:
        await context.keeper.vacate()
    except GpuShareError as error:
        # It may be on the GPU, and cannot be moved: others must not get what it has there.
        _log.error("Kernel %s is ended: %s", kernel_id, error)
        await engine.signal(kernel_id, signal.SIGKILL)
        await engine.wait(kernel_id)
    await engine.give_back(kernel_id)


async def save(context: WorkContext, note: Note | None) -> None:
    """Save what a process has with it that lives on without its share, before it ends.

    It takes the share again where that is free at once and something of it was on the GPU. What
    cannot be saved in time is logged, and the next kernel of the notebook says it.
    """
    if note is None or not context.keeper.outlives or await has_snapshot(context):
        return
    try:
        await within(_SAVING, _save(context, note))
    except (GpuShareError, asyncio.TimeoutError) as error:
        why = words_of(error) or f"it took longer than {_SAVING:g} s"
        _log.warning("The variables of %s are lost: %s", note.path or note.kernel_id, why)
        await context.keeper.note_loss(note, _lost.not_saved(why))


async def _save(context: WorkContext, note: Note) -> None:
    keeper = context.keeper
    await relayed(context.relay.pause())  # it may have come back just now
    if keeper.moved:
        await context.engine.take_back(context.kernel_id, lambda _: None)
        await keeper.resume()
    found = await keeper.look(context.relay.activity, ends=True)
    if found.kept.how != "snapshot":
        raise GpuShareError(found.why or "they cannot be saved.")
    more = await keeper.save(note, lose=True, patience=_PROVING, certain=False)
    if lost := (*found.kept.lost, *more):
        _log.warning("Of %s is lost: %s", note.path, ", ".join(lost))


async def has_snapshot(context: WorkContext) -> bool:
    """Whether variables wait for the next process of the kernel."""
    return await in_thread(lambda: context.keeper.has_snapshot)
