"""Work that is not left half done: blocking work beside the event loop, and what is to end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

__all__ = ["in_thread", "to_the_end"]

T = TypeVar("T")


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
