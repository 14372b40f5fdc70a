"""How tests wait: for a condition, and never for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

#: Longest wait for anything that a test expects to happen, in seconds.
PATIENCE = 30.0


def pauses(first: float = 0.02, longest: float = 0.25) -> Iterator[float]:
    """Seconds to wait between looks: who is asked every moment for long does nothing else."""
    pause = first
    while True:
        yield pause
        pause = min(pause * 1.2, longest)


async def eventually(
    holds: Callable[[], Any] | Callable[[], Awaitable[Any]], what: str, patience: float = PATIENCE
) -> Any:
    """Wait until ``holds()`` is true and return its value; fail with ``what`` if it never is."""
    end = time.monotonic() + patience
    looks = pauses(longest=0.1)
    while True:
        result = holds()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < end, f"never happened in {patience} s: {what}"
        await asyncio.sleep(next(looks))
