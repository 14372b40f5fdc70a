"""What is learnt of one notebook: how long it usually pauses."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["History"]

#: Pauses below this are steps within one piece of work. They say little about the next long one,
#: and in a notebook there are many of them.
SHORTEST = 120.0
#: Longer ones are another day's work; how much longer says nothing.
_LONGEST = 24 * 3600.0
#: What a pause counts after each further one: the last five make up two thirds of the mean.
_FADE = 0.5 ** (1 / 3)
_OTHER = "This is no history of a notebook's pauses."


class History:
    """The pauses between the bursts of one notebook, in a few numbers whatever their count.

    A burst is a span in which cells ran. Clocks are seconds of any clock that does not go back;
    they are not kept over :meth:`to_json`, so the pause in which a server was started again is not
    learnt.

    Attributes
    ----------
    pauses: how many there were that count, which are those of two minutes and more.
    last: seconds of the last of them; None before the first.
    """

    __slots__ = ("_end", "_total", "_weight", "last", "pauses")

    def __init__(self) -> None:
        self.pauses = 0
        self.last: float | None = None
        self._total = 0.0
        self._weight = 0.0
        self._end: float | None = None

    def burst(self, began: float, ended: float) -> None:
        """Cells ran from ``began`` to ``ended``; called at each burst's end.

        Bursts may touch and overlap, as those of several clients do.
        """
        if self._end is None:
            self._end = ended
            return
        pause = began - self._end
        self._end = max(self._end, ended)
        if pause >= SHORTEST:
            self.last = min(pause, _LONGEST)
            self.pauses += 1
            self._total = self._total * _FADE + math.log(self.last)
            self._weight = self._weight * _FADE + 1.0

    def usual(self, expected: float, trust: float) -> float:
        """The pause to reckon with, in seconds: the mean of the last few on a logarithmic scale.

        Parameters
        ----------
        expected: what is reckoned with before there is any, in seconds.
        trust: how many pauses that counts for.
        """
        if not self.pauses:
            return expected  # exactly: rounding would make a notebook of another kind of it
        total = self._total + trust * math.log(expected)
        return math.exp(total / (self._weight + trust))

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads; plain numbers."""
        return {
            "pauses": self.pauses,
            "last": self.last,
            "total": self._total,
            "weight": self._weight,
        }

    @classmethod
    def from_json(cls, data: Any) -> History:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        ValueError: it is something else.
        """
        found = cls()
        try:
            found.pauses = _whole(data["pauses"])
            found.last = None if data["last"] is None else _number(data["last"])
            found._total = _number(data["total"])
            found._weight = _number(data["weight"])
        except (KeyError, TypeError) as error:
            raise ValueError(_OTHER) from error
        if not found._sound():
            raise ValueError(_OTHER)
        return found

    def _sound(self) -> bool:
        """Whether pauses can have led to these figures."""
        if not self.pauses:
            return self.last is None and not self._total and not self._weight
        low, high = (self._weight * math.log(length) for length in (SHORTEST, _LONGEST))
        return (
            self.last is not None
            and SHORTEST <= self.last <= _LONGEST
            and 1 <= self._weight <= 1 / (1 - _FADE)
            and low - 1e-6 <= self._total <= high + 1e-6
        )

    def __eq__(self, other: object) -> bool:
        """Whether the same was learnt."""
        return isinstance(other, History) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(value)
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(value)
    if not math.isfinite(value) or value < 0:
        raise TypeError(value)
    return float(value)
