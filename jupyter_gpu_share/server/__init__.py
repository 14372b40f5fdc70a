"""The server extension: REST routes, events and metrics."""

from __future__ import annotations

from ._app import GpuShareApp

__all__ = ["GpuShareApp"]
