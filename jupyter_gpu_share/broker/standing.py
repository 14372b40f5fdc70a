"""How much users held of late. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from .limits import Use

__all__ = ["HALF_LIFE", "Standing"]

#: After so long an hour that was held counts half.
HALF_LIFE = timedelta(days=1)


@dataclass
class _Mean:
    value: float
    at: datetime
    gpus: float


class Standing:
    """The GPUs that each user held in the mean, the more recent the more they count.

    Who has held one GPU for long has a mean of 1; a half-life after it went back, of a half.

    Parameters
    ----------
    half_life: above 0.
    """

    def __init__(self, half_life: timedelta = HALF_LIFE) -> None:
        if half_life <= timedelta(0):
            raise ValueError("A half-life is longer than no time.")
        self._half_life = half_life
        self._means: dict[str, _Mean] = {}

    @classmethod
    def of(cls, used: Iterable[Use], now: datetime, half_life: timedelta = HALF_LIFE) -> Standing:
        """From what was held, as it is after a restart. What is held still goes on."""
        found = cls(half_life)
        moments: dict[str, list[tuple[datetime, float]]] = {}
        for use in used:
            changes = moments.setdefault(use.user, [])
            changes.append((use.begin, float(use.gpus)))
            if use.end is not None:
                changes.append((use.end, -float(use.gpus)))
        for user, changes in moments.items():
            for moment, gpus in sorted(changes):
                found.change(user, gpus, min(moment, now))
        return found

    def change(self, user: str, gpus: float, at: datetime) -> None:
        """From now on a user holds so many GPUs more, or less where it is negative.

        A clock that goes back counts nothing twice.
        """
        known = self._means.get(user)
        if known is None:
            self._means[user] = _Mean(0.0, at, max(gpus, 0.0))
            return
        known.value = self._value(known, at)
        known.at = max(known.at, at)
        known.gpus = max(known.gpus + gpus, 0.0)

    def mean(self, user: str, at: datetime) -> float:
        """In GPUs; 0 for somebody who has held nothing."""
        known = self._means.get(user)
        return self._value(known, at) if known else 0.0

    def _value(self, known: _Mean, at: datetime) -> float:
        lives = max((at - known.at) / self._half_life, 0.0)
        left = math.pow(0.5, lives)
        return known.value * left + known.gpus * (1.0 - left)
