"""Idle shares of all users of a cluster are asked back for those who wait, and taken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta

from ..._threads import in_thread, within
from ...engines.base import Snapshot
from ...engines.idle_shares import IdleShare
from ...errors import GpuShareError
from ..claim import Claim
from ..idle import Promise
from ..reclaims import Answer
from .names import key_of, prefix_of
from .rules import Rules
from .ruling import Key
from .seeing import Kernels

__all__ = ["Reclaims"]

_log = logging.getLogger(__name__)

#: Seconds between two looks while somebody waits, and while nobody does.
_AGAIN, _QUIET = 2.0, 10.0
#: For so long one who waits may just be on the way to a place that is free.
_SETTLED = timedelta(seconds=2)
#: What was decided so short a time ago need not be decided again for each server that speaks.
_FRESH = timedelta(seconds=1)
#: Seconds between two writes of the account.
_SAVE = 60.0
#: Seconds for the cluster to take note of a promise: who is to be told waits for that.
_WRITING = 2.0


_Moments = tuple[datetime, datetime]


class Reclaims:
    """Hears of idle shares, and decides which go. Its coroutines are for one event loop."""

    def __init__(self, rules: Rules, kernels: Kernels) -> None:
        self._rules = rules
        self._kernels = kernels
        self._deciding = asyncio.Lock()
        self._wake = asyncio.Event()
        #: What the cluster knows of promises: since when, and until when.
        self._written: dict[str, _Moments] = {}
        #: When it was last decided, and whether anybody waited then.
        self._decided: datetime | None = None
        self._waits = False
        rules.changed = self._wake.set

    def begin(self) -> None:
        """What an earlier broker has promised was told of: it is what is written."""
        rules = self._rules
        self._written = _moments(rules.idle.earlier(rules.clock()))

    async def hear(
        self, user: str, server: str, instance: str, said: Mapping[str, IdleShare]
    ) -> Answer:
        """Take a server's word, and tell which of its idle shares are asked back.

        Parameters
        ----------
        user, server: as they are proven.
        instance: the process of the server that speaks.
        said: of all idle kernels of that process, by id.
        """
        rules = self._rules
        names = {Key(user, server, kernel_id).text: kernel_id for kernel_id in said}
        words = {
            name: said[kernel_id]
            for name, kernel_id in names.items()
            if self._held(name) is not None
        }
        rules.idle.hear(prefix_of(user, server), instance, words, rules.clock())
        rules.count_idle()
        if self._decided is None or rules.clock() - self._decided >= _FRESH:
            try:
                await self.decide()
            except GpuShareError as error:  # the word was heard all the same
                _log.info("It is not known whose idle share would help: %s", error)
        else:
            self._wake.set()  # hundreds of servers speak
        promises, waits = rules.idle.promises, self._waits
        by_hand = rules.orders.asked(words)
        now = rules.clock()
        wanted = {
            names[name]: max((promises[name].due - now) / timedelta(seconds=1), 0.0)
            if name in promises
            else None
            for name in words
            if name in promises or name in by_hand
        }
        taken = [names[name] for name in names if self._taken(name, said[names[name]])]
        return Answer(wanted, taken, waits or bool(by_hand))

    def _held(self, name: str) -> Claim | None:
        claim = self._rules.holdings.known.get(name)
        return claim if claim is not None and claim.held_since is not None else None

    def _taken(self, name: str, word: IdleShare) -> bool:
        """Whether a kernel has lost what its server believes. What is not known yet is not lost."""
        claim = self._rules.holdings.known.get(name)
        if word.size is None or claim is None:
            return False
        return claim.lent or (claim.held_since is not None and claim.size != word.size)

    async def decide(self) -> None:
        """Have the promises be those which are needed now.

        Raises
        ------
        GpuShareError: the cluster cannot be read; what was promised holds.
        """
        rules = self._rules
        async with self._deciding:
            now = rules.clock()
            waiting = [
                turn.claim
                for turn in rules.turns.in_line()
                if turn.claim.gpus and now - turn.claim.asked_at >= _SETTLED
            ]
            idle = rules.idle.since(now)
            ordered = rules.orders.asked(idle)
            snapshot: Snapshot | None = None
            if waiting and idle:
                snapshot = await rules.sight.snapshot(waiting)
            claims = [claim for name in idle if (claim := self._held(name)) is not None]
            limits, spent = rules.settings.limits, frozenset[str]()
            if limits is not None and claims and (snapshot is not None or ordered):
                spent = limits.spent_of(claims, rules.holdings, now)

            def decided() -> Mapping[str, Promise]:
                return rules.idle.decide(snapshot, claims, now, spent=spent, ordered=ordered)

            rules.idle.promise(await in_thread(decided))
            self._decided, self._waits = now, bool(waiting)
            await self._write(now)

    async def _write(self, now: datetime) -> None:
        """Have the cluster know what is promised, before anybody is told: it outlives the broker.

        That costs one write for each promise, and one for its end. What is not written now is
        written with the next decision.
        """
        idle = self._rules.idle
        wanted = _moments({**idle.earlier(now), **idle.promises})
        names = [
            name
            for name in wanted.keys() | self._written.keys()
            if wanted.get(name) != self._written.get(name)
        ]

        async def write(name: str) -> None:
            promise = Promise(*wanted[name]) if name in wanted else None
            try:
                await within(_WRITING, self._kernels.remember(key_of(name), promise))
            except (GpuShareError, asyncio.TimeoutError) as error:
                _log.info("A promise could not be written: %s", str(error) or "no answer in time")
                return
            if promise is None:
                self._written.pop(name, None)
            else:
                self._written[name] = wanted[name]

        await asyncio.gather(*(write(name) for name in names))

    async def take(self) -> None:
        """Take the shares whose servers have not given them back.

        Raises
        ------
        GpuShareError: the cluster cannot be read.
        """
        rules = self._rules
        if not rules.idle.overdue(rules.clock()):
            return
        await self.decide()  # what nobody needs any more is not taken
        for name in sorted(rules.idle.overdue(rules.clock())):
            if self._held(name) is None or name not in rules.idle.overdue(rules.clock()):
                continue  # it has gone meanwhile, or is used again
            key = key_of(name)
            try:
                await self._kernels.give_back(key)
            except GpuShareError as error:
                _log.warning("Kernel %s of %s keeps its share: %s", key.kernel_id, key.user, error)
            else:
                _log.warning(
                    "Kernel %s of %s did not give its share back in time; it was taken",
                    key.kernel_id,
                    key.user,
                )
            rules.idle.tried(name)

    async def follow(self) -> None:
        """Ask back and take what is idle, and save the account, until it is cancelled."""
        loop = asyncio.get_running_loop()
        saved = loop.time()
        while True:
            timer = loop.call_later(_AGAIN if self._waits else _QUIET, self._wake.set)
            try:
                # Not by wait_for: before Python 3.12 a cancel that meets a wake was lost in it.
                await self._wake.wait()
            finally:
                timer.cancel()
            self._wake.clear()
            self._rules.count_idle()
            try:
                await self.decide()
                await self.take()
            except GpuShareError as error:
                _log.warning("It is not known whose idle share would help: %s", error)
            if loop.time() - saved >= _SAVE:
                await self._rules.save()
                saved = loop.time()
            await asyncio.sleep(_AGAIN)  # changes come by the hundred


def _moments(promises: Mapping[str, Promise]) -> dict[str, _Moments]:
    return {name: (each.asked, each.due) for name, each in promises.items()}
