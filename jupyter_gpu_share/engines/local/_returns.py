"""Shares that kernels give back when they end, now or as soon as that can be done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..._threads import stopped
from ...errors import EngineError
from ._shares import AtLedger
from ._walls import Wall

__all__ = ["Returns"]

_log = logging.getLogger(__name__)

#: Seconds between two attempts.
_INTERVAL = 1.0


class Returns:
    """Gives shares back. All methods are for one event loop.

    A share is held until all that its kernel had behind a limit of the driver's is gone, and the
    ledger could be written.

    Parameters
    ----------
    at_ledger: does work in the ledger's thread.
    done: called when there may be room for who waits.
    runs: whether a kernel has come to life again.
    """

    def __init__(
        self, at_ledger: AtLedger, done: Callable[[], None], runs: Callable[[str], bool]
    ) -> None:
        self._at_ledger = at_ledger
        self._done = done
        self._runs = runs
        self._owed: set[asyncio.Task[None]] = set()
        self._closed = False

    async def give(
        self, kernel_id: str, wall: Wall | None = None, *, lives_on: bool = False
    ) -> None:
        """Give a kernel's share back. Where that cannot be done now, it is tried again.

        ``lives_on``: the kernel does, without its share.
        """
        try:
            await self._give(kernel_id, wall, lives_on)
        except EngineError as error:
            if self._closed:
                return  # this process's end makes its claims free
            _log.warning("A share could not be given back yet: %s", error)
            task = asyncio.create_task(self._give_later(kernel_id, wall, lives_on))
            self._owed.add(task)
            task.add_done_callback(self._owed.discard)
        self._done()

    async def close(self) -> None:
        """Try no more. What is owed is free once its processes have ended."""
        self._closed = True
        await stopped(*self._owed)

    async def _give(self, kernel_id: str, wall: Wall | None, lives_on: bool) -> None:
        if wall is not None:
            await wall.tear_down()
        await self._at_ledger(
            lambda ledger: ledger.give_back(kernel_id) if lives_on else ledger.release(kernel_id)
        )

    async def _give_later(self, kernel_id: str, wall: Wall | None, lives_on: bool) -> None:
        while not self._runs(kernel_id):
            await asyncio.sleep(_INTERVAL)
            try:
                await self._give(kernel_id, wall, lives_on)
            except EngineError:
                continue
            self._done()
            return
