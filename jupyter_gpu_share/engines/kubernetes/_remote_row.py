"""What the broker of a cluster tells of one kernel, as the rest of this server sees it."""

from __future__ import annotations

import asyncio
import logging
import signal as signals
from abc import abstractmethod
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from ...allocations import Share
from ...broker.http_client import HttpBroker, pauses
from ...errors import EngineError
from ..base import Exit
from ._followed import Followed
from ._objects import KernelPlan
from ._ownership import TAKEN_OVER
from ._row import Row
from ._writes import Writes

__all__ = ["RemoteRow"]

_log = logging.getLogger(__name__)

_GONE = "The cluster has no pod of this kernel any more."


class RemoteRow:
    """The last row of one attempt of a kernel. Belongs to the event loop that it is used on.

    Parameters
    ----------
    plan: of the kernel.
    number: which of this process's starts it is, where it is one.

    Attributes
    ----------
    attempt: what the row is about; another start of the same kernel has another one.
    """

    def __init__(
        self, broker: HttpBroker, followed: Followed, plan: KernelPlan, number: int | None = None
    ) -> None:
        self.on_leave: Callable[[], None] = lambda: None
        self.attempt = uuid4().hex
        self.made = False
        self._broker = broker
        self._followed = followed
        self._plan = plan
        self._number = number
        self._row: Row | None = None
        #: The last one: of a kernel that gave it back the row may tell none.
        self._share: Share | None = None
        #: When that was told, by the loop's clock: what it says of seconds counts from then.
        self._at = 0.0
        #: All rows were told anew; counted, as what was asked before may be forgotten.
        self._resets = 0
        self._missing = False
        self._news = asyncio.Event()
        self._heard = asyncio.Event()  # of the broker itself
        self._writes = Writes(self._rouse)
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._starts = self._up = False
        self._lent = False
        self._looking: asyncio.Task[None] | None = None
        self._listeners = 0
        self._left = False

    # -- what is told ------------------------------------------------------------------------

    @property
    def kernel_id(self) -> str:
        """Of the kernel."""
        return self._plan.kernel_id

    def told(self, row: Row, *, anew: bool) -> None:
        """See :meth:`Follower.told <._followed.Follower.told>`."""
        self._row, self._missing = row, False
        self._share = row.share or self._share
        self._at = asyncio.get_running_loop().time()
        self._resets += anew
        self._hear()
        if not self._starts:
            self._note_end(row)
        if row.removal is not None and not self._listeners:
            self.let_go()
        self._rouse()

    def missing(self) -> None:
        """See :meth:`Follower.missing <._followed.Follower.missing>`."""
        self._resets += 1
        self._missing = True
        self._hear()
        known = self._row is not None and not self._starts and not self._ended.done()
        if known and (self._looking is None or self._looking.done()):
            # Beside the writes: one of them may wait for what this finds out.
            self._looking = asyncio.create_task(self._look(), name="look for a pod")
        self._rouse()

    def _note_end(self, row: Row) -> None:
        if row.ended is not None:
            self._end(row.ended)
        elif row.state == "failed":
            self._end(Exit(-signals.SIGKILL, row.reason))
        elif row.lost:
            self._end(Exit(-signals.SIGKILL, TAKEN_OVER))
        elif row.state == "gone":
            self._end(Exit(-signals.SIGKILL, _GONE))

    async def _look(self) -> None:
        """See whether the broker really knows nothing of the kernel: it may have been too early."""
        pause = pauses()
        while self._missing and not self._ended.done():
            try:
                rows = [Row.read(row) for row in await self._broker.ask("GET", "/v1/shares")]
            except EngineError as error:
                _log.debug("Whether kernel %s is there is not known: %s", self.kernel_id, error)
                await asyncio.sleep(pause())
                continue
            its = [row for row in rows if row.kernel_id == self.kernel_id]
            if any(row.attempt == self.attempt for row in its):
                self._missing = False
                self._followed.answered(its[0])
            elif self._missing:
                self._end(Exit(-signals.SIGKILL, _GONE))

    def _hear(self) -> None:
        heard, self._heard = self._heard, asyncio.Event()
        heard.set()

    def _rouse(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _end(self, ended: Exit) -> None:
        if not self._ended.done():
            self._ended.set_result(ended)
            self._rouse()

    @property
    def name(self) -> str:
        """Name of the pod; empty before it is known."""
        return self._row.name if self._row is not None else ""

    @property
    def share(self) -> Share | None:
        """The share, as the cluster gives it."""
        return self._share

    @property
    def note(self) -> str:
        """What the size was rounded to."""
        return self._row.note if self._row is not None else ""

    @property
    def detachable(self) -> bool:
        """Whether the share can go and come back while the kernel lives."""
        return self._row is not None and self._row.detachable

    @property
    def lent(self) -> bool:
        """Whether the share was given back, if perhaps not yet for sure."""
        told = self._row is not None and self._row.state in ("released", "taking")
        return self._lent or told

    @property
    def there(self) -> bool:
        """Whether the pod is there and this process's, has not ended, and nobody ends it."""
        row = self._row
        return (
            self._up
            and row is not None
            and not row.is_over
            and not self._ended.done()
            and not row.lost
            and row.removal is None
        )

    @property
    def lost(self) -> bool:
        """Whether another process of the same server has the pod."""
        return self._row is not None and self._row.lost

    @property
    def unanswered(self) -> bool:
        """Whether it is not known what became of something that was asked."""
        told = self._row is not None and self._row.unanswered and not self._row.is_over
        return self._writes.pending or told

    async def _until(self, look: Callable[[], Any]) -> Any:
        """Wait until ``look`` gives something, looking at every change."""
        while True:
            news = self._news
            if (found := look()) is not None:
                return found
            await news.wait()

    @abstractmethod
    def let_go(self) -> None:
        """Nothing is to be saved of a pod that is to end."""
