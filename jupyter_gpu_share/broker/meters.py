"""What was held in a window that ends now, kept up at each change. Pure: the time is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

__all__ = ["Meter", "Meters", "Subject", "Use", "covers", "subjects"]

_MICRO = timedelta(microseconds=1)
_HOUR = timedelta(hours=1) // _MICRO
_NONE = Fraction(0)

#: ``user``, ``group`` or ``total``, and the name; empty for the total.
Subject = tuple[str, str]


@dataclass(frozen=True)
class Use:
    """A share that was held, for the hours of a window. Times are aware.

    Attributes
    ----------
    end: when it went back; None while it is held.
    """

    user: str
    groups: frozenset[str]
    gpus: Fraction
    begin: datetime
    end: datetime | None = None


def covers(subject: Subject, user: str, groups: frozenset[str]) -> bool:
    """Whether what such a user holds counts for a subject."""
    scope, name = subject
    return scope == "total" or (name == user if scope == "user" else name in groups)


def subjects(user: str, groups: frozenset[str]) -> list[Subject]:
    """All for whom it counts what such a user holds."""
    return [("total", ""), ("user", user), *(("group", name) for name in groups)]


class Meter:
    """GPU-hours of one subject in a window that ends now.

    They are a sum that grows at its one end and shrinks at the other by the same changes, a window
    later. So each change is looked at twice, however often it is asked.
    """

    def __init__(self, window: timedelta, begin: datetime) -> None:
        self._window = window
        #: Changes in the window: the moment, and so many GPUs more.
        self._changes: deque[tuple[datetime, Fraction]] = deque()
        self._sum = _NONE  # of GPU-microseconds
        self._head, self._rate = begin, _NONE
        self._tail, self._left = (
            begin - window,
            _NONE,
        )  # where the window begins, and the rate there

    @classmethod
    def of(cls, used: Iterable[Use], subject: Subject, window: timedelta, now: datetime) -> Meter:
        """From what was held in the window, and is.

        A moment that is still to come, as of a clock that was set back, is now: what began or
        ended there has begun or ended.
        """
        first = now - window
        changes: list[tuple[datetime, Fraction]] = []
        for use in used:
            if not covers(subject, use.user, use.groups):
                continue
            if use.end is None or use.end >= first:
                changes.append((min(max(use.begin, first), now), use.gpus))
                if use.end is not None:
                    changes.append((min(use.end, now), -use.gpus))
        changes.sort(key=lambda change: change[0])
        found = cls(window, first)
        for moment, gpus in changes:
            found.change(gpus, moment)
        return found

    def change(self, gpus: Fraction, at: datetime) -> None:
        """From now on so many GPUs more are held, or less. A clock that goes back stands still."""
        self._go(at)
        self._rate += gpus
        self._changes.append((self._head, gpus))

    def hours(self, now: datetime) -> Fraction:
        """GPU-hours in the window that ends now."""
        self._go(now)
        return self._sum / _HOUR

    def free_at(self, limit: Fraction, now: datetime) -> datetime | None:
        """The first moment after which less than a limit is in the window, if nothing is added.

        None where the limit is 0. Rounded up to microseconds.
        """
        if limit <= 0:
            return None
        excess = self.hours(now) * _HOUR - limit * _HOUR
        begin, rate = self._tail, self._left
        for end, gpus in [*self._changes, (self._head, _NONE)]:
            leaves = rate * ((end - begin) // _MICRO)
            if leaves > excess:
                return begin + self._window - (-excess // rate) * _MICRO
            excess -= leaves
            begin, rate = end, rate + gpus
        return None

    def empty(self, now: datetime) -> bool:
        """Whether nothing is held, and nothing was in the window."""
        self._go(now)
        return not self._changes and not self._rate

    def _go(self, now: datetime) -> None:
        now = max(now, self._head)
        self._sum += self._rate * ((now - self._head) // _MICRO)
        self._head, first = now, now - self._window
        while self._changes and self._changes[0][0] <= first:
            moment, gpus = self._changes.popleft()
            self._sum -= self._left * ((moment - self._tail) // _MICRO)
            self._tail, self._left = moment, self._left + gpus
        self._sum -= self._left * ((first - self._tail) // _MICRO)
        self._tail = first


class Meters:
    """The meters of those about whom somebody has asked.

    Parameters
    ----------
    used: what was held in the longest window, and is.
    """

    def __init__(self, used: Callable[[], Sequence[Use]]) -> None:
        self._used = used
        self._known: dict[Subject, dict[timedelta, Meter]] = {}

    def of(self, subject: Subject, window: timedelta, now: datetime) -> Meter:
        """The meter of a subject and a window."""
        meters = self._known.setdefault(subject, {})
        if window not in meters:
            meters[window] = Meter.of(self._used(), subject, window, now)
        return meters[window]

    def change(self, user: str, groups: frozenset[str], gpus: Fraction, at: datetime) -> None:
        """From now on a user holds so many GPUs more, or less."""
        for subject in subjects(user, groups):
            for meter in self._known.get(subject, {}).values():
                meter.change(gpus, at)

    def trim(self, now: datetime) -> None:
        """Forget those about whom there is nothing to know."""
        for subject, meters in list(self._known.items()):
            if all(meter.empty(now) for meter in meters.values()):
                del self._known[subject]
