"""Waiting that has an end, and that can be cancelled at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["within"]

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Do some work, for no longer than so many seconds.

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
        if task.cancel():
            await asyncio.wait([task])
        elif not task.cancelled():
            task.exception()  # seen, or asyncio would log it where nobody waits any more
