"""What kernels left running when they ended: it would go on using the GPU without a share."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection

from ..._threads import in_thread
from .._processes import carriers_of

__all__ = ["Leftovers"]


class Leftovers:
    """Ends what was started under claims. All methods are for one event loop.

    All processes of the machine have to be looked through for that, which takes some milliseconds.
    Kernels that end while that is being done share the next look, however many they are.
    """

    def __init__(self) -> None:
        self._tokens: set[str] = set()
        self._next: asyncio.Task[None] | None = None
        self._last: asyncio.Task[None] | None = None

    async def end(self, token: str) -> None:
        """Kill what carries this claim now. It is done even if the caller leaves."""
        self._tokens.add(token)
        if self._next is None or self._next.done():
            self._next = self._last = asyncio.create_task(
                self._look(self._last), name="end what kernels left"
            )
        await asyncio.shield(self._next)

    async def close(self) -> None:
        """Wait until all is done."""
        if self._last is not None:
            await asyncio.wait({self._last})

    async def _look(self, before: asyncio.Task[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait({before})
        # Who comes from here on may have processes that this look does not see.
        tokens, self._tokens, self._next = self._tokens, set(), None
        await in_thread(_end_carriers, tokens)


def _end_carriers(tokens: Collection[str]) -> None:
    for pids in carriers_of(tokens).values():
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
