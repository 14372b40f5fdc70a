"""One reading for all who ask at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from ..._threads import stopped
from .api import KubernetesError

__all__ = ["Shared"]

T = TypeVar("T")


class Shared(Generic[T]):
    """Reads something on behalf of many. What failed is not kept: whoever asks next reads anew.

    Parameters
    ----------
    read: one reading.
    """

    def __init__(self, read: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._read = read
        self._task: asyncio.Task[T] | None = None
        self._began = 0.0
        self._closed = False

    async def get(self, since: float) -> tuple[T, float]:
        """What was read, and when that began, which is ``since`` or later; monotonic.

        A reading that is under way and began earlier is waited for, and the next one is shared.
        Whoever is cancelled leaves it to the others.

        Raises
        ------
        KubernetesError: it was given up.
        Exception: as the reading.
        """
        while not self._closed:
            task, began = self._task, self._began
            if task is None or task.done():
                self._began = began = time.monotonic()
                self._task = task = asyncio.create_task(self._read())
                task.add_done_callback(_seen)
            await asyncio.wait([task])
            if began >= since and not task.cancelled():
                return task.result(), began
        # Not as a cancellation, which would be whoever asks, who then says nothing to a page.
        raise KubernetesError("The access to Kubernetes has been closed.")

    async def close(self) -> None:
        """Give up what is being read."""
        self._closed = True
        await stopped(self._task)


def _seen(task: asyncio.Task[Any]) -> None:
    # Or asyncio would log the error of a reading that nobody waits for any more.
    if not task.cancelled():
        task.exception()
