"""Allocations: one kernel with its size, share and state, the same everywhere it is shown."""

from __future__ import annotations

from ._model import (
    Allocation,
    Device,
    Isolation,
    Kept,
    NextAction,
    QueuePosition,
    Share,
    State,
    timestamp,
)
from ._table import AllocationTable

__all__ = [
    "Allocation",
    "AllocationTable",
    "Device",
    "Isolation",
    "Kept",
    "NextAction",
    "QueuePosition",
    "Share",
    "State",
    "timestamp",
]
