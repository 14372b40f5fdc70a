"""What works get handed in: the pieces of one kernel, and how it is paused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from ..engines.base import Engine
from ..errors import GpuShareError, NotPossible
from ..relay import Activity, Relay
from ..sentences import say
from ._checkpoint import Keeper
from ._progress import Progress

__all__ = ["CellRunsError", "Pause", "WorkContext", "closed", "paused", "relayed"]

T = TypeVar("T")

#: Seconds until it is tried again to hand a kernel back to its clients.
_AGAIN = 1.0


class CellRunsError(NotPossible):
    """A cell runs, or was run just now: it has the right of way."""


@dataclass(frozen=True)
class WorkContext:
    """The pieces of one kernel.

    Attributes
    ----------
    start_timeout: seconds that a kernel with a share has to answer.
    say: told how far a work is.
    """

    kernel_id: str
    engine: Engine
    relay: Relay
    keeper: Keeper
    start_timeout: float
    say: Progress = lambda _: None


@dataclass
class Pause:
    """A kernel that does nothing but answer us.

    Attributes
    ----------
    activity: what clients have done up to the pause.
    stays: True where the kernel is not to go on when the pause ends.
    """

    activity: Activity
    stays: bool = False


async def relayed(future: Future[T]) -> T:
    """What the relay's thread gives. What was asked of it is done even if the caller leaves."""
    return await asyncio.shield(asyncio.wrap_future(future))


@asynccontextmanager
async def paused(context: WorkContext, *, seen: int | None = None) -> AsyncIterator[Pause]:
    """Within the block the kernel is paused; it goes on afterwards unless the pause ``stays``.

    Parameters
    ----------
    seen: how many cells had been sent when the pause was decided on; None: any number.

    Raises
    ------
    CellRunsError: a cell runs, or was sent since.
    """
    relay = context.relay
    if (await relayed(relay.count())).busy:
        raise CellRunsError(say("cell-runs-now"))
    pausing = asyncio.wrap_future(relay.pause())
    pause: Pause | None = None
    try:
        try:
            activity = await asyncio.shield(pausing)
        except asyncio.CancelledError:
            await asyncio.wait({pausing})  # a moment; who was faster has to be known
            _check(pausing.result(), seen)
            raise
        _check(activity, seen)
        pause = Pause(activity)
        yield pause
    finally:
        if pause is None or not pause.stays:
            await _go_on(relay)


@asynccontextmanager
async def closed(context: WorkContext) -> AsyncIterator[Pause]:
    """Within the block nothing more reaches the kernel, which may still do what it has.

    It goes on afterwards unless the pause ``stays``, as it does after an error.
    """
    pause: Pause | None = None
    try:
        pause = Pause(await relayed(context.relay.pause()))
        yield pause
    except Exception:
        if pause is not None:
            pause.stays = True
        raise
    finally:
        if pause is None or not pause.stays:
            await _go_on(context.relay)


async def _go_on(relay: Relay) -> None:
    """Have clients reach the kernel again, however long there is no descriptor left for that.

    What they send is held meanwhile, and no other work begins. A kernel that ends is taken from
    the relay, which ends this too.
    """
    told, left = False, False
    while True:
        try:
            await relayed(relay.resume())
            break
        except asyncio.CancelledError:
            left = True  # it may have been carried out, or have failed
        except GpuShareError as error:
            if not told:
                told = True
                relay.notify(f"{error} Cells wait until then.")
            try:
                await asyncio.sleep(_AGAIN)
            except asyncio.CancelledError:
                left = True
    if left:
        raise asyncio.CancelledError


def _check(activity: Activity, seen: int | None) -> None:
    if activity.busy or (seen is not None and activity.cells_sent != seen):
        raise CellRunsError(say("cell-run-just-now"))
