"""How much users held of late. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from .limits import Use

__all__ = ["HALF_LIFE", "Standing"]

#: After so long an hour that was held counts half.
HALF_LIFE = timedelta(days=1)
#: GPUs in the mean that make no difference.
_LEAST = 1e-6


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

    def copy(self) -> Standing:
        """As it is now, for another thread."""
        other = Standing(self._half_life)
        other._means = {user: replace(known) for user, known in self._means.items()}
        return other

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

    def hold(self, user: str, gpus: float, at: datetime) -> None:
        """From now on a user holds so many GPUs in all."""
        known = self._means.get(user)
        if known is None and gpus <= 0:
            return
        self.change(user, gpus - (known.gpus if known else 0.0), at)

    @property
    def holders(self) -> frozenset[str]:
        """Users who hold something."""
        return frozenset(user for user, known in self._means.items() if known.gpus > 0)

    def mean(self, user: str, at: datetime) -> float:
        """In GPUs; 0 for somebody who has held nothing."""
        known = self._means.get(user)
        return self._value(known, at) if known else 0.0

    # -- kept over restarts ----------------------------------------------------------------------

    def to_json(self, at: datetime) -> dict[str, list[Any]]:
        """What :meth:`from_json` reads. Who has held next to nothing of late is left out."""
        return {
            user: [known.value, known.at.isoformat(), known.gpus]
            for user, known in self._means.items()
            if known.gpus > 0 or self._value(known, at) > _LEAST
        }

    @classmethod
    def from_json(cls, data: Any, half_life: timedelta = HALF_LIFE) -> Standing:
        """Read what :meth:`to_json` wrote. What was held then still is, until more is told.

        Raises
        ------
        ValueError: it is something else.
        """
        found = cls(half_life)
        try:
            for user, (value, at, gpus) in data.items():
                numbers = float(value), float(gpus)
                moment = datetime.fromisoformat(at)
                if moment.tzinfo is None or not all(0 <= each < math.inf for each in numbers):
                    raise ValueError(at)
                found._means[str(user)] = _Mean(numbers[0], moment, numbers[1])
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError("This is no standing of a broker's users.") from error
        return found

    def _value(self, known: _Mean, at: datetime) -> float:
        lives = max((at - known.at) / self._half_life, 0.0)
        left = math.pow(0.5, lives)
        return known.value * left + known.gpus * (1.0 - left)
