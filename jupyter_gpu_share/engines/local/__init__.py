"""The engine for one machine: a ledger, the GPUs that NVML reports, and processes."""

from __future__ import annotations

from ._engine import LocalEngine
from ._everybody import everybody

__all__ = ["LocalEngine", "everybody"]
