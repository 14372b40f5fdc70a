"""Times of the day and the week, in the administrator's time zone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

__all__ = ["FIELDS", "Window", "zone"]

FIELDS = ("days", "from", "to")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)|24:00", re.ASCII)
_DAY = timedelta(days=1)
_MIDNIGHT = 24 * 60


@dataclass(frozen=True)
class Window:
    """From one time of the day to another, on some days of the week.

    Past midnight it belongs to the day on which it begins. Where both times are the same it is
    the whole day.

    Attributes
    ----------
    days: 0 is Monday.
    begin, end: minutes after midnight.
    """

    days: frozenset[int]
    begin: int
    end: int

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Window:
        """From an entry of ``IdlePolicy.windows``.

        Raises
        ------
        ValueError: in words that go on after the setting's name.
        """
        return cls(
            days=_days(entry.get("days", "mon-sun")),
            begin=_minutes(entry.get("from", "00:00"), "from"),
            end=_minutes(entry.get("to", "24:00"), "to"),
        )

    def spans(self, first: datetime, last: datetime, where: tzinfo | None) -> Iterator[Span]:
        """When it holds, from ``first`` to ``last``, as moments of UTC.

        Parameters
        ----------
        where: the time zone; None for the machine's.
        """
        # One that began the day before may go on; another zone may be a day ahead or behind.
        day = first.astimezone(where).date() - _DAY
        until = last.astimezone(where).date()
        while day <= until:
            if day.weekday() in self.days:
                yield _span(self, day, where)
            day += _DAY


Span = tuple[datetime, datetime]


@lru_cache(maxsize=4096)
def _span(window: Window, day: date, where: tzinfo | None) -> Span:
    length = (window.end - window.begin) % _MIDNIGHT or _MIDNIGHT
    end = window.begin + length
    return _moment(day, window.begin, where), _moment(day, end, where)


def _moment(day: date, minutes: int, where: tzinfo | None) -> datetime:
    days, rest = divmod(minutes, _MIDNIGHT)
    local = datetime.combine(day + days * _DAY, time(rest // 60, rest % 60), where)
    return local.astimezone(timezone.utc)


def zone(name: str) -> tzinfo | None:
    """The time zone of a name such as ``Europe/Berlin``; None, the machine's, for no name.

    Raises
    ------
    ValueError: there is none of that name here.
    """
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"no time zone {name!r} is known here") from error


def _days(value: Any) -> frozenset[int]:
    found: set[int] = set()
    for part in str(value).lower().split(","):
        first, _, last = (word.strip() for word in part.partition("-"))
        if first not in _DAYS or (last or first) not in _DAYS:
            raise ValueError(f"days are written like 'mon-fri' or 'sat,sun', not {value!r}")
        begin = _DAYS.index(first)
        length = (_DAYS.index(last or first) - begin) % 7
        found |= {(begin + step) % 7 for step in range(length + 1)}
    return frozenset(found)


def _minutes(value: Any, name: str) -> int:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{name} is a time such as '07:30', not {value!r}")
    return int(match[1]) * 60 + int(match[2]) if match[1] else _MIDNIGHT
