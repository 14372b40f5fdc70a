"""Idle shares of all users are asked back for those who wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from .._threads import in_thread
from ..engines._processes import Holder, carriers
from ..engines.idle_shares import IdleShare
from ..engines.local._contents import Claim
from ..size import Size
from .identity import Account
from .idle import Promise
from .names import key_of
from .store import Store
from .taking import left_of

__all__ = ["Answer", "InUse", "Reclaims"]

_log = logging.getLogger(__name__)


class InUse(Protocol):
    """Tells what processes use of GPUs."""

    async def __call__(self, roots: Collection[int]) -> Mapping[str, int] | None: ...


@dataclass(frozen=True)
class Answer:
    """What a server hears of its idle kernels, by the ids that their user knows.

    Attributes
    ----------
    wanted: seconds until each share is due that is asked back; None: by its server's own rule.
    taken: kernels that do not hold what their server believes.
    waiting: whether it is asked again soon, as somebody waits.
    """

    wanted: Mapping[str, float | None]
    taken: Sequence[str]
    waiting: bool


class Reclaims:
    """Hears of idle shares, and decides which go. Its coroutines are for one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._deciding = asyncio.Lock()
        self._kept: Mapping[str, tuple[IdleShare, Promise | None]] = {}

    async def hear(self, account: Account, server: Holder, said: Mapping[str, IdleShare]) -> Answer:
        """Take a server's word, and tell which of its idle shares are asked back.

        All users' idle kernels stand in one order, so that no more shares go than it takes,
        whoever speaks first.

        Parameters
        ----------
        said: of all idle kernels of the server, by id.

        Raises
        ------
        LedgerError
        """
        store = self._store
        names = {key_of(account.uid, kernel_id): kernel_id for kernel_id in said}
        words = {
            name: said[kernel_id]
            for name, kernel_id in names.items()
            if store.held(name) is not None
        }
        store.idle.hear(key_of(account.uid, ""), server, words, store.clock())
        promises, waits = await self.decide()
        by_hand = store.orders.asked(words)
        wanted = {
            names[name]: max((promises[name].due - store.clock()) / timedelta(seconds=1), 0.0)
            if name in promises
            else None
            for name in words
            if name in promises or name in by_hand
        }
        taken = [names[name] for name in names if not self._holds(name, said[names[name]].size)]
        return Answer(wanted, taken, waits or bool(by_hand))

    def _holds(self, name: str, size: Size | None) -> bool:
        claim = self._store.held(name)
        return size is None or (claim is not None and claim.size == size)

    async def take(self, use: InUse) -> None:
        """Take the shares whose servers have not given them back, but for what is in use of them.

        Parameters
        ----------
        use: bytes by uuid that some processes use with all that belong to them; None where that is
            not known for certain, and then nothing is taken.

        Raises
        ------
        GpuShareError
        """
        store = self._store
        if not store.idle.overdue(store.clock()):
            return
        await self.decide()  # what nobody needs any more is not taken
        for name in sorted(store.idle.overdue(store.clock())):
            claim = store.held(name)
            used = None
            if claim is not None and (processes := await in_thread(_processes_of, claim)):
                used = await use(processes)
            # Its server may have said meanwhile that it is used again.
            if claim is None or name not in store.idle.overdue(store.clock()):
                continue
            left = left_of(claim, used)
            if left is None:
                _log.warning("Kernel %s keeps its share, all of which may be in use", name)
            elif await store.take(claim, left):
                _log.warning(
                    "Kernel %s did not give its share of %s back in time; %s is left to it",
                    name,
                    claim.size,
                    "nothing" if left.is_none else left,
                )
            store.idle.tried(name)

    async def decide(self) -> tuple[Mapping[str, Promise], bool]:
        """Which shares are asked back now, and whether anybody waits."""
        store = self._store
        async with self._deciding:
            snapshot, claims, spent = await store.look(store.idle_claims)
            now = store.clock()
            ordered = store.orders.asked(store.idle.since(now))

            def decide() -> Mapping[str, Promise]:
                return store.idle.decide(snapshot, claims, now, spent=spent, ordered=ordered)

            store.idle.promise(await in_thread(decide))
            rows = store.idle.rows()
            if rows != self._kept:
                await store.look(lambda ledger: ledger.keep_idle(rows))
                self._kept = rows
            return store.idle.promises, snapshot is not None


def _processes_of(claim: Claim) -> set[int]:
    """The kernel's, and those that it has left behind; none where it is not known which it is."""
    if claim.kernel is None or not claim.kernel.alive:
        return set()
    return {claim.kernel.pid, *carriers(claim.token)}
