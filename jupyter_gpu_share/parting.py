"""How a kernel and its share part, and how they meet again.

Where its state can be kept in place the process lives on without the share; else the process ends
and the next one gets its variables. In between clients notice nothing but that cells wait.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ._threads import in_thread
from .allocations import State
from .engines.base import Report, Running
from .errors import GpuShareError, KernelStartError, NotPossible
from .keeping import Look
from .relay import HoldMode

if TYPE_CHECKING:
    from .lifecycle import KernelLife

__all__ = ["Parting", "refusal"]

_log = logging.getLogger(__name__)


class Parting:
    """Parts one kernel from its share, and brings both together. Lives on the runtime's loop."""

    def __init__(self, life: KernelLife) -> None:
        self._life = life
        #: Set while the process lives on without its share.
        self.away: Running | None = None
        #: Held by whoever pauses the kernel.
        self.turn = asyncio.Lock()

    # -- a pause -----------------------------------------------------------------------------

    async def look(self) -> Look:
        """What works in the kernel although no cell runs, and how its state would be kept.

        Clients notice nothing of it.

        Raises
        ------
        NotPossible: no kernel answers, or a cell runs.
        """
        async with self.turn, self.paused():
            return await self._life.keeper.look()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Within the block the kernel does nothing but answer us; nobody is shown that.

        Raises
        ------
        NotPossible: no kernel answers, or a cell runs.
        """
        life = self._life
        if life.running is None or (await asyncio.wrap_future(life.relay.count())).busy:
            raise NotPossible("A cell runs; interrupt it or wait for its end.")
        life.relay.hold(HoldMode.STARTING)
        try:
            if (await asyncio.wrap_future(life.relay.pause())).busy:
                raise NotPossible("A cell was run just now.")
            yield
        finally:
            await asyncio.wrap_future(life.relay.resume())

    @asynccontextmanager
    async def held_back(self) -> AsyncIterator[None]:
        """Within the block the kernel is paused and shown so; it goes on if the block fails."""
        await self._hold_back()
        try:
            yield
        except BaseException:
            if self._life.answers:
                await self._go_on()
            raise

    async def _hold_back(self) -> None:
        """Have the relay hold back what clients send, with no cell under way.

        Raises
        ------
        NotPossible: a cell runs. Nothing has changed.
        """
        life = self._life
        if (await asyncio.wrap_future(life.relay.count())).busy:
            raise NotPossible("A cell runs; interrupt it or wait for its end.")
        life.update(state=State.RELEASING, reason="")
        life.relay.hold(HoldMode.WAITING)
        if (await asyncio.wrap_future(life.relay.pause())).busy:
            # A cell slipped in before the relay held back the next one: it has the right of way.
            await self._go_on()
            raise NotPossible("A cell was run just now; the share stays.")

    async def _go_on(self) -> None:
        await asyncio.wrap_future(self._life.relay.resume())
        self._life.update(state=State.ACTIVE)
        self._life.note_activity(self._life.relay.activity)

    # -- away --------------------------------------------------------------------------------

    async def release(self, *, lose_variables: bool) -> None:
        """Give the share of a kernel back that answers.

        Raises
        ------
        NotPossible: a cell runs, or variables would be lost and ``lose_variables`` is not set.
        """
        life = self._life
        async with self.turn:
            if not life.answers:
                return  # somebody else asked for it at the same time
            async with self.held_back():
                look = await life.keeper.look()
                life.update(kept=look.kept)
                if look.kept.lost and not lose_variables:
                    raise NotPossible(refusal("Giving the share back", look, "lose_variables"))
                await self.part(look)
        if life.relay.held:
            life.wake_if_released()

    async def part(self, look: Look) -> None:
        """Part the kernel, held back, from its share, keeping its state as was found possible."""
        life = self._life
        running = life.running
        assert running is not None
        reason = "The next cell starts a new kernel without variables."
        if look.kept.how == "in-place":
            await life.keeper.vacate()
            try:
                await life.engine.give_back(life.kernel_id)
            except BaseException:
                await asyncio.shield(life.keeper.resume())
                raise
            reason = "The variables are kept; the next cell takes the share back."
        elif look.kept.how == "snapshot":
            await life.keeper.save(life.note)
            reason = "The variables are saved; the next cell brings them back."
        await life.abandon()
        if life.exit_code is not None:
            raise NotPossible("The kernel has just ended.")
        await asyncio.wrap_future(life.relay.detach())
        life.running = None
        if look.kept.how == "in-place":
            self.away = running
        else:
            await life.engine.stop(life.kernel_id)
        life.update(
            state=State.RELEASED,
            share=None,
            used_bytes=None,
            utilization=None,
            idle_since=None,
            next=None,
            reason=reason,
        )
        self.guard()
        life.ladder.released()

    def guard(self) -> None:
        """Notice the end of a process that lives on without its share."""
        if self.away is not None:
            self._life.task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        life = self._life
        ended = await life.engine.wait(life.kernel_id)
        with life.uninterrupted():
            self.away = None
            await life.gone(ended)

    # -- and back ----------------------------------------------------------------------------

    async def come_back(self, report: Report) -> Running:
        """Take the share back for the process that lives on without it.

        However it ends other than by returning, the process is as it was, and holds no share.
        """
        life, away = self._life, self.away
        assert away is not None
        share = await life.engine.take_back(life.kernel_id, report)
        # From here on it is a moment, and cut short it would be neither here nor there.
        with life.uninterrupted():
            asked = False
            try:
                await life.meet(away, paused=True)
                asked = True
                await life.keeper.resume()
                await asyncio.wrap_future(life.relay.resume())
            except BaseException:
                await self._stay_away(asked=asked)
                raise
        self.away = None
        return replace(away, share=share)

    async def _stay_away(self, *, asked: bool) -> None:
        """Undo the way back of a process, which may have been ``asked`` to move already."""
        life = self._life
        try:
            if asked:
                await life.keeper.vacate()
        except GpuShareError as error:
            # It may be on the GPU, and cannot be moved: others must not get what it has there.
            _log.error("Kernel %s is ended: %s", life.kernel_id, error)
            await asyncio.wrap_future(life.relay.detach())
            await life.engine.signal(life.kernel_id, signal.SIGKILL)
            await life.engine.wait(life.kernel_id)
        else:
            await asyncio.wrap_future(life.relay.detach())
        await life.engine.give_back(life.kernel_id)

    async def attach(self, running: Running, *, restore: bool) -> None:
        """Put a new process behind the relay, with the variables that were kept for it."""
        life = self._life
        if running.away:
            await life.meet(running, paused=True)
            await life.keeper.resume()
            await asyncio.wrap_future(life.relay.resume())
            return
        if not (restore and await in_thread(lambda: life.keeper.has_snapshot)):
            await life.meet(running, paused=False)
            return
        await life.meet(running, paused=True)
        try:
            line = await life.keeper.load()
        except GpuShareError as error:
            raise KernelStartError(
                f"The variables could not be given back to the kernel: {error} They are still "
                "kept; run a cell to try again, or restart the kernel to go on without them."
            ) from error
        # Once cells reach it, the variables are there, and nowhere else.
        with life.uninterrupted():
            await asyncio.wrap_future(life.relay.resume(line))
            await in_thread(life.keeper.discard)


def refusal(what: str, look: Look, allow: str) -> str:
    """Why something is not done: what would be lost, and how to allow that."""
    lost = ", ".join(look.kept.lost)
    why = f" {look.why}" if look.why else ""
    return (
        f"{what} now would lose {lost}; nothing was changed.{why} "
        f"Save what you need, then allow the loss ({allow})."
    )
