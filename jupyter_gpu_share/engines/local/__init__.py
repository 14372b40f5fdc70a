"""The engine for one machine: a ledger, the GPUs that NVML reports, and processes."""

from __future__ import annotations

from ._engine import LocalEngine
from ._inventory import driver_is_installed
from ._simulated import SIMULATE

__all__ = ["SIMULATE", "LocalEngine", "driver_is_installed"]
