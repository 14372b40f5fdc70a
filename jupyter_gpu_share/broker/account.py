"""GPU-seconds by user, group and day: held, used, idle, given back. Pure: events in, sums out.

Nothing is sampled. Each change of a kernel is told with its moment, and what lies between two
changes is counted exactly: times in whole microseconds, parts of GPUs as fractions. Days are UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, timezone
from enum import Enum
from fractions import Fraction
from typing import Any

from .limits import Use

__all__ = ["Account", "AccountError", "Figures", "Mode", "Subject"]

_DAY = timedelta(days=1)
_MICRO = timedelta(microseconds=1)
_NONE = Fraction(0)


class AccountError(ValueError):
    """What was stored is no account."""


class Mode(str, Enum):
    """What becomes of a kernel's share. ``GIVEN_BACK``: the kernel lives on without it."""

    USED = "used"
    IDLE = "idle"
    GIVEN_BACK = "given_back"


@dataclass(frozen=True)
class Figures:
    """GPU-seconds. ``given_back`` is what others could have while the kernel lived on."""

    used: Fraction = _NONE
    idle: Fraction = _NONE
    given_back: Fraction = _NONE

    @property
    def held(self) -> Fraction:
        """Used and idle."""
        return self.used + self.idle

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.used + other.used,
            self.idle + other.idle,
            self.given_back + other.given_back,
        )


@dataclass(frozen=True)
class _Open:
    """A kernel from its last change on. ``held_since``: None where its share is given back."""

    user: str
    groups: frozenset[str]
    gpus: Fraction
    mode: Mode
    since: datetime
    held_since: datetime | None


#: ``user`` or ``group``, and the name.
Subject = tuple[str, str]


