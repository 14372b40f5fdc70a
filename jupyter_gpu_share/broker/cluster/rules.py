"""What the administrator decides about the shares of all users of a cluster.

Limits are checked and what they allow is counted in one step. What was held is in the account,
which outlives the broker; what is held is made anew from the cluster.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from ..._threads import in_thread
from ...engines.user_limits import UserLimit
from ...errors import LedgerError
from ...idle import IdlePolicy
from ...sentences import say
from ...size import Size
from ..account import Figures, Mode, Subject
from ..books import Books
from ..claim import Claim
from ..demand import Device, demand
from ..given_back import Held
from ..idle import IdleShares
from ..limits import Limits
from ..order import PATIENCE
from ..orders import Orders
from ..waits import Waits
from .holdings import Holdings
from .ruling import Key, Wish
from .seeing import Sight
from .sizes import Sizes
from .turns import Turns

__all__ = ["Rules", "Settings"]

_log = logging.getLogger(__name__)

#: Sizes of which it is remembered what they come to.
_MOST_SIZES = 1000
_PAUSED = say("no-new-shares")


class _Kind(NamedTuple):
    """A kind of GPU, as far as sizes are counted by it."""

    memory_bytes: int
    profile: str | None


@dataclass(frozen=True)
class Settings:
    """What the administrator has configured.

    Attributes
    ----------
    folder: of the account and of a pause; open to the broker's user only.
    limits: None: there are none.
    kernels_per_user: most kernels of one user that hold or wait for a share.
    sizes: which ones may be had at all; None: all.
    policy: about idle shares; what users have configured counts only as far as this allows.
    patience: for how long others may pass a kernel for which there is no room.
    ordered: whether KAI or Kueue orders those who wait, so that the broker does not.
    metrics_by_user: whether metrics name users.
    """

    folder: Path
    limits: Limits | None = None
    kernels_per_user: int = 200
    sizes: Sizes | None = None
    policy: IdlePolicy | None = None
    patience: timedelta = PATIENCE
    ordered: bool = False
    metrics_by_user: bool = False


class Rules:
    """Limits, order and account. It is a :class:`Ruling <.ruling.Ruling>`, for one event loop.

    :meth:`open` comes first, then :meth:`reserve` and the like for each kernel that there is, then
    :meth:`begin`. Until then whatever is reserved counts, as it is there.
    """

    def __init__(
        self,
        settings: Settings,
        sight: Sight,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self.settings = settings
        self.sight = sight
        #: The time now, aware.
        self.clock = clock
        limits = settings.limits
        window = limits.longest_window if limits is not None else timedelta(0)
        self._books = Books(settings.folder, window, clock)
        self.holdings = Holdings(self._books, clock)
        #: What administrators have told.
        self.orders = Orders(settings.folder)
        #: Whose shares are idle, and what was promised of them.
        self.idle = IdleShares(settings.policy or IdlePolicy())
        #: How long everybody waited since the broker began.
        self.waits = Waits()
        self.turns = Turns(
            active=not settings.ordered,
            held=self._gpus_by_user,
            mean=self._books.mean,
            room=self.sight.room,
            clock=clock,
            patience=settings.patience,
        )
        self._kinds: list[_Kind] = []
        self._amounts: dict[Size, tuple[Fraction, int]] = {}
        self._counts_idle: frozenset[str] = frozenset()
        self._begun = False
        #: Kernels that were there when the broker began, of which nothing was heard since.
        self._restored: set[str] = set()
        self._pausing = asyncio.Lock()
        #: Called when somebody waits, or nobody does any more.
        self.changed: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Read the account, and what GPUs there are.

        Raises
        ------
        LedgerError: the folder cannot be used.
        GpuShareError: the cluster cannot be read.
        """
        await in_thread(self._open)
        self.see_gpus([*self.sight.to_come(), *await self.sight.gpus()])

    def _open(self) -> None:
        folder = self.settings.folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"The broker's folder {folder} cannot be used: {error.strerror}. Name another in "
                "c.Broker.folder."
            ) from error
        self._books.open()
        self.orders.open()

    def kept_back(self, key: Key) -> None:
        """Before :meth:`begin`: no scheduler sees this kernel yet, as its turn had not come."""
        self.turns.hide(key.text)

    def begin(self) -> None:
        """All kernels that there are have been told of: from here on limits are checked.

        Those that held their share by the account do so until it is known that they do not.
        """
        holding = self._books.holding
        seen = {}
        for name, claim in self.holdings.known.items():
            mode = self._mode(claim)
            if mode is None and name in holding and not claim.size.is_none:
                mode = Mode.USED, Held(claim.user, claim.groups, claim.gpus, idle=False)
            if mode is not None:
                seen[name] = mode
        self._books.begin(seen)
        self._restored = set(self.holdings.known)
        self._begun = True
        self.turns.begin()

    def see_gpus(self, devices: Iterable[Device]) -> None:
        """What GPUs there are, by which sizes are counted. Those that have gone may come again."""
        kinds = {_Kind(each.memory_bytes, each.profile) for each in devices}
        if kinds - set(self._kinds):
            self._kinds = [*self._kinds, *sorted(kinds - set(self._kinds), key=str)]
            self._amounts = {}
        self.turns.changed()

    async def save(self) -> None:
        """Write the account where it has changed. One at a time."""
        write = self._books.later_save()
        if write is None:
            return
        try:
            await in_thread(write)
        except OSError as error:
            self._books.unsaved()
            _log.error("The account cannot be saved: %s", error.strerror)
        except BaseException:
            self._books.unsaved()
            raise

    # -- limits ----------------------------------------------------------------------------------

    def why_not(self, wish: Wish) -> str | None:
        """See :meth:`Ruling.why_not <.ruling.Ruling.why_not>`."""
        return self._why_not(self._claim(wish))

    def _claim(self, wish: Wish) -> Claim:
        """A wish as limits and order see it."""
        size = wish.size
        if size not in self._amounts:
            if len(self._amounts) >= _MOST_SIZES:  # anybody may ask about any
                self._amounts.clear()
            self._amounts[size] = demand(size, self._kinds)
            if not self._kinds and size.fraction is not None:
                self._amounts[size] = size.fraction * size.count, 0  # that is known without any
        gpus, memory = self._amounts[size]
        now = self.clock()
        return Claim(
            user=wish.key.user,
            kernel_id=wish.key.text,
            size=size,
            gpus=gpus,
            memory_bytes=memory,
            asked_at=min(wish.asked_at or now, now),
            groups=wish.groups,
            server=wish.key.server,
            name=wish.key.kernel_id,
            process=wish.process,
            number=wish.number,
        )

    def _why_not(self, claim: Claim, *, anew: bool = False) -> str | None:
        name = claim.kernel_id
        known = self.holdings.asked(name)
        has = known is not None and not known.lent and not known.size.is_none
        if anew and known is not None and known.size != claim.size:
            has = False
        if self.orders.paused and not has and not claim.size.is_none:
            return _PAUSED
        if self.settings.sizes is not None:
            memories = {kind.memory_bytes for kind in self._kinds if kind.memory_bytes}
            if why := self.settings.sizes.why_not(claim.size, memories):
                return why
        others = self.holdings.counted(claim.user, name)
        if not has and others >= self.settings.kernels_per_user:
            return say("most-kernels", count=others)
        if self.settings.limits is None:
            return None
        if has and known is not None and claim.is_within(known):
            return None  # it has that already, as at a restart, and what it has it keeps
        refusal = self.settings.limits.weigh(claim, self.holdings, self.clock())
        return refusal.text if refusal is not None else None

    def user_limits(self, user: str, groups: frozenset[str]) -> list[UserLimit]:
        """A user's limits, and how much of each is taken."""
        limits = self.settings.limits
        if limits is None:
            return []
        return limits.of_user(user, groups, self.holdings, self.clock())

    def reserve(self, wish: Wish, *, anew: bool = False) -> str | None:
        """See :meth:`Ruling.reserve <.ruling.Ruling.reserve>`."""
        claim = self._claim(wish)
        if self._begun and (why := self._why_not(claim, anew=anew)) is not None:
            return why
        name = claim.kernel_id
        known = self.holdings.known.get(name)
        if anew and known is not None and known.size != claim.size:
            self.drop(wish.key)  # nobody gets another size before those who wait for it
            known = None
        if known is not None and known.held_since is not None:
            self.holdings.reserve(claim)  # it holds its share until it has the other one
            return None
        if known is not None and not known.lent:
            self.turns.ended(name)  # another start, with another pod
        self._put(claim)
        if not claim.size.is_none:
            self.turns.add(claim, seen=not self._begun)
            self.waits.wish(name)
            self.changed()
        return None

    def holds(self, key: Key, size: Size | None = None) -> None:
        """See :meth:`Ruling.holds <.ruling.Ruling.holds>`."""
        name = key.text
        known = self.holdings.known.get(name)
        claim = self.holdings.asked(name)
        if claim is None or known is None:
            return
        if size is not None and size != claim.size:
            claim = self._claim(Wish(key, size, claim.groups))
        since = known.held_since
        if name in self._restored or not self._begun:
            self._waits_no_more(name)  # it had its share before
        elif since is None and not claim.size.is_none:
            self.turns.served(name)
            self.waits.served(name)
        self._restored.discard(name)
        self.holdings.drop(name)
        self._put(replace(claim, held_since=since or self.clock(), lent=False))
        self.changed()

    def gave_back(self, key: Key) -> None:
        """See :meth:`Ruling.gave_back <.ruling.Ruling.gave_back>`."""
        name = key.text
        claim = self.holdings.known.get(name)
        if claim is None:
            return
        self._waits_no_more(name)
        self.holdings.drop(name)
        self._put(replace(claim, held_since=None, lent=True))
        self._no_share(name)

    def drop(self, key: Key) -> None:
        """See :meth:`Ruling.drop <.ruling.Ruling.drop>`."""
        name = key.text
        self._waits_no_more(name)
        self.holdings.remove(name)
        if self._begun:
            self._books.end(name)
        self._no_share(name)

    def _waits_no_more(self, name: str) -> None:
        self.turns.ended(name)
        self.waits.left(name)

    def _no_share(self, name: str) -> None:
        self._restored.discard(name)
        self.idle.remove(name)
        self.orders.remove(name)
        self.changed()

    def _put(self, claim: Claim) -> None:
        self.holdings.put(claim)
        if self._begun:
            self._account(claim)

    # -- the account -----------------------------------------------------------------------------

    def _mode(self, claim: Claim) -> tuple[Mode, Held] | None:
        """How a kernel counts in the account; None: not at all."""
        if claim.size.is_none or (claim.held_since is None and not claim.lent):
            return None
        idle = claim.kernel_id in self._counts_idle
        mode = Mode.GIVEN_BACK if claim.lent else Mode.IDLE if idle else Mode.USED
        return mode, Held(claim.user, claim.groups, claim.gpus, idle)

    def _account(self, claim: Claim) -> None:
        seen = self._mode(claim)
        if seen is None:
            self._books.end(claim.kernel_id)
        else:
            self._books.change(claim.kernel_id, *seen)

    def count_idle(self) -> None:
        """Have the account know which shares nobody uses by now."""
        idle = frozenset(self.idle.since(self.clock()))
        before, self._counts_idle = self._counts_idle, idle
        for name in before ^ idle:
            claim = self.holdings.known.get(name)
            if claim is not None:
                self._account(claim)

    def _gpus_by_user(self) -> Mapping[str, float]:
        return self._books.gpus_by_user

    def held_since(self) -> dict[str, datetime]:
        """Since when each share is held that is held now, by name; by the account."""
        return self._books.held_since()

    async def usage(self, user: str | None = None) -> list[dict[str, Any]]:
        """GPU-seconds by day: of one user, or of all users and groups."""
        return await in_thread(self._books.later_rows(user))

    async def totals(self) -> dict[Subject, Figures]:
        """GPU-seconds of all users and groups, which only grow."""
        return await in_thread(self._books.later_totals())

    # -- order -----------------------------------------------------------------------------------

    async def admitted(self, key: Key) -> None:
        """Wait until a kernel may be shown to the scheduler; see :meth:`Turns.admitted`.

        Raises
        ------
        EngineError: the kernel waits no more.
        """
        await self.turns.admitted(key.text)

    # -- a pause ---------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether an administrator has new shares refused."""
        return self.orders.paused

    async def pause(self, paused: bool) -> None:
        """Refuse new shares, or give them out again; kept over restarts.

        Raises
        ------
        LedgerError: it cannot be kept.
        """
        async with self._pausing:
            await in_thread(self.orders.pause, paused)
