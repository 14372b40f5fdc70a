"""Asks the Hub about silent processes: was their server stopped, or will it be back?

That takes their own tokens, which are in memory for as long as the processes have kernels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from ..._threads import stopped
from ...errors import GpuShareError
from .callers import Caller, NotAllowed, UnknownToken
from .presence import Process

__all__ = ["AsksTheHub", "Proofs"]


class AsksTheHub(Protocol):
    """Asks the Hub whose a token is now; see :class:`.Callers`."""

    def now(self, token: str) -> Awaitable[Caller]: ...


class _Token:
    """A token. No text that is made of it shows it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Proofs:
    """The tokens of processes that have kernels. For one event loop.

    Parameters
    ----------
    refused: told of a process whose token the Hub accepts no more, or not as its server's.
    """

    def __init__(self, callers: AsksTheHub, refused: Callable[[Process], None]) -> None:
        self._callers = callers
        self._refused = refused
        self._tokens: dict[Process, _Token] = {}
        self._asking: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tokens)

    def keep(self, process: Process, token: str) -> None:
        """Have the token of a process that has kernels; the Hub has just accepted it."""
        self._tokens[process] = _Token(token)

    def forget(self, process: Process) -> None:
        """The process is gone, or has no kernels any more."""
        self._tokens.pop(process, None)

    def ask(self, process: Process) -> None:
        """Ask the Hub about a process that is silent."""
        if (token := self._tokens.get(process)) is not None:
            task = asyncio.create_task(self._ask(process, token), name="ask about the silent")
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self, process: Process, token: _Token) -> None:
        try:
            caller = await self._callers.now(token.text)
        except (UnknownToken, NotAllowed):
            self._refused(process)
        except GpuShareError:
            return  # the Hub is away: nobody knows
        else:
            if (caller.user, caller.server) != process[:2]:
                self._refused(process)

    async def close(self) -> None:
        """Forget all, and ask nothing any more."""
        self._tokens.clear()
        await stopped(*self._asking)
