"""How often Python looks for objects that only hold each other, while the broker works.

By itself it looks through all objects again and again while their number grows, and nothing else
runs meanwhile: with a thousand kernels that held up whatever was to be told by up to a second.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..._threads import stopped

__all__ = ["seldom_looked_for"]

#: Objects that are new until those are looked through, so often until those that stayed are, and so
#: often until all would be: that is never, as it is done by the clock.
_THRESHOLDS = (20_000, 20, 1_000_000)
#: Seconds between two looks through all objects. Ended kernels are among what is found.
_ALL = 600.0


@asynccontextmanager
async def seldom_looked_for() -> AsyncIterator[None]:
    """Have all objects be looked through by the clock alone, for the time of a ``with`` statement.

    For a program of its own: it holds for the whole process.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # what is imported stays, and need not be looked through
    gc.set_threshold(*_THRESHOLDS)
    looking = asyncio.create_task(_look_now_and_then(), name="look for litter")
    try:
        yield
    finally:
        await stopped(looking)
        gc.set_threshold(*before)
        gc.unfreeze()


async def _look_now_and_then() -> None:
    while True:
        await asyncio.sleep(_ALL)
        gc.collect()
