"""How a kernel waits for its pod: at every change it looks again, and it does not wait in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

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

    def rouse(self) -> None:
        """Something has changed."""
        self._changed.set()

    async def until(self, look: Callable[[], Any]) -> Any:
        """Wait until ``look`` gives something, looking at every change.

        Raises
        ------
        KernelStartError: the pod has ended, or will not come up.
        """
        clock, pause = asyncio.get_running_loop().time, _LOOK_AGAIN
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
                if cause.text != told and self._tell(cause.text):
                    told = cause.text
            found = look()
            if found is not None:
                return found
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(0.0, end - clock()))
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
        clock = asyncio.get_running_loop().time
        if self._hindered is None:
            self._hindered = clock()
        end = self._hindered + self._patience()
        if not cause.passing or clock() >= end:
            raise KernelStartError(cause.text)
        return end
