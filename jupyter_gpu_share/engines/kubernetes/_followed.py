"""What the broker of a cluster tells of this server's kernels, followed while they are there.

The broker tells a kernel's whole row at each change, in order. So the last row is the truth, and
what waits looks at it. One task writes them; an answer only counts where nothing was told yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Protocol

from ..._threads import stopped
from ...broker.client import BrokerAway, BrokerRefused
from ...broker.http_client import HttpBroker, News, pauses
from ...errors import EngineError
from ._row import Row

__all__ = ["Followed", "Follower"]

_log = logging.getLogger(__name__)

#: Seconds before the next try where the broker refuses to tell anything.
_REFUSED_PAUSE = 10.0


class Follower(Protocol):
    """Who is told of one attempt of one kernel."""

    @property
    def kernel_id(self) -> str:
        """Of the kernel."""

    @property
    def attempt(self) -> str:
        """The attempt; it may change."""

    def told(self, row: Row, *, anew: bool) -> None:
        """The row is this now; ``anew``: all rows were told, as after a restart of the broker."""

    def missing(self) -> None:
        """All rows were told, and there is none of this attempt. It may have been too early."""


class Followed:
    """The rows of this server's kernels. Belongs to one event loop.

    Parameters
    ----------
    unknown: told of a kernel of this process of which nobody here knows.
    wanted: told that somebody may wait for a share.
    """

    def __init__(
        self,
        broker: HttpBroker,
        unknown: Callable[[Row], None],
        wanted: Callable[[], None] = lambda: None,
    ) -> None:
        self._broker = broker
        self._unknown = unknown
        self._wanted = wanted
        self._rows: dict[str, Row] = {}
        self._followers: set[Follower] = set()
        self._last = ""
        self._task: asyncio.Task[None] | None = None
        #: Why nothing is heard now; empty while something is.
        self.trouble = ""

    def open(self) -> None:
        """Follow from now on."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="events of the broker")

    async def close(self) -> None:
        """Follow no more."""
        task, self._task = self._task, None
        await stopped(task)

    def add(self, follower: Follower) -> None:
        """Tell somebody of their kernel from now on."""
        self._followers.add(follower)

    def remove(self, follower: Follower) -> None:
        """Tell them no more."""
        self._followers.discard(follower)

    def answered(self, row: Row) -> Row:
        """Take a row from an answer, unless a later one of the same attempt was told.

        Which of two is the later one cannot be seen: those that are told come in order.
        """
        known = self._rows.get(row.kernel_id)
        if known is None or known.attempt != row.attempt:
            self._rows[row.kernel_id] = known = row
            self._tell(row, anew=False)
        return known

    def row(self, kernel_id: str) -> Row | None:
        """What was told last of a kernel."""
        return self._rows.get(kernel_id)

    def lost_work(self) -> list[Row]:
        """Rows of kernels that have ended with what was in their memory, as far as was told."""
        return [row for row in self._rows.values() if row.lost_work and row.is_over]

    # -- what is told ------------------------------------------------------------------------

    async def _follow(self) -> None:
        pause = pauses()
        while True:
            seconds = None
            try:
                async with aclosing(self._broker.events(self._last)) as stream:
                    async for news in stream:
                        pause = pauses()
                        self._take(news)
                self.trouble = "The broker of this cluster has ended its stream of events."
            except BrokerAway as error:
                self.trouble = str(error)
            except BrokerRefused as error:
                if self.trouble != str(error):
                    _log.warning("The broker tells nothing of this server's kernels: %s", error)
                self.trouble, seconds = str(error), _REFUSED_PAUSE
            except Exception:
                _log.exception("What the broker told could not be followed")
            await asyncio.sleep(pause() if seconds is None else seconds)
            await self._look()

    async def _look(self) -> None:
        """Ask for all rows: something between may let answers through, and no streams."""
        try:
            rows = await self._broker.ask("GET", "/v1/shares")
        except EngineError:
            return  # the next stream begins with all that was missed
        self._reset(rows)

    def _take(self, news: News) -> None:
        self.trouble = ""
        try:
            if news.kind == "reset":
                self._reset(news.data["shares"])
            elif news.kind == "row":
                self._row(Row.read(news.data["row"]))
            elif news.kind == "gone":
                self._gone(str(news.data["kernel_id"]), str(news.data["attempt"]))
            elif news.kind == "wanted":
                self._wanted()
        except (EngineError, KeyError, TypeError) as error:
            _log.warning("An event of the broker could not be understood: %s", error)
        self._last = news.number or self._last

    def _row(self, row: Row) -> None:
        self._rows[row.kernel_id] = row
        self._tell(row, anew=False)

    def _tell(self, row: Row, *, anew: bool) -> None:
        its = [each for each in self._followers if each.kernel_id == row.kernel_id]
        for follower in its:
            if follower.attempt == row.attempt:
                follower.told(row, anew=anew)
                return
        if row.instance == self._broker.instance and not row.is_over:
            self._unknown(row)

    def _gone(self, kernel_id: str, attempt: str) -> None:
        known = self._rows.get(kernel_id)
        if known is not None and known.attempt == attempt:
            del self._rows[kernel_id]
        for follower in list(self._followers):
            if (follower.kernel_id, follower.attempt) == (kernel_id, attempt):
                follower.told(Row(kernel_id, attempt, "gone"), anew=False)

    def _reset(self, rows: Any) -> None:
        found = {row.kernel_id: row for row in map(Row.read, rows)}
        self._rows = found
        for row in found.values():
            self._tell(row, anew=True)
        for follower in list(self._followers):
            its = found.get(follower.kernel_id)
            if its is None or its.attempt != follower.attempt:
                follower.missing()
