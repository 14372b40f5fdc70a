"""How a kernel waits for its pod: at every change it looks again, and it does not wait in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..._threads import within
from ...errors import KernelStartError
from ..base import Exit
from . import _failures as failures
from ._cluster import Object
from ._waits import PATIENCE

__all__ = ["Attention"]

#: Seconds in the queue after which the scheduler is asked again, where there seems to be room.
_LOOK_AGAIN = PATIENCE


class Attention:
    """The waits of one kernel.

    Parameters
    ----------
    pod: the pod as it is; None where it is not there.
    ended: how the kernel has ended; None where it has not.
    tell: told what hinders the pod, which the node tries again.
    ask_again: has the scheduler look at what it may have overlooked; whether it was asked.
    patience: seconds that a node may try again.
    """

    def __init__(
        self,
        pod: Callable[[], Object | None],
        ended: Callable[[], Exit | None],
        tell: Callable[[str], bool],
        ask_again: Callable[[], Awaitable[bool]],
        patience: Callable[[], float],
    ) -> None:
        self._pod = pod
        self._has_ended = ended
        self._tell = tell
        self._ask_again = ask_again
        self._patience = patience
        self._changed = asyncio.Event()
        self._hindered: float | None = None  # since when, by the loop's clock
        self._clock = asyncio.get_running_loop().time
        #: Until when is waited at most, and what is said then.
        self._limit: tuple[float, Callable[[], str]] | None = None

    def rouse(self) -> None:
        """Something has changed."""
        self._changed.set()

    @contextmanager
    def limit(self, seconds: float, words: Callable[[], str]) -> Iterator[None]:
        """Have all waits within end together after ``seconds``, if not 0, with these words."""
        before = self._limit
        if seconds:
            self._limit = self._clock() + seconds, words
        try:
            yield
        finally:
            self._limit = before

    async def until(self, look: Callable[[], Any]) -> Any:
        """Wait until ``look`` gives something, looking at every change.

        Raises
        ------
        KernelStartError: the pod has ended, will not come up, or the limit is reached.
        """
        clock, pause = self._clock, _LOOK_AGAIN
        overdue = clock() + pause
        told = ""
        while True:
            self._changed.clear()
            if (ended := self._has_ended()) is not None:
                raise KernelStartError(f"The kernel could not start. {ended.reason}")
            pod = self._pod()
            end = overdue
            if pod is not None and (cause := failures.hindrance(pod)):
                end = min(overdue, self._hindered_until(cause))
                if cause.text != told and self._tell(cause.what):
                    told = cause.text
            found = look()
            if found is not None:
                return found
            if self._limit is not None:
                last, words = self._limit
                if clock() >= last:
                    raise KernelStartError(words())
                end = min(end, last)
            with suppress(asyncio.TimeoutError):
                await within(max(0.0, end - clock()), self._changed.wait())
            if clock() >= overdue:
                if await self._ask_again():
                    pause *= 2
                overdue = clock() + pause

    def _hindered_until(self, cause: failures.Cause) -> float:
        """Until when the node may try again, by the loop's clock.

        Raises
        ------
        KernelStartError: there is no sense in it, or it was tried for long enough.
        """
        clock = self._clock
        if self._hindered is None:
            self._hindered = clock()
        end = self._hindered + self._patience()
        if not cause.passing or clock() >= end:
            raise KernelStartError(cause.text)
        return end
