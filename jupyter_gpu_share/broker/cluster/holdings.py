"""What all users hold or wait for, in sums that are kept up at each change.

A limit is so asked in one step, whatever the number of kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction

from ..books import Books
from ..claim import Claim
from ..limits import HELD, amount_of
from ..meters import Meter, Subject, covers, subjects

__all__ = ["Holdings"]

_NONE = Fraction(0)


class Holdings:
    """The claims that there are, and those that are about to be.

    It is a :class:`Tally <jupyter_gpu_share.broker.limits.Tally>`. For one event loop.

    Parameters
    ----------
    books: know the GPU-hours.
    clock: the time now, aware.
    """

    def __init__(self, books: Books, clock: Callable[[], datetime]) -> None:
        self._books = books
        self._clock = clock
        self._claims: dict[str, Claim] = {}
        self._reserved: dict[str, Claim] = {}
        #: What counts of each kernel; by user, too.
        self._counted: dict[str, Claim] = {}
        self._of: dict[str, dict[str, Claim]] = {}
        self._sums: dict[tuple[str, Subject], Fraction] = {}

    # -- changes ---------------------------------------------------------------------------------

    def put(self, claim: Claim) -> None:
        """A kernel holds or waits for this, or has lent it."""
        key = claim.kernel_id
        self._claims[key] = claim
        if (reserved := self._reserved.get(key)) is not None and reserved.size == claim.size:
            del self._reserved[key]  # it is what was reserved
        self._count(key)

    def remove(self, key: str) -> None:
        """A kernel has ended."""
        self._claims.pop(key, None)
        self._reserved.pop(key, None)
        self._count(key)

    def reserve(self, claim: Claim) -> None:
        """Count what a kernel is about to hold, until it does or :meth:`drop`."""
        self._reserved[claim.kernel_id] = claim
        self._count(claim.kernel_id)

    def drop(self, key: str) -> None:
        """Nothing comes of what was reserved. A kernel without a reservation is left alone."""
        if self._reserved.pop(key, None) is not None:
            self._count(key)

    def _count(self, key: str) -> None:
        before, after = self._counted.pop(key, None), self._worth(key)
        if before is not None:
            self._add(before, -1)
            own = self._of[before.user]
            del own[key]
            if not own:
                del self._of[before.user]
        if after is not None:
            self._counted[key] = after
            self._of.setdefault(after.user, {})[key] = after
            self._add(after, 1)

    def _worth(self, key: str) -> Claim | None:
        """What counts of a kernel: while it changes, the larger of both."""
        claim, reserved = self._claims.get(key), self._reserved.get(key)
        if claim is None or claim.lent:
            return reserved
        if reserved is None:
            return claim
        return replace(
            reserved,
            gpus=max(claim.gpus, reserved.gpus),
            memory_bytes=max(claim.memory_bytes, reserved.memory_bytes),
        )

    def _add(self, claim: Claim, sign: int) -> None:
        amounts = {each: sign * amount_of(each, claim) for each in HELD}
        for subject in subjects(claim.user, claim.groups):
            for resource, amount in amounts.items():
                if not amount:
                    continue
                left = self._sums.get((resource, subject), _NONE) + amount
                if left:
                    self._sums[resource, subject] = left
                else:
                    del self._sums[resource, subject]

    # -- what is known ---------------------------------------------------------------------------

    @property
    def known(self) -> Mapping[str, Claim]:
        """All kernels that there are, by name; reservations are not among them."""
        return self._claims

    def asked(self, key: str) -> Claim | None:
        """What a kernel is about to hold, else what it holds, waits for or has lent."""
        return self._reserved.get(key) or self._claims.get(key)

    def counted(self, user: str, but: str) -> int:
        """Kernels of a user that hold or wait for a share, without the kernel ``but``."""
        own = self._of.get(user, {})
        return len(own) - (but in own)

    def held(self, resource: str, whose: Subject, but: str) -> Fraction:
        """See :meth:`Tally.held <jupyter_gpu_share.broker.limits.Tally.held>`."""
        held = self._sums.get((resource, whose), _NONE)
        own = self._counted.get(but)
        if own is not None and covers(whose, own.user, own.groups):
            held -= amount_of(resource, own)
        return held

    def claims(self, user: str) -> Iterable[Claim]:
        """See :meth:`Tally.claims <jupyter_gpu_share.broker.limits.Tally.claims>`."""
        return list(self._of.get(user, {}).values())

    def meter(self, whose: Subject, window: timedelta) -> Meter:
        """See :meth:`Tally.meter <jupyter_gpu_share.broker.limits.Tally.meter>`."""
        return self._books.meters.of(whose, window, self._clock())
