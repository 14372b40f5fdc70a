"""Time that goes on when a test says so."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

__all__ = ["MINUTE", "START", "Clock"]

START = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)


class Clock:
    """What is now; aware."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def wait(self, minutes: float) -> None:
        self.now += minutes * MINUTE
