"""What may be asked of one kernel. Each wish is told to its controller, and its outcome awaited."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from ..allocations import Kept
from ..engines.base import KernelRequest
from ..errors import NotPossible
from ..sentences import say
from ..size import Size
from . import _release, _resize
from ._checkpoint import Look
from ._resize import Resized
from .controller import Controller
from .facts import Event, Phase, Then

__all__ = ["Kernel"]

#: Seconds that a change of size is waited for by whoever asked for it.
_PATIENCE = 10.0


class Kernel(Controller):
    """One kernel with all that its users, Jupyter's hooks and the REST routes want of it."""

    async def launch(self, request: KernelRequest, *, patience: float) -> None:
        """Start the kernel, or start it again.

        Returns when the kernel has answered, or after ``patience`` seconds: the relay then holds
        what clients send until the kernel is there.

        Raises
        ------
        GpuShareError: it cannot start. Nothing is left but the relay.
        """
        answered = self._wish(Event.LAUNCH, request=request)
        await asyncio.wait({answered}, timeout=patience)
        if answered.done():
            await answered

    async def adopt(self, request: KernelRequest) -> None:
        """Be a kernel whose variables an earlier server has saved: its next cell starts it."""
        self.tell(Event.ADOPT, request=request)
        self.keeper.expect()

    async def wake(self) -> None:
        """Ask for a share again if it was given back. Does not wait until it is there.

        Raises
        ------
        NotPossible: the kernel has ended.
        """
        await self._wish(Event.WAKE)

    async def release(self, *, lose_variables: bool) -> None:
        """Give the share back; a queued kernel leaves the queue.

        Raises
        ------
        NotPossible: a cell runs, or variables would be lost and ``lose_variables`` is not set.
        """
        await self._wish(Event.RELEASE, lose_variables=lose_variables)

    async def change_size(self, size: Size, *, lose_variables: bool) -> bool:
        """Give the kernel another size, with its variables.

        Returns when it has it, or when a new process is on its way to it; what clients send
        meanwhile waits. False where only a restart can do it: no process is there that could keep
        any, or they may be lost and a cell runs.

        Raises
        ------
        NotPossible: a cell runs, the kernel uses more than the size has, or variables would be
            lost and ``lose_variables`` is not set.
        GpuShareError: the size cannot be had.
        """
        await self._steady()
        facts = self._facts
        if facts.phase in (Phase.WAITING, Phase.RELEASED):
            if not facts.process:
                await self.engine.rounding(size)
            elif await _resize.plan_away(self._context, size) is None:
                if lose_variables:
                    return False
                raise NotPossible(say("lives-on", size=size))
        elif facts.phase is not Phase.RUNNING or (self.busy and lose_variables):
            return False
        outcome = await self._wish(Event.RESIZE, size=size, lose_variables=lose_variables)
        if isinstance(outcome, Resized) and outcome.share is None:
            # Whoever asked sees what came of it, unless it takes long.
            if (coming := self._attend()) is not None:
                await asyncio.wait({coming}, timeout=_PATIENCE)
                if coming.done():
                    coming.result()
            if outcome.refused is not None:
                raise outcome.refused
        return True

    async def kept_by_change(self, size: Size) -> Kept:
        """What a change of size would keep, without doing it.

        Raises
        ------
        NotPossible: a cell runs, or the kernel uses more than the size has.
        GpuShareError: the size cannot be had.
        """
        await self._steady()
        facts = self._facts
        if facts.phase in (Phase.WAITING, Phase.RELEASED):
            if facts.process:
                change = await _resize.plan_away(self._context, size)
                return Kept() if change is None else Kept("in-place", ())
            await self.engine.rounding(size)
            saved = await _release.has_snapshot(self._context)
            return Kept("snapshot" if saved else "none", ())
        if facts.phase is not Phase.RUNNING:
            return Kept()
        look: Look = await self._wish(Event.LOOK, size=size)
        return look.kept

    async def kept_by_release(self) -> Kept:
        """What giving the share back would keep, without doing it.

        Raises
        ------
        NotPossible: a cell runs.
        """
        await self._steady()
        if self._facts.phase is not Phase.RUNNING:
            return self._details.kept
        look: Look = await self._wish(Event.LOOK)
        return look.kept

    async def kept(self, *, forget: bool = False) -> dict[str, Any]:
        """All that was lost, and the files of which something did not come back.

        Parameters
        ----------
        forget: those files are removed first.
        """
        if forget:
            await self.keeper.forget_aside()
        return {"kernel_id": self.kernel_id, **await self.keeper.report()}

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel. Where none is there yet, do what it means."""
        events = {
            signal.SIGINT: Event.INTERRUPT,
            signal.SIGTERM: Event.TERMINATE,
            signal.SIGKILL: Event.KILL,
        }
        event = events.get(signal.Signals(signum)) if signum in set(signal.Signals) else None
        if event is not None:
            before = set(self._owned)
            self.tell(event)
            if sent := self._owned - before:
                await asyncio.wait(sent)
        elif self._facts.phase is Phase.RUNNING:
            await self.engine.signal(self.kernel_id, signum)

    async def expect_end(self, *, restart: bool) -> None:
        """The kernel was asked to end, to be started again or for good."""
        self.tell(Event.RESTART if restart else Event.END)

    async def expect_restart(self) -> None:
        """The kernel's end is the first half of a restart: its share is kept for a while."""
        self.tell(Event.EXPECT)

    async def ended(self) -> int:
        """Wait for the kernel's end; its exit code."""
        await self._ended.wait()
        return self.exit_code or 0

    async def close(self, *, park: bool = False) -> None:
        """End the kernel, give its share back and close the relay. Idempotent.

        Parameters
        ----------
        park: what was kept while its share was given back is left for the next server.
        """
        if self._facts.phase is not Phase.CLOSED:
            await self._wish(Event.PARK if park else Event.CLOSE)
        if self._relay_closed is not None:
            await asyncio.shield(self._relay_closed)

    @property
    def leaving(self) -> bool:
        """True while it gives its share back and does not ask for another."""
        facts = self._facts
        stays = facts.cells or facts.then is Then.WAKE
        return facts.phase is Phase.RELEASING and not stays

    async def _steady(self) -> None:
        """Wait while something is under way that decides what can be wished."""
        while self._facts.phase in (Phase.SETTLING, Phase.RELEASING, Phase.RESIZING):
            attended = self._attend()
            if attended is None:
                return
            await asyncio.wait({attended})
