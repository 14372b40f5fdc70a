"""Work that is not left half done: blocking work beside the event loop, and what is to end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

__all__ = ["in_thread", "stopped", "to_the_end", "within"]

T = TypeVar("T")

#: Seconds after which a task that goes on is cancelled once more: what it tidies up takes less.
_AGAIN = 10.0


async def in_thread(
    work: Callable[..., T], *arguments: Any, executor: Executor | None = None, **options: Any
) -> T:
    """Run blocking ``work`` in a thread of ``executor``, the loop's own if there is none.

    While the interpreter ends there are no more threads to be had. What is left to do then, ending
    kernels and giving shares back, is done in place: nothing else runs on the loop any more.
    """
    bound = partial(work, *arguments, **options)
    try:
        future = asyncio.get_running_loop().run_in_executor(executor, bound)
    except RuntimeError:
        return bound()
    return await future


async def to_the_end(work: Awaitable[T]) -> T:
    """Do what must not be cut short, nor go on when its caller has left.

    A caller that is cancelled, however often, leaves when it is done.
    """
    doing = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not doing.done():
        try:
            await asyncio.wait({doing})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return doing.result()
    if not doing.cancelled():
        doing.exception()  # nobody is there to be told
    raise cancelled


async def within(seconds: float | None, work: Awaitable[T]) -> T:
    """Do some work, for no longer than so many seconds; None: for as long as it takes.

    ``asyncio.wait_for`` forgets, before Python 3.12, that it was cancelled where the work is done
    at the same moment.

    Raises
    ------
    asyncio.TimeoutError: it took too long.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        if not task.done():
            await stopped(task)
        elif not task.cancelled():
            task.exception()  # seen, or asyncio would log it


async def stopped(*tasks: asyncio.Future[Any] | None) -> None:
    """Cancel tasks and wait until they have ended, whatever they raise.

    What is to be called at their ends has been. A library may forget that it was cancelled, as
    ``asyncio.wait_for`` does: a loop around it would go on.
    """
    these = {each for each in tasks if each is not None and each is not asyncio.current_task()}
    while left := {task for task in these if not task.done()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_AGAIN)
    await asyncio.sleep(0)
    for task in these:
        if not task.cancelled():
            task.exception()  # seen, or asyncio would log it
