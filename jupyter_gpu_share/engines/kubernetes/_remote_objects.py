"""What one kernel has in a cluster on which this process has no rights: the broker keeps it.

Each wait is until the kernel's row says so, whatever was told on the way. Each request may be done
twice. What was asked is asked again until the broker has answered; where it knows nothing of it any
more, it is asked for anew.
"""

from __future__ import annotations

import asyncio
import logging
import signal as signals
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

from ..._threads import stopped, to_the_end, within
from ...allocations import QueuePosition, Share
from ...broker.client import BrokerAway, BrokerRefused
from ...broker.http_client import pauses, share_path
from ...errors import EngineError, KernelStartError
from ...sentences import say, words_of
from ...size import Size
from ..base import Connection, Exit, Removal, Report, Waiting
from ._answers import NO_SUCH, Once, change_of, check, keys_of, progress_of, text_of, unless_gone
from ._link import Owned
from ._objects import Keys
from ._remote_row import RemoteRow
from ._row import Row
from ._writes import PATIENCE

__all__ = ["RemoteObjects"]

_log = logging.getLogger(__name__)

#: Seconds that the row may take to follow an answer, until it is asked again.
_FOLLOWS = 15.0
#: Seconds in which a change of size is asked for again, before it is turned back.
_CHANGES = 20.0
_CONFLICT = 409
_NOT_DETACHABLE = say("part-of-its-pod")


