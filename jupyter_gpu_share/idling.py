"""The ladder of a share that nobody uses: shown as idle, warned about, given back; culled last.

Every step but the last is undone by running a cell.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal

from .allocations import Allocation, NextAction, State
from .errors import GpuShareError, NotPossible
from .idle import History, Plan, Situation
from .size import Size

if TYPE_CHECKING:
    from .keeping import Look
    from .lifecycle import KernelLife

__all__ = ["Ladder"]

_log = logging.getLogger(__name__)

#: Seconds until a kernel is looked at again that works in the background, or could not be parted
#: from its share.
_AGAIN = 60.0
#: Seconds until a plan is made anew that leaves the share alone: windows of time come and go.
_PLAN_AGAIN = 300.0
#: Part of its time that a GPU is used by programs that draw a screen or keep a clock at most.
_RESTING = 0.02


class Ladder:
    """Climbs for one kernel, from its last cell on. Lives on the runtime's loop."""

    def __init__(self, life: KernelLife) -> None:
        self.history = History()
        #: Somebody waits for a share that this one's return would make room for.
        self.wanted = False
        self._life = life
        self._runtime = life.runtime
        self._policy = life.runtime.idle_policy
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._began: float | None = None
        self._releasing = False
        self._since = _now()
        #: False once a look has shown that a release would lose variables.
        self._kept = True

    # -- what happens to the kernel ----------------------------------------------------------

    def used(self) -> None:
        """A cell runs or waits."""
        self.stop()
        if self._began is None:
            self._began = time.monotonic()

    def unused(self) -> None:
        """No cell runs or waits any more."""
        if self._began is not None:
            self.history.burst(self._began, time.monotonic())
            self._began = None
        if self._task is None:
            self._begin(self._climb)

    def released(self) -> None:
        """The share was given back, by this or by a person."""
        if not self._releasing:
            self.stop()
        self._begin(self._cull)

    def reconsider(self) -> None:
        """Something has changed that the plan depends on."""
        self._news.set()

    def stop(self) -> None:
        """The kernel is used, waits, or is gone."""
        task, self._task = self._task, None
        self.wanted = False
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            self._life.own(task)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def guarded() -> None:
            try:
                await work()
            except NotPossible:
                return  # the kernel is gone, and this with it
            except Exception:
                _log.exception("The idleness of kernel %s cannot be judged", self._life.kernel_id)

        self._task = asyncio.create_task(guarded())

    # -- the ladder --------------------------------------------------------------------------

    async def _climb(self) -> None:
        while True:
            self._since, self._kept = _now(), True
            self._life.update(idle_since=self._since)
            idle_at = self._since + timedelta(seconds=self._policy.idle_after)
            while _now() < idle_at:
                await self._until(idle_at)
            self._life.update(state=State.IDLE, reason=f"{self._no_cell}.")
            outcome = "goes on"
            while outcome == "goes on":
                outcome = await self._step()
            if outcome == "released":
                return

    async def _step(self) -> Literal["goes on", "works", "released"]:
        """One look at the plan and what follows of it."""
        plan = self._plan()
        if plan.release_at is None:
            self._life.update(next=None, reason=f"{self._no_cell}. {plan.why}")
            await self._until(_now() + timedelta(seconds=_PLAN_AGAIN))
            return "goes on"
        warn_at = min(plan.warn_at or plan.release_at, plan.release_at)
        if _now() < warn_at:
            self._life.update(next=NextAction("warn", warn_at))
            await self._until(warn_at)
            return "goes on"
        look = await self._look()
        if look is None or look.background or self._uses_gpu():
            await self._works(look)
            return "works"
        self._kept = not look.kept.lost
        plan = self._plan()
        if plan.release_at is None:
            lost = ", ".join(look.kept.lost)
            await self._stays(
                look, f"The share stays: giving it back would lose {lost}. {look.why}"
            )
            return "goes on"
        release_at = plan.release_at
        self._life.update(
            state=State.IDLE,
            kept=look.kept,
            reason=f"{self._no_cell}, {self._use()}, no background work. {plan.why}",
            next=NextAction("release", release_at),
        )
        while _now() < release_at:
            await self._until(release_at)
            plan = self._plan()
            if plan.release_at is None or plan.release_at > release_at:
                return "goes on"  # kept meanwhile
            release_at = plan.release_at
        return "released" if await self._release() else "goes on"

    async def _release(self) -> bool:
        self._releasing = True
        try:
            await self._life.release(lose_variables=not self._kept)
        except GpuShareError as error:
            if self._life.answers:
                await self._stays(None, f"The share stays. {error}")
            return False
        finally:
            self._releasing = False
        return True

    async def _look(self) -> Look | None:
        with suppress(NotPossible):
            return await self._life.parting.look()
        return None

    async def _works(self, look: Look | None) -> None:
        """Something uses the kernel although no cell runs. It is looked at again later."""
        what = [*look.background] if look is not None else ["a cell runs"]
        if self._uses_gpu():
            what.append(self._use())
        self._life.update(
            state=State.ACTIVE,
            idle_since=None,
            next=None,
            reason=f"No cell runs, but the kernel works: {', '.join(what)}.",
        )
        await self._until(_now() + timedelta(seconds=_AGAIN))

    async def _stays(self, look: Look | None, reason: str) -> None:
        """The share cannot go back now."""
        kept = {"kept": look.kept} if look is not None else {}
        self._life.update(state=State.IDLE, next=None, reason=reason.strip(), **kept)
        await self._until(_now() + timedelta(seconds=_AGAIN))

    async def _cull(self) -> None:
        """End a kernel whose share was given back long ago, where the administrator wants that."""
        released = _now()
        while (at := self._plan(released).cull_at) is not None:
            if at <= _now():
                await self._runtime.cull(self._life.kernel_id)
                return
            self._life.update(next=NextAction("cull", at))
            await self._until(at)

    # -- what is known -----------------------------------------------------------------------

    def situation(self, released_at: datetime | None = None) -> Situation:
        """The share as the policy is to judge it.

        Raises
        ------
        NotPossible: the kernel has just ended.
        """
        row = self._row
        return Situation(
            now=_now(),
            idle_since=self._since,
            size=Size.parse(row.size),
            group=self._policy.group_of(row.user or ""),
            keep_until=row.keep_until,
            waiting=self.wanted,
            kept=self._kept,
            released_at=released_at,
        )

    def _plan(self, released_at: datetime | None = None) -> Plan:
        return self._policy.plan(self.situation(released_at), self.history)

    @property
    def _row(self) -> Allocation:
        row = self._runtime.table.get(self._life.kernel_id)
        if row is None:
            raise NotPossible("The kernel has just ended.")
        return row

    @property
    def _no_cell(self) -> str:
        return f"No cell since {self._since.astimezone():%H:%M}"

    def _uses_gpu(self) -> bool:
        """Whether the kernel itself is known to use its GPU."""
        row = self._row
        own = self._life.engine.own_utilization or (row.share is not None and row.share.simulated)
        return own and row.utilization is not None and row.utilization > _RESTING

    def _use(self) -> str:
        row = self._row
        if row.utilization is None:
            return "GPU use not known"
        whole = "" if self._life.engine.own_utilization else " of the whole GPU"
        return f"GPU use {row.utilization:.0%}{whole}"

    async def _until(self, moment: datetime) -> None:
        """Wait for a moment, or for news."""
        self._news.clear()
        with suppress(asyncio.TimeoutError):
            left = (moment - _now()).total_seconds()
            await asyncio.wait_for(self._news.wait(), max(0.0, left))


def _now() -> datetime:
    return datetime.now(timezone.utc)
