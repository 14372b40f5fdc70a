"""Idle shares of all users are asked back for those who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from .._threads import in_thread
from ..engines._processes import Holder
from ..engines.idle_shares import IdleShare
from .identity import Account
from .idle import Promise
from .store import Store, key_of

__all__ = ["Answer", "Reclaims"]


@dataclass(frozen=True)
class Answer:
    """What a server hears of its idle kernels, by the ids that their user knows.

    Attributes
    ----------
    wanted: seconds until each share is due that is asked back; None: by its server's own rule.
    waiting: whether it is asked again soon, as somebody waits.
    """

    wanted: Mapping[str, float | None]
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
        return Answer(wanted, waits or bool(by_hand))

    async def decide(self) -> tuple[Mapping[str, Promise], bool]:
        """Which shares are asked back now, and whether anybody waits."""
        store = self._store
        async with self._deciding:
            snapshot, claims, spent = await store.look(store.idle_claims)
            now = store.clock()
            ordered = store.orders.asked(store.idle.since(now))

            def decide() -> Mapping[str, Promise]:
                return store.idle.decide(snapshot, claims, now, spent=spent, ordered=ordered)

            promises = await in_thread(decide)
            rows = store.idle.rows()
            if rows != self._kept:
                await store.look(lambda ledger: ledger.keep_idle(rows))
                self._kept = rows
            return promises, snapshot is not None
