"""What follows from a reading of a kernel's GPU memory. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ..size import format_bytes

__all__ = ["Supervisor", "Verdict"]

#: Parts of the share in use: above the first the user is told, below the second may be told again.
_NEAR, _CALM = 0.90, 0.80
#: Readings in a row above the share after which something is done: at first, and at most.
_READINGS, _MOST_READINGS = 2, 8


@dataclass(frozen=True)
class Verdict:
    """What to do about a reading: a line for the notebook, and whether to stop the cell."""

    notice: str | None = None
    interrupt: bool = False


class Supervisor:
    """Judges one kernel's readings. Pure.

    The user is told once when the share is nearly full. A cell that keeps the kernel above its
    share for two readings in a row is stopped; one that goes on is stopped again, each time after
    twice as many readings, so that it has time to end in order. What is there already when no cell
    runs cannot be taken away, and is only told. Neighbours are never touched.
    """

    def __init__(self, share_bytes: int) -> None:
        self._share = share_bytes
        self._warned = False
        self._above = 0
        self._patience = _READINGS

    def judge(self, used_bytes: int | None, *, busy: bool) -> Verdict:
        """What follows from a reading; unknown use changes nothing."""
        if used_bytes is None or self._share <= 0:
            return Verdict()
        if used_bytes > self._share:
            self._above += 1
            return self._judge_above(used_bytes, busy=busy)
        self._above, self._patience = 0, _READINGS
        if used_bytes >= self._share * _NEAR and not self._warned:
            self._warned = True
            return Verdict(
                f"GPU memory is nearly full: {self._of(used_bytes)} in use. "
                "Free some, or choose a larger size."
            )
        if used_bytes < self._share * _CALM:
            self._warned = False
        return Verdict()

    def _judge_above(self, used_bytes: int, *, busy: bool) -> Verdict:
        if not busy:
            self._patience = _READINGS
        if self._above < self._patience:
            return Verdict()
        if busy:
            self._above = 0  # the next cell gets its own readings
            self._patience = min(2 * self._patience, _MOST_READINGS)
            return Verdict(
                f"The cell was stopped: the kernel uses more GPU memory than its share "
                f"({self._of(used_bytes)}). Free some, or choose a larger size.",
                interrupt=True,
            )
        if self._above == _READINGS:
            return Verdict(
                f"The kernel holds more GPU memory than its share ({self._of(used_bytes)}). "
                "The next cell will be stopped unless memory is freed."
            )
        return Verdict()

    def _of(self, used_bytes: int) -> str:
        return f"{format_bytes(used_bytes)} of {format_bytes(self._share)}"
