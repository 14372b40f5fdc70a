"""When a kernel held a share, and what that adds up to. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from ..allocations import Allocation, Share, State, timestamp

__all__ = ["Holding"]

#: How far back spans are told, and how many at most: a share may go and come every few seconds.
_SPAN = timedelta(hours=1)
_SPANS = 60
_HOUR = 3600.0


@dataclass(frozen=True)
class _Held:
    """What is held: bytes over all devices, and how many GPUs (or MIG instances) that makes."""

    memory_bytes: int
    gpus: Fraction


@dataclass
class _Span:
    """A time in which the same was held; ``end`` is None while it is."""

    held: _Held
    begin: datetime
    end: datetime | None = None
    ended_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "begin": timestamp(self.begin),
            "end": timestamp(self.end),
            "ended_by": self.ended_by,
            "memory_bytes": self.held.memory_bytes,
        }


class Holding:
    """The spans of the last hour, and the sums since the first share.

    It is told of each change, so that a share that goes and comes between two looks counts.
    """

    def __init__(self) -> None:
        self._spans: deque[_Span] = deque(maxlen=_SPANS)
        self._since: datetime | None = None
        #: Of the last change, and what held from then on.
        self._at: datetime | None = None
        self._held: _Held | None = None
        self._away = False
        #: What was held last, also while nothing is.
        self._last: _Held | None = None
        self._hours = 0.0
        self._returned = 0.0

    def stands(self, row: Allocation, at: datetime) -> None:
        """The kernel's allocation is this from ``at`` on."""
        self._hours, self._returned = self._sums(at)
        before, held = self._held, _held(row.share)
        if before is not None and held != before:
            self._end(row, at, resized=held is not None)
        if held is not None and held != before:
            self._spans.append(_Span(held, at))
            self._since = self._since if before is not None else at
        elif held is None:
            self._since = None
        self._at, self._held = at, held
        self._last = held or self._last
        # While it asks for its share again, nobody gains from what it does not hold.
        self._away = row.state is State.RELEASED
        self._forget(at)

    def to_json(self, now: datetime) -> dict[str, Any]:
        """``held_since``, the spans of the last hour, and both sums in GPU-hours."""
        self._forget(now)
        hours, returned = self._sums(now)
        return {
            "held_since": timestamp(self._since),
            "spans": [span.to_json() for span in self._spans],
            "gpu_hours": round(hours, 6),
            "returned_gpu_hours": round(returned, 6),
        }

    def _end(self, row: Allocation, at: datetime, *, resized: bool) -> None:
        span = self._spans[-1]
        span.end = at
        released = row.state in (State.RELEASED, State.WAKING)
        span.ended_by = "resize" if resized else "release" if released else "end"

    def _sums(self, now: datetime) -> tuple[float, float]:
        """GPU-hours held, and given back, up to a moment."""
        if self._at is None:
            return 0.0, 0.0
        # A clock that was set back takes nothing away.
        hours = max(0.0, (now - self._at).total_seconds()) / _HOUR
        held = float(self._held.gpus) if self._held else 0.0
        away = float(self._last.gpus) if self._away and self._last else 0.0
        return self._hours + held * hours, self._returned + away * hours

    def _forget(self, now: datetime) -> None:
        while self._spans and (end := self._spans[0].end) is not None and end < now - _SPAN:
            self._spans.popleft()


def _held(share: Share | None) -> _Held | None:
    """None also for the size ``0``, whose share lies on no device."""
    if share is None or not share.devices:
        return None
    number = len(share.devices)
    return _Held(share.memory_bytes * number, share.fraction * number)
