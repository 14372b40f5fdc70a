"""What clients do with a kernel, counted from the messages that pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any


@dataclass(frozen=True)
class Activity:
    """A moment's state.

    Attributes
    ----------
    pending_cells: sent and not answered yet, those held by the relay included.
    cells_sent, cells_done: since the relay was made.
    last_cell_at: when a cell was last sent or done; aware, in UTC.
    completions, inspections, comms: requests of those kinds, which are no use of the kernel.
    clients: sessions that ever sent a cell.
    """

    pending_cells: int = 0
    cells_sent: int = 0
    cells_done: int = 0
    last_cell_at: datetime | None = None
    completions: int = 0
    inspections: int = 0
    comms: int = 0
    clients: int = 0

    @property
    def busy(self) -> bool:
        """True while a cell runs or waits."""
        return self.pending_cells > 0


class ActivityCounter:
    """Counts requests and replies by their headers."""

    def __init__(self) -> None:
        self._pending: set[str] = set()
        self._clients: set[str] = set()
        self._sent = self._done = 0
        self._completions = self._inspections = self._comms = 0
        self._last: datetime | None = None

    def request(self, header: Mapping[str, Any]) -> bool:
        """A client sent something. True where the number of cells changed."""
        kind, msg_id = header.get("msg_type"), header.get("msg_id")
        if kind == "execute_request" and isinstance(msg_id, str):
            if msg_id in self._pending:  # was held before and passes now
                return False
            self._pending.add(msg_id)
            self._clients.add(str(header.get("session")))
            self._sent += 1
            self._last = datetime.now(timezone.utc)
            return True
        self._completions += kind == "complete_request"
        self._inspections += kind == "inspect_request"
        self._comms += kind in ("comm_open", "comm_msg", "comm_close")
        return False

    def reply(self, kind: object, parent_id: object) -> bool:
        """A client was answered. True where the number of cells changed."""
        if kind != "execute_reply" or parent_id not in self._pending:
            return False
        self._pending.discard(str(parent_id))
        self._done += 1
        self._last = datetime.now(timezone.utc)
        return True

    def lost(self, held: set[str]) -> None:
        """The kernel is gone: cells that only it had are answered by nobody; ``held`` stay."""
        self._pending &= held

    def snapshot(self) -> Activity:
        """The state now."""
        return Activity(
            pending_cells=len(self._pending),
            cells_sent=self._sent,
            cells_done=self._done,
            last_cell_at=self._last,
            completions=self._completions,
            inspections=self._inspections,
            comms=self._comms,
            clients=len(self._clients),
        )
