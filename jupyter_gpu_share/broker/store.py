"""Who holds what on this machine: the ledger that only the broker can read.

A kernel is known here by its user and by the id that the user gave it; see :mod:`.names`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any, TypeVar

from .._threads import in_thread, to_the_end
from ..engines._processes import Holder, boot_id, carriers
from ..engines.local._contents import Claim, Holding, LedgerSnapshot
from ..engines.local._gpu import Gpu
from ..engines.local._ledger import Ledger
from ..engines.local._wire import claim_to_json
from ..engines.user_limits import UserLimit
from ..errors import GpuShareError, LedgerError
from ..idle import IdlePolicy
from ..sentences import say
from ..size import Size
from . import _folder
from ._ends import kill
from .account import Figures, Subject
from .books import Books
from .claim import Claim as LimitedClaim
from .counting import Counting
from .events import Events
from .given_back import Held
from .identity import Account, Accounts
from .idle import IdleShares
from .limiting import Limiting
from .limits import Limits
from .names import kernel_of, key_of, uid_of, uid_of_claim
from .news import News
from .order import PATIENCE
from .orders import PAUSED, Orders
from .promised import promised
from .ranked import RankedLedger
from .waits import Waits

__all__ = ["NoClaim", "Refused", "Store"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Refused(GpuShareError):  # noqa: N818
    """A rule of the administrator does not allow it."""


class NoClaim(GpuShareError):  # noqa: N818
    """The user has no such claim."""


class Store:
    """All claims of the machine. Its coroutines are for one event loop.

    Parameters
    ----------
    folder: of the ledger, made open to this user only. What is in it of earlier boots is removed.
    claims_per_user: most claims of one user, those that wait among them.
    limits, accounts: the administrator's limits, and who is in which group.
    policy: the administrator's rules about idle shares.
    patience: for how long others may pass a claim for which there is no room.
    changed: called on the loop when claims have changed.
    clock: the time now, aware.

    Raises
    ------
    LedgerError: from every method, where the ledger cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        events: Events,
        *,
        claims_per_user: int = 200,
        limits: Limits | None = None,
        accounts: Accounts | None = None,
        policy: IdlePolicy | None = None,
        patience: timedelta = PATIENCE,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._folder = folder
        self._events = events
        self._claims_per_user = claims_per_user
        window = limits.longest_window if limits is not None else timedelta(0)
        #: The time now, aware.
        self.clock = clock
        self._patience = patience
        self._books = Books(folder, window, clock, most=claims_per_user, boot=boot_id())
        #: What administrators have asked for.
        self.orders = Orders(folder)
        self._accounts = accounts or Accounts()
        self._changed = changed
        # One thread: the ledger's connection belongs to it. What is checked there before a claim
        # is made still holds when it is made, as nobody else writes.
        self._desk = ThreadPoolExecutor(1, thread_name_prefix="gpu-share-broker")
        self._ledger: RankedLedger | None = None
        #: Keeps other brokers from the folder.
        self._lock: IO[bytes] | None = None
        self._saving = asyncio.Lock()
        #: All claims as they are after the last change, which only this makes; in the order of
        #: arrival. Looking them up again for each request would cost more than the request.
        self._claims: Sequence[Claim] = ()
        #: How long everybody waited since the broker began.
        self.waits = Waits()
        #: Whose shares are idle, and what was promised of them.
        self.idle = IdleShares(policy or IdlePolicy())
        self._counting = Counting(self._books, self._accounts, self.idle, clock)
        self._limiting = Limiting(limits, self._accounts, self._books, clock)
        self._news = News(events)
        #: Who holds claims: servers and kernels, for whoever watches over their ends.
        self.processes: frozenset[Holder] = frozenset()

    async def open(self) -> None:
        """Make or open the ledger. Who holds what by it holds it still."""
        await in_thread(self._open, executor=self._desk)

    def _open(self) -> None:
        name = f"shares-{boot_id()}.db"
        try:
            self._lock = _folder.take(self._folder)
            for old in self._folder.glob("shares-*.db*"):
                if not old.name.startswith(name):
                    old.unlink()  # nobody holds anything over a boot of the machine
        except OSError as error:
            raise LedgerError(
                f"The broker's folder {self._folder} cannot be used: {error.strerror}. Name "
                "another in c.Broker.folder."
            ) from error
        self._books.open()
        self.orders.open()
        self._ledger = RankedLedger(
            self._folder / name,
            user_of=lambda key: self._accounts.of(uid_of(key)).user,
            mean=self._books.mean,
            patience=self._patience,
            clock=self.clock,
        )
        servers = {claim.kernel_id: claim.holder for claim in self._ledger.claims()}
        self.idle.restore(self._ledger.idle(), servers, self.clock())

    async def close(self) -> None:
        """Let go of the ledger. What is held stays held while its holders live."""
        await in_thread(self._close, executor=self._desk)
        self._desk.shutdown(wait=False)

    def _close(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            self._save()
            ledger.close()
        if self._lock is not None:
            self._lock.close()

    def _save(self) -> None:
        try:
            self._books.save()
        except OSError as error:
            self._log_unsaved(error)

    def _log_unsaved(self, error: OSError) -> None:
        _log.error("The account cannot be saved in %s: %s", self._folder, error.strerror)

    # -- of one user ---------------------------------------------------------------------------

    async def claim(
        self,
        account: Account,
        kernel_id: str,
        size: Size,
        holder: Holder,
        info: Mapping[str, Any],
        *,
        token: str = "",
        only: Collection[str] = (),
    ) -> dict[str, Any]:
        """Ask for a share, or take its place in the queue again. Asking twice changes nothing.

        Raises
        ------
        Refused
        """
        key = key_of(account.uid, kernel_id)

        def work(ledger: Ledger) -> dict[str, Any]:
            others = len(self._of(account))
            if self._find(key) is None and others >= self._claims_per_user:
                raise Refused(say("most-kernels", count=others))
            self._check(account, key, size, ledger)
            told = _signed(info, account)
            claim = ledger.claim(key, size, holder, told, token=token, only=only)
            return {**claim_to_json(claim, kernel_id), "token": claim.token}

        return await self.at_ledger(work)

    def _check(self, account: Account, key: str, size: Size, ledger: Ledger) -> None:
        (why,) = self._why_not(account, key, [size], ledger)
        if why:
            raise Refused(why)

    def _why_not(
        self, account: Account, key: str, sizes: Sequence[Size], ledger: Ledger
    ) -> list[str | None]:
        """None: the administrator allows the size.

        Nothing comes in between this and the claim, as both are done in the one thread that writes.
        """
        if self.orders.paused and self._find(key) is None:
            return [None if size.is_none else PAUSED for size in sizes]
        return self._limiting.why_not(account, key, sizes, self._claims, ledger.gpus())

    async def change(
        self,
        account: Account,
        kernel_id: str,
        size: Size,
        info: Mapping[str, Any] | None,
        *,
        dry: bool,
    ) -> dict[str, Any] | None:
        """Hold another size on the same GPUs; None where there is no room.

        Raises
        ------
        Refused, NoClaim
        """
        key = key_of(account.uid, kernel_id)

        def work(ledger: Ledger) -> dict[str, Any] | None:
            old = self._find(key)
            if old is None or not old.held:
                raise NoClaim("The kernel holds no share.")
            self._check(account, key, size, ledger)
            told = _signed(old.info if info is None else info, account)
            claim = ledger.change(key, size, told, dry=dry)
            return claim_to_json(claim, kernel_id) if claim else None

        return await self.at_ledger(work)

    async def note(
        self,
        account: Account,
        kernel_id: str,
        *,
        process: Holder | None,
        info: Mapping[str, Any] | None,
    ) -> None:
        """Note the kernel's process, and what its user is shown of it.

        Raises
        ------
        NoClaim
        """
        key = key_of(account.uid, kernel_id)

        def work(ledger: Ledger) -> None:
            if self._find(key) is None:
                raise NoClaim("The kernel has no claim.")
            if process is not None:
                ledger.record_kernel(key, process)
            if info is not None:
                ledger.set_info(key, _signed(info, account))

        await self.at_ledger(work)

    async def release(
        self, account: Account, kernel_id: str, *, server: Holder | None = None
    ) -> bool:
        """Give a share back, or leave the queue. False where there was neither.

        Parameters
        ----------
        server: where the kernel lives on without its share, its server; it is counted then.
        """
        key = key_of(account.uid, kernel_id)

        def work(ledger: Ledger) -> bool:
            held = self._counting.held(key)
            if server is not None and held is not None:
                self._books.given_back.add(key, held, server)
            elif server is None and self._find(key) is None:
                # Who leaves the queue is again where they were before.
                self._books.given_back.remove([key])
            return ledger.release(key)

        return await self.at_ledger(work)

    async def own(self, account: Account) -> list[dict[str, Any]]:
        """The user's claims, in the order of arrival."""
        return [
            {**claim_to_json(claim, kernel_of(claim)), "token": claim.token}
            for claim in self._of(account)
        ]

    async def fits(
        self, account: Account, kernel_id: str | None, sizes: Sequence[Size]
    ) -> list[str | None]:
        """For each size None where it could be held at once, else why not."""
        key = None if kernel_id is None else key_of(account.uid, kernel_id)
        asked = key_of(account.uid, "") if key is None else key

        def work(ledger: Ledger) -> list[str | None]:
            room = ledger.fits_each(key, sizes)
            limits = self._why_not(account, asked, sizes, ledger)
            return [limit or why for limit, why in zip(limits, room, strict=True)]

        return await self.look(work)

    async def limits(self, account: Account) -> list[UserLimit]:
        """The user's limits, and how much of each is taken."""
        return await self.look(
            lambda ledger: self._limiting.of_user(account, self._claims, ledger.gpus())
        )

    async def queue(self, account: Account) -> tuple[LedgerSnapshot | None, dict[str, str]]:
        """Who waits, and the user's kernels: their ids by those in the snapshot."""
        own = {claim.kernel_id: kernel_of(claim) for claim in self._of(account)}
        return await self.look(self._snapshot_of), own

    def _snapshot_of(self, ledger: Ledger) -> LedgerSnapshot | None:
        waits = any(not claim.held for claim in self._claims)
        return ledger.snapshot() if waits else None

    # -- of idle shares ------------------------------------------------------------------------

    def held(self, name: str) -> Claim | None:
        """The claim of this name, where it holds a share."""
        claim = self._find(name)
        return claim if claim is not None and claim.held else None

    async def take(self, claim: Claim, left: Size) -> bool:
        """Leave so much of its share to a claim, and tell; False where that has changed."""
        name = claim.kernel_id

        def work(ledger: RankedLedger) -> bool:
            now = self.held(name)
            if now is None or (now.token, now.size) != (claim.token, claim.size):
                return False
            if left.is_none:
                return ledger.release(name)
            return ledger.change(name, left, now.info) is not None

        taken = await self.at_ledger(work)
        if taken:
            told = {"kernel_id": kernel_of(claim), "left": str(left)}
            self._events.publish(uid_of_claim(claim), "taken", told)
        return taken

    def idle_claims(
        self, ledger: RankedLedger
    ) -> tuple[LedgerSnapshot | None, list[LimitedClaim], frozenset[str]]:
        """Who waits, the idle claims, and the names of those whose users' hours are used up.

        For :meth:`look`.
        """
        self._counting.count(ledger, self._claims)
        now, snapshot = self.clock(), self._snapshot_of(ledger)
        idle = self.idle.since(now)
        if snapshot is None and not self.orders.asked(idle):
            return None, [], frozenset()  # as it is most of the time
        rows = [
            (row.kernel_id, row.size) for row in self._claims if row.held and row.kernel_id in idle
        ]
        limited = self._limiting.claims(rows, ledger.gpus(), now)
        claims = [replace(each, held_since=now) for each in limited]
        return snapshot, claims, self._limiting.spent(claims, now)

    # -- of the machine ------------------------------------------------------------------------

    async def gpus(self) -> tuple[list[Gpu], dict[str, Holding]]:
        """The GPUs, and what is taken of each."""
        return await self.look(lambda ledger: (ledger.gpus(), ledger.holdings()))

    async def everything(self, account: Account | None = None) -> list[dict[str, Any]]:
        """All claims of one or of all users, with since when they hold and are idle."""
        held_since = await self.look(lambda ledger: self._books.held_since())
        now = self.clock()
        idle = self.idle.since(now)
        found = []
        for claim in self._claims if account is None else self._of(account):
            since = held_since.get(claim.kernel_id)
            found.append(
                {
                    **claim_to_json(claim, kernel_of(claim)),
                    "held_since": None if since is None else since.isoformat(),
                    "idle_seconds": (now - idle[claim.kernel_id]).total_seconds()
                    if claim.kernel_id in idle
                    else None,
                    "asked_back": self.orders.is_asked(claim.kernel_id),
                    **promised(claim, self.idle, self._claims, account.uid if account else None),
                }
            )
        return found

    async def ask_back(self, uid: int, kernel_id: str) -> None:
        """Have a kernel's server give its share back by its rule, as if somebody waited for it.

        Raises
        ------
        NoClaim
        """
        key = key_of(uid, kernel_id)
        claim = self._find(key)
        if claim is None or not claim.held:
            raise NoClaim(f"User {uid} has no kernel {kernel_id} with a share.")
        self.orders.ask_back(key)
        self._events.publish(uid, "wanted", {})

    @property
    def paused(self) -> bool:
        """Whether an administrator has new shares refused."""
        return self.orders.paused

    async def pause(self, paused: bool) -> None:
        """Refuse new shares, or give them out again; kept over restarts.

        Raises
        ------
        LedgerError
        """
        await in_thread(self.orders.pause, paused, executor=self._desk)

    async def end(self, uid: int, kernel_id: str) -> None:
        """End the processes of a claim, and the claim. Its server is left alone.

        Raises
        ------
        NoClaim
        """
        key = key_of(uid, kernel_id)

        def work(ledger: Ledger) -> None:
            claim = self._find(key)
            if claim is None:
                raise NoClaim(f"User {uid} has no kernel {kernel_id} with a claim.")
            if claim.kernel is not None:
                kill(claim.kernel)
            for pid in carriers(claim.token):
                kill(Holder.of(pid))
            self._books.given_back.remove([key])
            ledger.release(key)

        await self.at_ledger(work)

    async def usage(self, account: Account | None = None) -> list[dict[str, Any]]:
        """GPU-seconds by day: of one user, or of all users and groups."""
        user = account.user if account is not None else None
        rows = await self.look(lambda ledger: self._books.later_rows(user))
        return await in_thread(rows)  # beside the desk: there may be a hundred for each user

    async def totals(self) -> dict[Subject, Figures]:
        """GPU-seconds of all users and groups, which only grow."""
        totals = await self.look(lambda ledger: self._books.later_totals())
        return await in_thread(totals)

    async def charge(self, charged: Mapping[str, Held]) -> None:
        """What is used without a share, and goes to the account, by names that no kernel has.

        It counts until the next time, or for as long as it can be true without one.
        """

        def work(ledger: Ledger) -> None:
            self._counting.charge(charged)
            self._counting.count(ledger, self._claims)

        await self.look(work)

    async def sweep(self) -> None:
        """Free what the dead held, and save the account."""

        def work(ledger: Ledger) -> Callable[[], None] | None:
            if ledger.has_dead():
                ledger.sweep()
            self._books.given_back.sweep()
            return self._books.later_save()

        async with self._saving:
            write = await self.at_ledger(work)
            # Beside the desk, at which others wait: an account of a month is of megabytes. A second
            # one is not written meanwhile.
            await to_the_end(in_thread(self._write, write))

    def _write(self, write: Callable[[], None] | None) -> None:
        try:
            if write is not None:
                write()
            self._books.note_seen()
        except OSError as error:
            self._books.unsaved()
            self._log_unsaved(error)
        except BaseException:
            self._books.unsaved()
            raise

    async def grant(self) -> None:
        """Give shares to who waits, where there is room by now."""
        await self.at_ledger(lambda ledger: ledger.turns(()))

    async def at_ledger(self, work: Callable[[RankedLedger], T]) -> T:
        """Do ``work``, which may change something, in the ledger's thread."""

        def at_desk() -> tuple[T, Sequence[Claim]]:
            ledger = self._open_ledger()
            result = work(ledger)
            self._claims = claims = ledger.claims()
            self._counting.count(ledger, claims)
            return result, claims

        result, claims = await in_thread(at_desk, executor=self._desk)
        self._tell(claims)
        return result

    async def look(self, work: Callable[[RankedLedger], T]) -> T:
        """Do work that changes nothing but for what the dead held, which a sweep tells of."""
        return await in_thread(lambda: work(self._open_ledger()), executor=self._desk)

    def _of(self, account: Account) -> list[Claim]:
        """A user's claims, in the order of arrival."""
        return [claim for claim in self._claims if uid_of_claim(claim) == account.uid]

    def _find(self, key: str) -> Claim | None:
        return next((claim for claim in self._claims if claim.kernel_id == key), None)

    def _open_ledger(self) -> RankedLedger:
        if self._ledger is None:
            raise LedgerError("The broker is about to end.")
        return self._ledger

    def _tell(self, claims: Sequence[Claim]) -> None:
        """Let everybody know of what is new since this was last called."""
        self.waits.see(claims)
        self._news.tell(claims)
        self.orders.keep({claim.kernel_id for claim in claims})
        self.idle.keep({claim.kernel_id for claim in claims if claim.held})
        processes = {claim.holder for claim in claims}
        processes |= {claim.kernel for claim in claims if claim.kernel is not None}
        processes |= self._counting.servers
        if processes != self.processes:
            self.processes = frozenset(processes)
            self._changed()


def _signed(info: Mapping[str, Any], account: Account) -> dict[str, Any]:
    """What is told of a kernel, with whose it is: that is never told by a request."""
    return {**info, "user": account.user, "uid": account.uid}