class Account:
    """What everybody held.

    A broker that is started again goes on with :meth:`from_json`: what was open then has stayed as
    it was, until :meth:`change` or :meth:`end` say otherwise with the moment that is known.

    Parameters
    ----------
    window: for how long each share that was held is known by itself, for limits of hours.
    """

    def __init__(self, window: timedelta = timedelta(0)) -> None:
        self.window = window
        self._open: dict[str, _Open] = {}
        self._days: dict[tuple[date, Subject], Figures] = {}
        self._past: list[Use] = []
        #: Of days that were forgotten, so that counters do not go back.
        self._before: dict[Subject, Figures] = {}

    def copy(self) -> Account:
        """As it is now, for another thread: it can be counted on without changing this one."""
        other = Account(self.window)
        other._open = dict(self._open)
        other._days = dict(self._days)
        other._past = list(self._past)
        other._before = dict(self._before)
        return other

    # -- events ----------------------------------------------------------------------------------

    def change(
        self,
        kernel_id: str,
        mode: Mode,
        at: datetime,
        *,
        user: str,
        groups: frozenset[str] = frozenset(),
        gpus: Fraction,
    ) -> None:
        """From a moment on a kernel has its share in this way; also at a change of size.

        Told twice it counts once. A moment before the last one, as of a clock that was set back,
        counts as that one.
        """
        known = self._count(kernel_id, at)
        begin = max(at, known.since) if known else at
        now = _Open(user, groups, gpus, mode, begin, None if mode is Mode.GIVEN_BACK else begin)
        if known is not None and known.held_since is not None:
            same = (known.user, known.groups, known.gpus) == (user, groups, gpus)
            if same and now.held_since is not None:
                now = replace(now, held_since=known.held_since)
            else:
                self._close(known, begin)
        self._open[kernel_id] = now

    def end(self, kernel_id: str, at: datetime) -> None:
        """A kernel has ended. One that is not known has ended before."""
        known = self._count(kernel_id, at)
        if known is not None:
            self._close(known, max(at, known.since))
            del self._open[kernel_id]

    def settle(self, now: datetime) -> None:
        """Count all up to now. Nothing changes by that but what :meth:`rows` knows."""
        for kernel_id in self._open:
            self._count(kernel_id, now)
        self.trim(now)

    def trim(self, now: datetime) -> None:
        """Forget each share that went back before the window."""
        first = now - self.window
        self._past = [use for use in self._past if use.end is None or use.end > first]

    def forget(self, before: date) -> None:
        """Drop the rows of days before this one. Totals stay."""
        for day, subject in [key for key in self._days if key[0] < before]:
            figures = self._days.pop((day, subject))
            self._before[subject] = self._before.get(subject, Figures()) + figures

    def _count(self, kernel_id: str, at: datetime) -> _Open | None:
        """Count a kernel up to a moment. What is returned is as it was, but for ``since``."""
        known = self._open.get(kernel_id)
        if known is None or at <= known.since:
            return known
        for day, span in _days(known.since, at):
            seconds = known.gpus * (span // _MICRO) / 1_000_000
            figures = Figures(**{known.mode.value: seconds})
            for subject in [("user", known.user), *(("group", each) for each in known.groups)]:
                key = day, subject
                self._days[key] = self._days.get(key, Figures()) + figures
        self._open[kernel_id] = counted = replace(known, since=at)
        return counted

    def _close(self, known: _Open, end: datetime) -> None:
        if known.held_since is not None and known.held_since < end:
            use = Use(known.user, known.groups, known.gpus, known.held_since, end)
            self._past.append(use)

    # -- what is known ---------------------------------------------------------------------------

    @property
    def open_kernels(self) -> frozenset[str]:
        """Those that have not ended."""
        return frozenset(self._open)

    def held_since(self) -> dict[str, datetime]:
        """Since when each share is held that is held now, by kernel."""
        return {
            kernel_id: each.held_since
            for kernel_id, each in self._open.items()
            if each.held_since is not None
        }

    def used(self) -> list[Use]:
        """What was held in the window, and is: for limits of hours and for who is next."""
        now = [
            Use(each.user, each.groups, each.gpus, each.held_since)
            for each in self._open.values()
            if each.held_since is not None
        ]
        return self._past + now

    def rows(self) -> list[tuple[date, str, str, Figures]]:
        """Day, ``user`` or ``group``, the name, and the figures; up to the last :meth:`settle`."""
        order = sorted(self._days.items(), key=lambda row: row[0])
        return [(day, *subject, figures) for (day, subject), figures in order]

    def totals(self) -> dict[Subject, Figures]:
        """All days together, those that were forgotten included."""
        found = dict(self._before)
        for (_, subject), figures in self._days.items():
            found[subject] = found.get(subject, Figures()) + figures
        return found

    # -- kept over restarts ----------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads. Numbers are text, so that none is rounded."""
        return {
            "open": {
                kernel_id: {
                    "user": each.user,
                    "groups": sorted(each.groups),
                    "gpus": str(each.gpus),
                    "mode": each.mode.value,
                    "since": each.since.isoformat(),
                    "held_since": each.held_since and each.held_since.isoformat(),
                }
                for kernel_id, each in self._open.items()
            },
            "days": [
                [day.isoformat(), *subject, *_texts(figures)]
                for (day, subject), figures in self._days.items()
            ],
            "before": [[*subject, *_texts(figures)] for subject, figures in self._before.items()],
            "past": [
                [
                    use.user,
                    sorted(use.groups),
                    str(use.gpus),
                    use.begin.isoformat(),
                    (use.end or use.begin).isoformat(),
                ]
                for use in self._past
            ],
        }

    @classmethod
    def from_json(cls, data: Any, window: timedelta = timedelta(0)) -> Account:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        AccountError: it is something else.
        """
        found = cls(window)
        try:
            for kernel_id, each in data["open"].items():
                held = each["held_since"]
                found._open[str(kernel_id)] = _Open(
                    str(each["user"]),
                    frozenset(map(str, each["groups"])),
                    Fraction(each["gpus"]),
                    Mode(each["mode"]),
                    _moment(each["since"]),
                    None if held is None else _moment(held),
                )
            for day, kind, name, *figures in data["days"]:
                found._days[date.fromisoformat(day), (kind, name)] = _figures(figures)
            for kind, name, *figures in data["before"]:
                found._before[kind, name] = _figures(figures)
            for user, groups, gpus, begin, end in data["past"]:
                use = Use(user, frozenset(groups), Fraction(gpus), _moment(begin), _moment(end))
                found._past.append(use)
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise AccountError("This is no account of a broker.") from error
        return found


def _days(begin: datetime, end: datetime) -> Iterator[tuple[date, timedelta]]:
    """The days of UTC between two moments, and how much of each lies there."""
    begin, end = begin.astimezone(timezone.utc), end.astimezone(timezone.utc)
    while begin < end:
        midnight = datetime.combine(begin.date() + _DAY, time(), timezone.utc)
        until = min(midnight, end)
        yield begin.date(), until - begin
        begin = until


def _texts(figures: Figures) -> list[str]:
    return [str(figures.used), str(figures.idle), str(figures.given_back)]


def _figures(texts: list[str]) -> Figures:
    used, idle, given_back = map(Fraction, texts)
    if min(used, idle, given_back) < 0:
        raise ValueError(texts)
    return Figures(used, idle, given_back)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return moment
