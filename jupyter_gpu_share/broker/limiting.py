"""The one place where the administrator's limits are asked about claims of the ledger.

For the one thread that the ledger belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from ..engines.local._contents import Claim
from ..engines.local._gpu import Gpu
from ..engines.user_limits import UserLimit
from ..size import Size
from .books import Books
from .claim import Claim as LimitedClaim
from .demand import demand
from .identity import Account, Accounts
from .limits import Counted, Limits
from .meters import Meter, Subject
from .names import uid_of

__all__ = ["Limiting"]


class _Held(Counted):
    """A tally of what is held, and of the hours as the books keep them up at each change.

    A month's shares are tens of thousands, and who asks for one more does not wait for their sum.
    """

    def __init__(self, held: Sequence[LimitedClaim], books: Books, now: datetime) -> None:
        super().__init__(held, (), now)
        self._meters, self._at = books.meters, now

    def meter(self, whose: Subject, window: timedelta) -> Meter:
        """See :meth:`Tally.meter <.limits.Tally.meter>`."""
        return self._meters.of(whose, window, self._at)


class Limiting:
    """Sees claims as limits and order see them.

    Parameters
    ----------
    limits: None: there are none.
    clock: the time now, aware.
    """

    def __init__(
        self,
        limits: Limits | None,
        accounts: Accounts,
        books: Books,
        clock: Callable[[], datetime],
    ) -> None:
        self._limits = limits
        self._accounts = accounts
        self._books = books
        self._clock = clock

    def why_not(
        self,
        account: Account,
        key: str,
        sizes: Sequence[Size],
        claims: Sequence[Claim],
        gpus: Sequence[Gpu],
    ) -> list[str | None]:
        """For each size that a kernel may ask for, why the limits do not allow it, or None.

        What waits counts as what is held: it is served without a further look. A kernel may ask for
        what it has, as at a restart, or for less, though hours were used up or a limit was lowered
        since.

        Parameters
        ----------
        key: the kernel's name in the ledger.
        claims: all that there are; one of the same kernel counts for nothing beside the new one.
        """
        if self._limits is None:
            return [None] * len(sizes)
        now = self._clock()
        rows = [(row.kernel_id, row.size) for row in claims]
        everything = self.claims([*rows, *((key, size) for size in sizes)], gpus, now)
        held, asked = everything[: len(rows)], everything[len(rows) :]
        own = next((claim for claim in held if claim.kernel_id == key), None)
        tally = _Held(held, self._books, now)
        found = [
            None
            if own is not None and claim.is_within(own)
            else self._limits.weigh(claim, tally, now)
            for claim in asked
        ]
        return [refusal.text if refusal is not None else None for refusal in found]

    def of_user(
        self, account: Account, claims: Sequence[Claim], gpus: Sequence[Gpu]
    ) -> list[UserLimit]:
        """The user's limits, and how much of each is taken by all claims that there are."""
        if self._limits is None:
            return []
        now = self._clock()
        held = self.claims([(row.kernel_id, row.size) for row in claims], gpus, now)
        tally = _Metered(held, self._books, now)
        return self._limits.of_user(account.user, account.groups, tally, now)

    def spent(self, claims: Sequence[LimitedClaim], now: datetime) -> frozenset[str]:
        """The names of those claims whose users' hours are used up."""
        if self._limits is None:
            return frozenset()
        return self._limits.spent_of(claims, _Held(claims, self._books, now), now)

    def claims(
        self, rows: Sequence[tuple[str, Size]], gpus: Sequence[Gpu], now: datetime
    ) -> list[LimitedClaim]:
        """Claims by name and size, as if they were of this moment."""
        amounts = {size: demand(size, gpus) for size in {size for _, size in rows}}
        found = []
        for name, size in rows:
            owner = self._accounts.of(uid_of(name))
            claim = LimitedClaim(owner.user, name, size, *amounts[size], now, owner.groups)
            found.append(replace(claim, name=name.partition("/")[2]))
        return found


class _Metered(Counted):
    """Takes the hours from meters that are kept up: each open page asks now and then."""

    def __init__(self, held: Sequence[LimitedClaim], books: Books, now: datetime) -> None:
        super().__init__(held, (), now)
        self._books = books

    def meter(self, whose: Subject, window: timedelta) -> Meter:
        """See :meth:`Tally.meter`."""
        return self._books.meters.of(whose, window, self._now)
