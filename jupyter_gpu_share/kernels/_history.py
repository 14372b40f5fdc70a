"""What one kernel held and used: kept by its controller, over reloads of any page. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ..allocations import Allocation, timestamp
from ._holding import Holding
from ._samples import Samples

__all__ = ["KernelHistory"]


class KernelHistory:
    """Readings of the last hour, when a share was held, and the GPU-hours of both sides."""

    def __init__(self) -> None:
        self._samples = Samples()
        self._holding = Holding()

    def reading(self, at: datetime, used_bytes: int | None, utilization: float | None) -> None:
        """A reading of a kernel that holds its share; see :meth:`Samples.add`."""
        self._samples.add(at, used_bytes, utilization)

    def stands(self, row: Allocation, at: datetime) -> None:
        """The kernel's allocation is this from ``at`` on. Called at each change."""
        self._holding.stands(row, at)

    def to_json(self, kernel_id: str, now: datetime) -> dict[str, Any]:
        """The body of ``GET gpu-share/history/<kernel id>``."""
        return {
            "kernel_id": kernel_id,
            "now": timestamp(now),
            **self._holding.to_json(now),
            "samples": self._samples.to_json(now),
        }
