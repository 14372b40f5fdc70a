"""How kernels of this process wait for their turn: one task looks at the ledger for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..._threads import stopped
from ...allocations import QueuePosition
from ...errors import EngineError, GpuShareError
from ..base import Report, Waiting
from ._contents import Claim
from ._ledger import claim_is_gone
from ._shares import AtLedger, Shares

__all__ = ["Watcher"]

#: Seconds between two looks for the dead. A process that is killed writes nothing to the ledger.
_SWEEP_INTERVAL = 1.0


class Watcher:
    """Watches the ledger while kernels of this process wait. All methods are for one event loop.

    While nothing changes, nothing is written: a look asks whether another process wrote and, at a
    slower pace, whether one that has a claim is gone.

    Parameters
    ----------
    at_ledger: does work in the ledger's thread.
    interval: seconds between two looks, asked before each.
    """

    def __init__(self, at_ledger: AtLedger, interval: Callable[[], float]) -> None:
        self._at_ledger = at_ledger
        self._interval = interval
        self._waiters: set[_Waiter] = set()
        self._task: asyncio.Task[None] | None = None
        #: Something was written here, which the ledger does not tell its writer.
        self._changed_here = False
        self._wake = asyncio.Event()

    async def wait(self, claim: Claim, report: Report) -> Claim:
        """The claim once it is held. ``report`` is called with each place and reason that is new.

        Raises
        ------
        LedgerError: the ledger cannot be read or written, or the claim was removed from it.
        EngineError: the engine is closed.
        """
        if claim.pieces:
            return claim
        waiter = _Waiter(claim)
        self._waiters.add(waiter)
        # The claim may have been granted since it was made, and others stand before one more now.
        # That is found with the next look: kernels that come at once are told once.
        self._changed_here = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="watch the ledger")
        try:
            told: Waiting | None = None
            while not claim.pieces:
                news = Waiting(QueuePosition(claim.position, claim.of), claim.reason)
                if news != told:
                    told = news
                    report(news)
                claim = await waiter.next()
            return claim
        finally:
            self._waiters.discard(waiter)
            if not self._waiters:
                self._wake.set()  # the task ends

    def look(self) -> None:
        """Look at once: this process has changed the ledger."""
        self._changed_here = True
        self._wake.set()

    async def close(self) -> list[str]:
        """End the task, and the waiting of everybody; ids of those that waited."""
        waited = [waiter.kernel_id for waiter in self._waiters]
        await stopped(self._task)
        self._fail(_closed())
        return waited

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        sweep_at = 0.0
        try:
            while self._waiters:
                changed, self._changed_here = self._changed_here, False
                sweep = loop.time() >= sweep_at
                if sweep:
                    sweep_at = loop.time() + _SWEEP_INTERVAL
                try:
                    await self._look(changed=changed, sweep=sweep)
                except Exception as error:
                    self._fail(error)
                await self._pause(loop)
        finally:
            self._fail(_closed())  # nobody is left to wait for ever, however this ends

    async def _look(self, *, changed: bool, sweep: bool) -> None:
        waiters = set(self._waiters)
        kernel_ids = {waiter.kernel_id for waiter in waiters}

        def work(ledger: Shares) -> dict[str, Claim] | None:
            # Asked first, and always: what comes after this is news for the next look.
            written = ledger.changed()
            if changed or written or (sweep and ledger.has_dead()):
                return ledger.turns(kernel_ids)
            return None

        claims = await self._at_ledger(work)
        if claims is None:
            return
        for waiter in waiters:
            waiter.put(claims.get(waiter.kernel_id))

    async def _pause(self, loop: asyncio.AbstractEventLoop) -> None:
        timer = loop.call_later(self._interval(), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    def _fail(self, error: Exception) -> None:
        for waiter in self._waiters:
            waiter.fail(error)


class _Waiter:
    """One that waits: what is known of its claim, and whether that is news to it."""

    def __init__(self, claim: Claim) -> None:
        self.kernel_id = claim.kernel_id
        self._claim = claim
        self._error: Exception | None = None
        self._news = asyncio.Event()

    def put(self, claim: Claim | None) -> None:
        """What the ledger says; None where the claim is gone."""
        if claim is None:
            self.fail(claim_is_gone())
        elif _standing(claim) != _standing(self._claim):
            self._claim = claim
            self._news.set()

    def fail(self, error: Exception) -> None:
        """End the waiting with an error, which may be that of others too."""
        self._error = self._error or error
        self._news.set()

    async def next(self) -> Claim:
        """The claim, once it stands otherwise than before."""
        await self._news.wait()
        self._news.clear()
        if self._error is None:
            return self._claim
        if isinstance(self._error, GpuShareError):
            # One object for each that raises it: raising adds to its traceback.
            raise type(self._error)(*self._error.args) from self._error
        raise self._error


def _closed() -> EngineError:
    return EngineError("The engine is closed; kernels wait no longer.")


def _standing(claim: Claim) -> tuple[object, ...]:
    return claim.pieces, claim.position, claim.of, claim.reason
