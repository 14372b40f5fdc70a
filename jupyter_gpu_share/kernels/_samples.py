"""Readings of one kernel over the last hour, in a memory that does not grow. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ..allocations import timestamp

__all__ = ["COUNT", "INTERVAL", "Samples"]

#: Seconds that one sample stands for.
INTERVAL = 15
#: How many samples are kept: an hour of them.
COUNT = 240


@dataclass
class _Slot:
    """What was read in one interval; ``number`` counts intervals since 1970."""

    number: int
    used: int | None = None
    total: float = 0.0
    known: int = 0

    def add(self, used: int | None, utilization: float | None) -> None:
        if used is not None:
            self.used = max(used, self.used or 0)
        if utilization is not None:
            self.total += utilization
            self.known += 1

    @property
    def utilization(self) -> float | None:
        return round(self.total / self.known, 3) if self.known else None


class Samples:
    """The most memory and the mean use of each interval; an interval without a reading is a gap."""

    def __init__(self) -> None:
        self._slots: deque[_Slot] = deque()

    def add(self, at: datetime, used_bytes: int | None, utilization: float | None) -> None:
        """A reading: bytes over all devices, and use from 0 to 1; None where not known."""
        if used_bytes is None and utilization is None:
            return
        number = int(at.timestamp() // INTERVAL)
        # Where the clock was set back, what is to come would be overwritten by what was.
        while self._slots and self._slots[-1].number > number:
            self._slots.pop()
        if not self._slots or self._slots[-1].number < number:
            self._slots.append(_Slot(number))
        self._slots[-1].add(used_bytes, utilization)
        self._forget(number)

    def to_json(self, now: datetime) -> dict[str, Any]:
        """``begin`` of the first sample, and two lists with one entry for each interval from it.

        ``begin`` is None and the lists are empty where nothing was read in the last hour.
        """
        self._forget(int(now.timestamp() // INTERVAL))
        used: list[int | None] = []
        use: list[float | None] = []
        begin = None
        if self._slots:
            first = self._slots[0].number
            begin = datetime.fromtimestamp(first * INTERVAL, timezone.utc)
            for slot in self._slots:
                gap = slot.number - first - len(used)
                used += [None] * gap + [slot.used]
                use += [None] * gap + [slot.utilization]
        return {
            "begin": timestamp(begin),
            "interval": INTERVAL,
            "used_bytes": used,
            "utilization": use,
        }

    def _forget(self, number: int) -> None:
        while self._slots and self._slots[0].number <= number - COUNT:
            self._slots.popleft()
