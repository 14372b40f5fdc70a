"""How long things have stayed as they are, by this process's clock alone.

Clocks of two machines are never held against each other: a time that somebody has written says
only that it is another one than before. As in client-go's leader election, whoever watches counts
from the moment when it has seen the last change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable

__all__ = ["Observed"]


class Observed:
    """When each of some things was last seen to change.

    Parameters
    ----------
    clock: seconds, from any moment on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._seen: dict[str, tuple[Hashable, float]] = {}

    def age(self, name: str, value: Hashable) -> float:
        """Seconds since ``name`` was first seen with this value; 0 where that is now."""
        now = self.clock()
        known = self._seen.get(name)
        if known is None or known[0] != value:
            self._seen[name] = (value, now)
            return 0.0
        return now - known[1]

    def keep(self, names: Collection[str]) -> None:
        """Forget all but these."""
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
