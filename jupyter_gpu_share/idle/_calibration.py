"""What the adaptive rule finds out about its own waits, and how far its prices are off.

What is known of notebooks in general comes from one trace. Where people work in another way, more
or fewer bursts wait than is aimed at. So each burst tells whether it had to wait, and the price of
a wait follows, quickly at first and ever more slowly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["Calibration", "Watch"]

#: How far one burst moves the logarithm of the price: quickly at first, after how many bursts that
#: begins to fade, and how; only while the waits are off by more than so many deviations of chance.
#: Where too few wait, nobody is worse off than was promised, so that it may take longer.
_QUICK, _QUICK_BELOW, _SETTLING, _FADE, _DOUBT = 0.2, 0.02, 300.0, -0.65, 3.0
#: And at least so far, as people change.
_STEADY = 0.0005
#: The logarithm stays within these bounds: where no price meets the aim it does not run away.
_LOWEST, _HIGHEST = -4.0, 12.0
#: Of so many bursts the part that waited is known; fewer say little.
_MEMORY, _FEW = 20_000.0, 200.0
#: By how much that part may be off before the price is pulled, too, and how much of the aim more.
_TOLERATED, _TOLERATED_PART = 0.002, 0.01
#: How much it is pulled for what is beyond, and at most.
_PULL, _LONGEST_PULL = 500.0, 4.0
#: What part of the pull stays with each burst. A pull alone needs waits that are off, the more the
#: further the price is off. It is little, as a pause tells of its wait only once it is over.
_STAYS = 0.0001
#: Having waited too little for long is no reason to wait too much for long.
_CREDIT = 0.004
_AIMS = 64
_OTHER = "This is nothing that the adaptive rule has found out."


class Watch:
    """The waits at one aim.

    Attributes
    ----------
    shift: what is added to the logarithm of the price of a wait.
    seen: how many bursts were watched.
    """

    __slots__ = (
        "_aim",
        "_chance",
        "_counted",
        "_excess",
        "_level",
        "_tolerated",
        "_total",
        "seen",
        "shift",
    )

    def __init__(self, aim: float) -> None:
        self._aim = aim
        self._chance = aim * (1.0 - aim)
        self._tolerated = _TOLERATED + _TOLERATED_PART * aim
        self.seen = 0
        self.shift = 0.0
        self._level = 0.0
        self._excess = 0.0
        self._counted = 0.0
        self._total = 0.0

    def waited(self) -> None:
        """A burst has begun, and its share had gone."""
        self._saw(1.0 - self._aim)

    def found(self) -> None:
        """A burst has begun, and its share was there."""
        self._saw(-self._aim)

    def _saw(self, error: float) -> None:
        self.seen += 1
        self._counted += 1.0
        self._excess += error
        self._total += error
        if self._counted > _MEMORY:
            self._excess *= _MEMORY / self._counted
            self._total *= _MEMORY / self._counted
            self._counted = _MEMORY
        self._excess = max(self._excess, -_CREDIT * self._counted)
        step = _STEADY
        if self._total**2 > _DOUBT**2 * self._chance * self._counted:
            quick = _QUICK if self._total > 0 else _QUICK_BELOW
            step = max(quick * math.pow(1.0 + self.seen / _SETTLING, _FADE), step)
        moved = step * error + _STAYS * (self.shift - self._level)
        self._level = min(max(self._level + moved, _LOWEST), _HIGHEST)
        self._settle()

    def _settle(self) -> None:
        off = self._excess / max(self._counted, _FEW)
        beyond = off - min(max(off, -self._tolerated), self._tolerated)
        self.shift = self._level + min(max(_PULL * beyond, -_LONGEST_PULL), _LONGEST_PULL)

    def to_json(self) -> list[float]:
        """What :meth:`read` reads."""
        return [self.seen, self._level, self._excess, self._counted, self._total]

    def read(self, data: Any) -> None:
        """Go on from what :meth:`to_json` wrote.

        Raises
        ------
        ValueError: it is something else.
        """
        if not isinstance(data, list) or len(data) != 5:
            raise ValueError(_OTHER)
        if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in data):
            raise ValueError(_OTHER)
        seen, level, excess, counted, total = data
        sound = (
            isinstance(seen, int)
            and 0 <= counted <= min(seen, _MEMORY)
            and _LOWEST <= level <= _HIGHEST
            and -_CREDIT * counted - 1e-6 <= excess <= counted
            and abs(total) <= counted
        )
        if not sound:
            raise ValueError(_OTHER)
        self.seen, self._level, self._total = seen, level, total
        self._excess, self._counted = excess, counted
        self._settle()


class Calibration:
    """The waits of a broker's, or else of a server's notebooks, at each aim that is in use."""

    def __init__(self) -> None:
        self._watches: dict[float, Watch] = {}

    @property
    def seen(self) -> int:
        """How many bursts were watched, at all aims together."""
        return sum(watch.seen for watch in self._watches.values())

    @property
    def shifts(self) -> Mapping[float, float]:
        """By aim, what is added to the logarithm of the price now. It does not change later."""
        return {aim: watch.shift for aim, watch in self._watches.items()}

    def of(self, aim: float) -> Watch:
        """The waits at one aim."""
        if aim not in self._watches:
            self._watches[aim] = Watch(aim)
        return self._watches[aim]

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads; plain numbers."""
        return {"aims": [[aim, *watch.to_json()] for aim, watch in self._watches.items()]}

    @classmethod
    def from_json(cls, data: Any) -> Calibration:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        ValueError: it is something else.
        """
        found = cls()
        rows = data.get("aims") if isinstance(data, dict) else None
        if not isinstance(rows, list) or len(rows) > _AIMS:
            raise ValueError(_OTHER)
        for row in rows:
            if not isinstance(row, list) or not row or not isinstance(row[0], float):
                raise ValueError(_OTHER)
            if not 0 < row[0] < 1:
                raise ValueError(_OTHER)
            found.of(row[0]).read(row[1:])
        return found
