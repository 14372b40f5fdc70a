"""How a kernel gets another size, in the way that leaves most as it is.

* While it waits or has given its share back, the next share has the size.
* Live: the process goes on, with other limits, on the GPU that it has.
* By a new process, to which the variables are given.

What is left over is a restart, which is not done here.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ._threads import in_thread
from .allocations import Kept, State
from .engines.base import Change
from .errors import GpuShareError, NotPossible
from .keeping import Look
from .parting import refusal
from .size import Size, format_bytes

if TYPE_CHECKING:
    from .lifecycle import KernelLife

__all__ = ["Resizing"]

#: Seconds that a change is waited for by whoever asked for it.
_PATIENCE = 10.0
#: Without a share, and with a claim to one.
_WITHOUT = (State.QUEUED, State.WAKING, State.RELEASED)


class Resizing:
    """Changes the size of one kernel. Lives on the runtime's loop."""

    def __init__(self, life: KernelLife) -> None:
        self._life = life

    async def kept(self, size: Size) -> Kept:
        """What a change would keep, without doing it.

        Raises
        ------
        NotPossible: a cell runs, or the kernel uses more than the size has.
        GpuShareError: the size cannot be had.
        """
        life = self._life
        if life.state in _WITHOUT:
            if life.parting.away is not None:
                return Kept() if await self._later(size) is None else Kept("in-place", ())
            await life.engine.rounding(size)
            saved = await in_thread(lambda: life.keeper.has_snapshot)
            return Kept("snapshot" if saved else "none", ())
        if not life.answers:
            return Kept()
        async with life.parting.turn, life.parting.paused():
            _, look = await self._way(size)
            return look.kept

    async def change(self, size: Size, *, lose_variables: bool) -> bool:
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
        life = self._life
        await life.calm.wait()
        if life.state in _WITHOUT and life.exit_code is None:
            async with life.parting.turn:
                return await self._change_next(size, lose_variables=lose_variables)
        if life.running is None or (life.busy and lose_variables):
            return False
        await life.to_the_end(self._change(size, lose_variables=lose_variables))
        return True

    # -- while it has no share ---------------------------------------------------------------

    async def _change_next(self, size: Size, *, lose_variables: bool) -> bool:
        """Have the next share be of another size. A place in the queue is given up for it."""
        life = self._life
        away = life.parting.away is not None
        if not away:
            await life.engine.rounding(size)
        elif await self._later(size) is None:
            if lose_variables:
                return False
            raise NotPossible(
                f"The kernel lives on, and its variables with it; it cannot come back with {size}. "
                "Run a cell first, then change the size."
            )
        await life.calm.wait()
        waiting = life.state
        if waiting not in _WITHOUT or waiting is None:
            raise NotPossible("The kernel has got its share just now; try again.")
        if waiting is not State.RELEASED:
            await life.abandon()
        try:
            # Nobody takes the share meanwhile: it would be half of the one, half of the other.
            with life.uninterrupted():
                if away:
                    await life.engine.change(life.kernel_id, size)
                life.resized(size)
            await self._renote()
        finally:
            if waiting is not State.RELEASED and life.state is waiting and life.exit_code is None:
                life.begin(waiting)
            elif life.relay.held:
                life.wake_if_released()
        return True

    async def _later(self, size: Size) -> Change | None:
        """The change for a process that lives on without its share; None: it cannot have that."""
        life = self._life
        change = await life.engine.plan_change(life.kernel_id, size)
        if change is not None and life.keeper.moved > change.share.memory_bytes:
            raise NotPossible(_too_much(life.keeper.moved, size, change))
        return change

    # -- while it has one --------------------------------------------------------------------

    async def _change(self, size: Size, *, lose_variables: bool) -> None:
        life = self._life
        async with life.parting.turn:
            if not life.answers:
                raise NotPossible("The share was given back just now; run a cell and try again.")
            async with life.parting.paused():
                change, why = await self._live(size)
                if change is not None and change.beside and not why:
                    with life.uninterrupted():
                        await self._swap(size, change)
                    return
            async with life.parting.held_back():
                change, look = await self._way(size)
                if look.kept.lost and not lose_variables:
                    raise NotPossible(refusal(f"Changing the size to {size}", look, "restart"))
                await life.parting.part(look)
            refused: GpuShareError | None = None
            with life.uninterrupted():
                try:
                    if change is not None:
                        await life.engine.change(life.kernel_id, size)
                    life.resized(size)
                except GpuShareError as error:
                    refused = error  # it comes back as it was
            await self._renote()
        answered = life.wake_if_released("the size was changed" if refused is None else "")
        if answered is not None:
            # Whoever asked sees what came of it, unless it takes long.
            await asyncio.wait({answered}, timeout=_PATIENCE)
        if refused is not None:
            raise _refused(size, refused) from refused

    async def _renote(self) -> None:
        """Where variables are saved, have a next server know of the size."""
        if self._life.parting.away is None and self._life.note is not None:
            await self._life.keeper.renote(self._life.note)

    async def _live(self, size: Size) -> tuple[Change | None, str]:
        """The change for a paused kernel on the GPU that it has, and why its process forbids it.

        Raises
        ------
        NotPossible: the kernel uses more than the size has.
        """
        life = self._life
        change = await life.engine.plan_change(life.kernel_id, size)
        if change is None:
            return None, ""
        used, why = await life.keeper.limits()
        if used is not None and used > change.share.memory_bytes:
            raise NotPossible(_too_much(used, size, change))
        return change, why

    async def _way(self, size: Size) -> tuple[Change | None, Look]:
        """How a paused kernel gets another size, and what that keeps.

        The change is None where it has to be another process.

        Raises
        ------
        NotPossible: the kernel uses more than the size has.
        """
        life = self._life
        change, why = await self._live(size)
        if change is None or why:
            look = await life.keeper.look(ends=True)
            return None, replace(look, why=f"{why} {look.why}".strip())
        if change.beside:
            return change, Look(kept=Kept("in-place", ()))
        look = await life.keeper.look()
        return (change if look.kept.how == "in-place" else None), look

    async def _swap(self, size: Size, change: Change) -> None:
        """Hold the other size at once, with the kernel never allowed more than is held."""
        life = self._life
        running = life.running
        assert running is not None
        assert life.request is not None
        before, old = life.request.size, await life.engine.limits(life.kernel_id)
        shrinks = change.share.memory_bytes < running.share.memory_bytes
        try:
            if shrinks:
                await life.keeper.limit(change.limits)
            share = await life.engine.change(life.kernel_id, size)
        except BaseException as error:
            if shrinks:
                with suppress(GpuShareError):
                    await asyncio.shield(life.keeper.limit(old))
            raise _refused(size, error) from error
        if not shrinks:
            try:
                await life.keeper.limit(change.limits)
            except BaseException as error:
                with suppress(GpuShareError):  # it may have been told, and not have answered
                    await asyncio.shield(life.keeper.limit(old))
                with suppress(GpuShareError):
                    await asyncio.shield(life.engine.change(life.kernel_id, before))
                raise _refused(size, error) from error
        if life.running is running:  # else it has ended meanwhile
            life.running = replace(running, share=share)
        life.resized(size)
        life.update(share=share)


def _refused(size: Size, error: BaseException) -> BaseException:
    if not isinstance(error, GpuShareError):
        return error
    return NotPossible(f"The size could not become {size}: {error}")


def _too_much(used: int, size: Size, change: Change) -> str:
    return (
        f"The kernel uses {format_bytes(used)} of its GPU, which is more than {size} has "
        f"({format_bytes(change.share.memory_bytes)}). Free some of it, then try again."
    )
