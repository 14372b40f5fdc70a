"""Changes of allocations, as Jupyter events."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from jupyter_events import EventLogger

from ..allocations import Allocation, AllocationTable

EVENT_SCHEMA = Path(__file__).parent / "events" / "allocation-v1.yaml"
EVENT_ID = "https://events.jupyter.org/jupyter_gpu_share/allocation/v1"


class EventRelay:
    """Carries changes from the threads that make them to the server's event loop.

    Must be made on that loop.
    """

    def __init__(self, table: AllocationTable, logger: EventLogger) -> None:
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._stop = table.listen(self._pass)

    def close(self) -> None:
        """Stop. What was passed already is still told."""
        self._stop()

    def _pass(self, allocation: Allocation) -> None:
        with suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(self._emit, allocation)

    def _emit(self, allocation: Allocation) -> None:
        self._logger.emit(schema_id=EVENT_ID, data=allocation.to_json())
