"""How long kernels waited for their shares. Pure but for the clock."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate
from time import monotonic

from ..engines.local._contents import Claim

__all__ = ["BUCKETS", "Waits"]

#: Seconds. The first is for who has a share at once.
BUCKETS = (0.1, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)


class Waits:
    """Counts waits, at every change of the claims, or one by one as they begin and end.

    What is held at the first look at all claims was counted by the broker before.

    Parameters
    ----------
    clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}
        self._held: frozenset[str] | None = None
        self._counts = [0] * (len(BUCKETS) + 1)
        #: Seconds of all waits that are over.
        self.total = 0.0

    def see(self, claims: Iterable[Claim]) -> None:
        """All claims that there are now. A claim has its token for as long as it is there."""
        asking = [claim for claim in claims if not claim.size.is_none]
        held = frozenset(claim.token for claim in asking if claim.held)
        waiting = {claim.token for claim in asking if not claim.held}
        for token in held - (held if self._held is None else self._held):
            self.served(token)
        for token in self._since.keys() - waiting:
            self.left(token)
        for token in waiting:
            self.wish(token)
        self._held = held

    def wish(self, name: str) -> None:
        """One waits from now on, or still."""
        self._since.setdefault(name, self._clock())

    def served(self, name: str) -> None:
        """One has its share; who has not waited had it at once."""
        now = self._clock()
        self._count(max(now - self._since.pop(name, now), 0.0))

    def left(self, name: str) -> None:
        """One waits no more, and has no share."""
        self._since.pop(name, None)

    def _count(self, seconds: float) -> None:
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    @property
    def cumulative(self) -> list[int]:
        """How many waited at most so long, for each of :data:`BUCKETS`, and how many in all."""
        return list(accumulate(self._counts))

    @property
    def longest(self) -> float:
        """Seconds for which the one waits who waits longest now; 0 where nobody does."""
        return max((self._clock() - since for since in self._since.values()), default=0.0)
