"""The works that give a kernel another size, in the way that leaves most as it is.

* While it waits or has given its share back, the next share has the size.
* Live: the process goes on, with other limits, on the GPU that it has.
* By a new process, to which the variables are given.

What is left over is a restart, which is not done here.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from .._threads import to_the_end
from ..allocations import Kept, Share
from ..engines.base import Change
from ..errors import GpuShareError, NotPossible
from ..relay import Activity
from ..sentences import paragraph, say, words_of
from ..size import Size
from ._checkpoint import Look
from ._context import WorkContext, paused
from ._release import Allowed, Left, Tell, part
from .facts import Event
from .saved import Note

__all__ = ["Resized", "kept_by_resize", "plan_away", "prepare", "resize"]


@dataclass(frozen=True)
class Resized:
    """What came of a change of size.

    Attributes
    ----------
    size: what the kernel has then, or will have.
    share: what it holds; None where it has left its share and asks for another.
    left: how it has left it.
    refused: why it has left its share in vain; it comes back as it was.
    """

    size: Size
    share: Share | None = None
    left: Left | None = None
    refused: NotPossible | None = None


async def plan_away(context: WorkContext, size: Size) -> Change | None:
    """The change for a process that lives on without its share; None: it cannot have that.

    Raises
    ------
    NotPossible: it has more memory with it than the size has.
    """
    change = await context.engine.plan_change(context.kernel_id, size)
    moved = context.keeper.moved
    if change is not None and moved > change.share.memory_bytes:
        raise NotPossible(_too_much(moved, size, change))
    return change


async def prepare(context: WorkContext, size: Size, note: Note | None, *, away: bool) -> None:
    """Have the next share be of another size. None is held.

    Raises
    ------
    GpuShareError: the size cannot be had; the next share is what it would have been.
    """
    if not away:
        await context.engine.rounding(size)
        if note is not None:
            await context.keeper.renote(note)
        return
    if await plan_away(context, size) is None:
        raise NotPossible(say("cannot-come-back", size=size))
    await context.engine.change(context.kernel_id, size)


async def kept_by_resize(context: WorkContext, size: Size) -> Look:
    """What a change would keep, without doing it.

    Raises
    ------
    CellRunsError
    NotPossible: the kernel uses more than the size has.
    GpuShareError: the size cannot be had.
    """
    async with paused(context) as pause:
        _, found = await _way(context, size, pause.activity)
        return found


async def resize(
    context: WorkContext,
    size: Size,
    before: Size,
    share: Share,
    note: Note | None,
    tell: Tell,
    *,
    lose_variables: bool,
) -> Resized:
    """Give a kernel that answers another size, with its variables.

    Parameters
    ----------
    before, share: the size and the share that it has.
    tell: told when the kernel is about to leave its share for it, and as in a release.

    Raises
    ------
    CellRunsError
    NotPossible: the kernel uses more than the size has, or variables would be lost and
        ``lose_variables`` is not set.
    GpuShareError: the size cannot be had.
    """
    async with paused(context) as pause:
        change, why = await _live(context, size)
        if change is not None and change.beside and not why:
            swap = _swap(context, size, before, share, change)
            return Resized(size, await to_the_end(swap))
        tell(Event.LEAVES)
        change, found = await _way(context, size, pause.activity)
        would = partial(say, "resize-would-lose", size=size)
        allowed = Allowed(lambda lost: would(lost=lost), "lose_variables", given=lose_variables)
        left = await part(context, pause, found, note, tell, allowed)
    return await _changed(context, size, before, change, left, note)


async def _changed(
    context: WorkContext,
    size: Size,
    before: Size,
    change: Change | None,
    left: Left,
    note: Note | None,
) -> Resized:
    """Have the share that the kernel comes back to be of the size."""
    if not left.process and note is not None:
        await context.keeper.renote(replace(note, size=str(size)))
    if change is not None:
        try:
            await context.engine.change(context.kernel_id, size)
        except Exception as error:  # whatever it is: the kernel has left its share
            refused = NotPossible(say("not-resized", size=size, why=words_of(error)))
            refused.__cause__ = error
            return Resized(before, left=left, refused=refused)
    return Resized(size, left=left)


async def _live(context: WorkContext, size: Size) -> tuple[Change | None, str]:
    """The change for a paused kernel on the GPU that it has, and why its process forbids it.

    Raises
    ------
    NotPossible: the kernel uses more than the size has.
    """
    change = await context.engine.plan_change(context.kernel_id, size)
    if change is None:
        return None, ""
    used, why = await context.keeper.limits()
    if used is not None and used > change.share.memory_bytes:
        raise NotPossible(_too_much(used, size, change))
    return change, why


async def _way(context: WorkContext, size: Size, activity: Activity) -> tuple[Change | None, Look]:
    """How a paused kernel gets another size, and what that keeps.

    The change is None where it has to be another process.

    Raises
    ------
    NotPossible: the kernel uses more than the size has.
    """
    change, why = await _live(context, size)
    if change is None or why:
        found = await context.keeper.look(activity, ends=True)
        return None, replace(found, why=paragraph(why, found.why))
    if change.beside:
        return change, Look(kept=Kept("in-place", ()))
    found = await context.keeper.look(activity)
    return (change if found.kept.how == "in-place" else None), found


async def _swap(
    context: WorkContext, size: Size, before: Size, held: Share, change: Change
) -> Share:
    """Hold the other size at once, with the kernel never allowed more than is held."""
    engine, keeper, kernel_id = context.engine, context.keeper, context.kernel_id
    old = await engine.limits(kernel_id)
    shrinks = change.share.memory_bytes < held.memory_bytes
    try:
        if shrinks:
            await keeper.limit(change.limits)
        share = await engine.change(kernel_id, size)
    except BaseException as error:
        if shrinks:
            with suppress(GpuShareError):
                await to_the_end(keeper.limit(old))
        raise _refused(size, error) from error
    if not shrinks:
        try:
            await keeper.limit(change.limits)
        except BaseException as error:
            with suppress(GpuShareError):  # it may have been told, and not have answered
                await to_the_end(keeper.limit(old))
            with suppress(GpuShareError):
                await to_the_end(engine.change(kernel_id, before))
            raise _refused(size, error) from error
    return share


def _refused(size: Size, error: BaseException) -> BaseException:
    if not isinstance(error, GpuShareError):
        return error
    return NotPossible(say("not-resized", size=size, why=words_of(error)))


def _too_much(used: int, size: Size, change: Change) -> str:
    return say("uses-too-much", used=used, size=size, has=change.share.memory_bytes)
