"""Writes whose outcome may be unknown: they go on until the cluster has told it.

An answer can be lost although what was asked was done. Until it is known, such a write counts
neither as failed nor as done: it is asked again in the background, and whoever wants the opposite
waits for its end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from ..._threads import stopped, within
from ...broker.client import BrokerAway
from ...errors import EngineError
from .api import KubernetesError

__all__ = ["PATIENCE", "Writes", "unsure"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that a write which goes on may hold up its caller.
PATIENCE = 5.0
#: Seconds between two tries: doubled up to the longest.
_PAUSE, _LONGEST_PAUSE = 1.0, 15.0


class Writes:
    """Writes to one kernel's objects, each of which begins when the one before it has ended.

    Belongs to the event loop that it is used on.

    Parameters
    ----------
    ended: called when a write has ended; must not block.
    """

    def __init__(self, ended: Callable[[], object] = lambda: None) -> None:
        self._ended = ended
        self._tasks: set[asyncio.Task[Any]] = set()
        self._last: asyncio.Task[Any] | None = None
        self._over = asyncio.Event()  # of those that were begun since it was made

    @property
    def pending(self) -> bool:
        """Whether there is a write whose outcome is not known yet."""
        return bool(self._tasks)

    async def once(self, write: Callable[[], Awaitable[T]]) -> T:
        """Do one write. It is done to its end though the caller leaves.

        Raises
        ------
        EngineError: what the write raises. It may have been done if that is ``unsure``.
        """
        return await asyncio.shield(self._begin(write))

    async def insist(
        self,
        write: Callable[[], Awaitable[None]],
        *,
        patience: float | None = None,
        refusable: bool = False,
    ) -> bool:
        """Do a write again and again until it is done. It goes on though the caller leaves.

        Returns after ``patience`` seconds at the latest: whether it is done.

        Parameters
        ----------
        patience: seconds; ``PATIENCE`` by default.
        write: raises :class:`EngineError` where it was not done, or may not have been.
        refusable: the caller can be told that nothing was done.

        Raises
        ------
        EngineError: it is ``refusable``, and the first try was refused for sure.
        """
        listens = refusable

        def may_refuse() -> bool:
            return listens

        over = self._over
        task = self._begin(lambda: _until_done(write, may_refuse, over))
        try:
            await asyncio.wait({task}, timeout=PATIENCE if patience is None else patience)
        finally:
            listens = False
        if not task.done():
            return False
        task.result()
        return True

    def begin(self, write: Callable[[], Awaitable[None]]) -> None:
        """Do a write again and again until it is done; nobody waits for it."""
        over = self._over
        self._begin(lambda: _until_done(write, lambda: False, over))

    async def settled(self, patience: float | None = None) -> bool:
        """Wait until every outcome is known; false where ``patience`` seconds did not suffice."""
        clock = asyncio.get_running_loop().time
        end = None if patience is None else clock() + patience
        while self._tasks:
            left = None if end is None else end - clock()
            if left is not None and left <= 0:
                return False
            await asyncio.wait(set(self._tasks), timeout=left)
        return True

    def give_up(self) -> None:
        """Do not repeat what was begun so far: what it is about goes as a whole, or is lost.

        A try that is under way ends first.
        """
        self._over.set()
        self._over = asyncio.Event()

    async def close(self) -> None:
        """End all of it now."""
        await stopped(*self._tasks)

    def _begin(self, write: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        task = asyncio.create_task(_after(self._last, write), name="write to the cluster")
        self._last = task
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if self._last is task:
            self._last = None
        if not task.cancelled():
            task.exception()  # seen, or asyncio would log it where the caller has left
        self._ended()


async def _after(before: asyncio.Task[Any] | None, write: Callable[[], Awaitable[T]]) -> T:
    if before is not None:
        await asyncio.wait({before})
    return await write()


async def _until_done(
    write: Callable[[], Awaitable[None]], may_refuse: Callable[[], bool], over: asyncio.Event
) -> None:
    pause, told, first = _PAUSE, "", True
    while not over.is_set():
        try:
            await write()
        except EngineError as error:
            if first and may_refuse() and not unsure(error):
                raise
            if str(error) != told:
                told = str(error)
                _log.warning("The cluster is asked again until it answers: %s", error)
        else:
            return
        first = False
        with suppress(asyncio.TimeoutError):
            await within(pause, over.wait())
        pause = min(pause * 2, _LONGEST_PAUSE)


def unsure(error: BaseException) -> bool:
    """Whether what was asked may have been done all the same."""
    if isinstance(error, KubernetesError):
        return error.unsure
    return isinstance(error, BrokerAway)