class RemoteObjects(RemoteRow):
    """See :class:`~._objects.Objects`. Belongs to the event loop that it is used on.

    Parameters
    ----------
    plan: with the keys for the Secret, for a kernel that starts.
    """

    # -- asking --------------------------------------------------------------------------------

    def _path(self, rest: str = "") -> str:
        return share_path(self.kernel_id, rest)

    async def _ask(self, method: str, rest: str, body: dict[str, Any] | None = None) -> Any:
        return await self._broker.ask(method, self._path(rest), body)

    def _post(self, rest: str, **fields: Any) -> Callable[[], Awaitable[None]]:
        """A request about this attempt, to be sent until it is answered."""

        async def write() -> None:
            await self._ask("POST", rest, {"attempt": self.attempt, **fields})

        return write

    async def _answer(self, ask: Callable[[], Awaitable[Any]], report: Report) -> Any:
        """Ask until the broker answers. Whoever waits is told why it takes that long.

        A request that was sent is waited for though the caller leaves: what is asked next comes
        after it.

        Raises
        ------
        BrokerRefused
        """
        pause = pauses()
        while True:
            heard = self._heard
            try:
                return await self._writes.once(ask)
            except BrokerAway as error:
                report(Waiting(QueuePosition(1, 1), words_of(error)))
            with suppress(asyncio.TimeoutError):  # it is back when it tells of the kernel
                await within(pause(), heard.wait())

    # -- start ---------------------------------------------------------------------------------

    async def start(self, report: Report) -> Connection:
        """See :meth:`Objects.start <._objects.Objects.start>`."""
        keys = self._plan.keys
        assert keys is not None
        self.made = self._starts = True
        self._followed.add(self)
        tell = Once(report)
        try:
            row = await self._started(keys, tell)
        finally:
            self._starts = False
        self._plan = replace(self._plan, keys=None)
        self._up = True
        self._note_end(row)
        return keys.connection(row.address)

    async def _started(self, keys: Keys, report: Report) -> Row:
        """Ask for the kernel until it is known to run, or why it cannot."""
        await self._requested(keys, report)
        while True:
            row, news = self._row, self._news
            if self._missing or row is None:
                # The same attempt: it may be on its way, and is not to be there twice.
                await self._requested(keys, report)
                continue
            if row.failed is not None and row.failed.kind == "keys":
                # Of a broker that has begun anew: it has no keys for what was half done.
                self.attempt = uuid4().hex
                await self._requested(keys, report)
                continue
            check(row)
            if row.state == "ready" and row.address and row.share is not None:
                return row
            report(progress_of(row))
            await news.wait()

    async def _requested(self, keys: Keys, report: Report) -> None:
        plan, attempt = self._plan, self.attempt
        body: dict[str, Any] = {
            "attempt": attempt,
            "size": str(plan.size),
            "info": {"kernel_name": plan.kernel_name, "path": plan.path},
            "pod": {
                "language": plan.language,
                "flags": list(plan.flags),
                "hash_seed": plan.hash_seed,
                "keys": {
                    "key": text_of(keys.key),
                    "signature_scheme": keys.signature_scheme,
                    "curve_publickey": keys.curve_publickey,
                    "curve_secretkey": keys.curve_secretkey,
                },
            },
        }
        if self._number is not None:
            body["number"] = self._number  # it stays the same however often it is asked
        answer = await self._answer(lambda: self._ask("PUT", "", body), report)
        self._missing = False
        self._follow(answer)

    def _follow(self, answer: Any) -> None:
        """Begin with the row of an answer, until one is told."""
        row = self._followed.answered(Row.read(answer))
        if self._row is None or self._row.attempt != self.attempt:
            self.told(row, anew=False)

    async def adopt(self, before: str, report: Report) -> Connection:
        """See :meth:`Objects.adopt <._objects.Objects.adopt>`."""
        self.made = self._starts = True
        self._followed.add(self)
        tell = Once(report)
        body = {"attempt": self.attempt, "before": before}
        try:
            try:
                answer = await self._answer(lambda: self._ask("POST", "/adopt", body), tell)
            except BrokerRefused as error:
                if error.status in (NO_SUCH, _CONFLICT):
                    self.made = False  # another has it, or it is gone
                    self._followed.remove(self)
                    raise Owned(words_of(error)) from error
                raise
            self._follow(answer)
            told = await self._answer(lambda: self._ask("GET", "/connection"), tell)
            keys = keys_of(told)
            address = await self._until(self._address)
        finally:
            self._starts = False
        assert self._row is not None
        self._up = True
        self._note_end(self._row)
        return keys.connection(address)

    def _address(self) -> str | None:
        assert self._row is not None
        check(self._row)
        return self._row.address or None

    async def settle(self, report: Report) -> None:
        """See :meth:`Objects.settle <._objects.Objects.settle>`."""
        await self._held("/settle", Once(report))

    async def _held(self, rest: str, report: Report) -> Row:
        """Ask for the share, and wait until it is held, as long as that takes."""
        ask, before = True, self._row
        while True:
            if ask:
                ask, before = False, self._row
                await self._answer(self._post(rest), report)
            row, news = self._row, self._news
            assert row is not None
            if self._ended.done():
                raise KernelStartError(self._ended.result().reason)
            if row is not before:  # that may tell of an earlier try
                check(row)
                if row.state == "released":
                    # Who waits is forgotten by a broker that has begun anew, and where nothing was
                    # heard of this process for a while.
                    ask = True
                    continue
            if row.state == "ready" and row.share is not None:
                return row
            report(progress_of(row))
            await news.wait()

    @property
    def _state(self) -> str:
        return self._row.state if self._row is not None else ""

    # -- the share of a living kernel ------------------------------------------------------------

    async def give_back(self) -> None:
        """See :meth:`Objects.give_back <._objects.Objects.give_back>`."""
        if not self.detachable:
            raise EngineError(_NOT_DETACHABLE)
        before, self._lent = self._lent, True
        try:
            await self._writes.insist(self._release, refusable=True)
        except EngineError:
            self._lent = before
            raise

    async def _release(self) -> None:
        if self._ended.done():
            return  # there is nothing to give back any more
        await self._post("/release")()
        await self._shows(lambda: self._state in ("released", "taking"))

    async def take_back(self, report: Report) -> Share:
        """See :meth:`Objects.take_back <._objects.Objects.take_back>`."""
        if not self.detachable:
            raise EngineError(_NOT_DETACHABLE)
        tell = Once(report)
        if self._writes.pending:
            tell(Waiting(QueuePosition(1, 1), say("outcome-unknown")))
            await self._writes.settled()
        try:
            row = await self._held("/take", tell)
        except BaseException:
            await to_the_end(self.withdraw())
            raise
        self._lent = False
        assert row.share is not None
        return row.share

    async def withdraw(self) -> None:
        """See :meth:`Objects.withdraw <._objects.Objects.withdraw>`."""
        self._lent = True
        await self._writes.insist(self._give_up)

    async def _give_up(self) -> None:
        with unless_gone():
            told = Row.read(await self._ask("POST", "/withdraw", {"attempt": self.attempt}))
            if told.state == "ready":  # it was had at that moment
                await self._post("/release")()
            await self._shows(lambda: self._state == "released")

    async def _shows(self, holds: Callable[[], bool]) -> None:
        """Wait until the row follows what was answered, or the kernel has ended.

        Raises
        ------
        BrokerAway: it does not soon. Ask again.
        """

        def look() -> bool | None:
            return holds() or self._ended.done() or None

        try:
            await within(_FOLLOWS, self._until(look))
        except asyncio.TimeoutError as error:
            raise BrokerAway(
                "The broker of this cluster has not told what became of the share; it is asked "
                "again."
            ) from error

    async def planned(self, size: Size) -> tuple[Share, bool] | None:
        """See :meth:`Objects.planned <._objects.Objects.planned>`."""
        if not self.detachable or not self.there:
            return None
        body = {"attempt": self.attempt, "size": str(size), "dry_run": True}
        return change_of(await self._ask("POST", "/change", body))

    async def change(self, size: Size) -> Share:
        """See :meth:`Objects.change <._objects.Objects.change>`."""
        if not await self._writes.settled(PATIENCE):
            raise EngineError(say("outcome-unknown"))
        before = self._row.size if self._row is not None else str(self._plan.size)
        body = {"attempt": self.attempt, "size": str(size), "dry_run": False}

        async def ask() -> Any:
            return await self._answer(lambda: self._ask("POST", "/change", body), lambda news: None)

        try:
            answer = await within(_CHANGES, ask())
        except BrokerRefused:
            raise
        except BaseException as error:
            # It may have been done: what was held is to be held.
            self._writes.begin(self._post_change_back(before))
            if isinstance(error, asyncio.TimeoutError):
                raise EngineError(say("outcome-unknown")) from error
            raise
        found = change_of(answer)
        if found is None:
            raise EngineError(say("no-room", size=size))
        share, _ = found
        self._plan = replace(self._plan, size=size)
        self._share = share
        if self._row is not None:  # the broker tells the same
            self._row = replace(self._row, size=str(size))
        return share

    def _post_change_back(self, size: str) -> Callable[[], Awaitable[None]]:
        async def write() -> None:
            try:
                await self._post("/change", size=size, dry_run=False)()
            except BrokerRefused as error:
                _log.error("Kernel %s may hold another size than before: %s", self.kernel_id, error)

        return write

    async def note_path(self, path: str | None) -> None:
        """See :meth:`Objects.note_path <._objects.Objects.note_path>`."""
        self._plan = replace(self._plan, path=path)
        if not self.made:
            return

        async def write() -> None:
            if self._ended.done():
                return
            # The path that counts when it is sent: another may have come since.
            await self._ask("PATCH", "", {"attempt": self.attempt, "path": self._plan.path})

        await self._writes.insist(write, refusable=True)

    # -- the end ---------------------------------------------------------------------------------

    @property
    def removal(self) -> Removal | None:
        """That somebody else ends the pod, and the time that is left."""
        told = self._row.removal if self._row is not None else None
        if told is None:
            return None
        passed = asyncio.get_running_loop().time() - self._at
        return replace(told, seconds=max(0.0, told.seconds - passed))

    async def removed(self) -> Removal:
        """See :meth:`Objects.removed <._objects.Objects.removed>`."""
        self._listeners += 1
        try:
            found: Removal = await self._until(lambda: self.removal)
        except BaseException:
            self._listeners -= 1
            raise
        return found

    def let_go(self) -> None:
        """See :meth:`Objects.let_go <._objects.Objects.let_go>`."""
        if self.removal is None or self._left:
            return
        self._left = True
        self.on_leave()
        self._begin(self._post("/let-go"))

    def leaving(self, grace: float) -> None:
        """See :meth:`Objects.leaving <._objects.Objects.leaving>`."""
        self._begin(self._post("/leaving", grace=grace))

    def _begin(self, write: Callable[[], Awaitable[None]]) -> None:
        """Tell the broker something about a pod that may be gone by then."""

        async def told() -> None:
            try:
                await write()
            except BrokerRefused as error:
                _log.debug("The broker was not told of the end of a pod: %s", error)

        self._writes.begin(told)

    async def ended(self) -> Exit:
        """See :meth:`Objects.ended <._objects.Objects.ended>`."""
        return await asyncio.shield(self._ended)

    async def delete(self) -> None:
        """See :meth:`Objects.delete <._objects.Objects.delete>`."""
        self._writes.give_up()  # what is not done yet goes with the pod
        self._end(Exit(-signals.SIGKILL, say("was-shut-down")))

        async def write() -> None:
            with unless_gone():
                await self._ask("DELETE", f"?attempt={self.attempt}")
            self.made = False
            self._followed.remove(self)
            if self._looking is not None:
                self._looking.cancel()

        if self.made:
            await self._writes.insist(write)

    async def settled(self, patience: float | None = None) -> bool:
        """See :meth:`Objects.settled <._objects.Objects.settled>`."""

        def look() -> bool | None:
            return not self.unanswered or None

        with suppress(asyncio.TimeoutError):
            return bool(await within(patience, self._until(look)))
        return False

    async def last_words(self, lines: int = 10) -> str:
        """See :meth:`Objects.last_words <._objects.Objects.last_words>`."""
        with suppress(EngineError, KeyError, TypeError):
            told = await self._ask("GET", f"/log?lines={lines}")
            return str(told["text"])
        return ""

    async def close(self) -> None:
        """See :meth:`Objects.close <._objects.Objects.close>`."""
        self._followed.remove(self)
        if self._looking is not None:
            await stopped(self._looking)
        await self._writes.close()
