"""What clients do with a kernel, counted from the messages that pass."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

__all__ = ["Activity", "ActivityCounter"]


@dataclass(frozen=True)
class Activity:
    """A moment's state. The counts are of messages: a cell of any length is in them.

    Attributes
    ----------
    pending_cells: sent and not answered yet, those held by the relay included.
    cells_sent, cells_done: since the relay was made.
    last_sent_at, last_done_at: when the relay last saw a cell sent and done; aware, in UTC. At
        most a moment (50 ms) after it was.
    last_sent, last_done: the same, in seconds of ``time.monotonic``.
    completions, inspections, comms: requests of those kinds, which are no use of the kernel.
    clients: sessions that ever sent a cell.
    """

    pending_cells: int = 0
    cells_sent: int = 0
    cells_done: int = 0
    last_sent_at: datetime | None = None
    last_done_at: datetime | None = None
    last_sent: float | None = None
    last_done: float | None = None
    completions: int = 0
    inspections: int = 0
    comms: int = 0
    clients: int = 0

    @property
    def busy(self) -> bool:
        """True while a cell runs or waits."""
        return self.pending_cells > 0

    @property
    def last_cell_at(self) -> datetime | None:
        """When a cell was last sent or done; aware, in UTC."""
        return max((at for at in (self.last_sent_at, self.last_done_at) if at), default=None)


class ActivityCounter:
    """Counts requests and replies by their headers."""

    def __init__(self) -> None:
        self._pending: set[str] = set()
        self._clients: set[str] = set()
        self._sent = self._done = 0
        self._completions = self._inspections = self._comms = 0
        self._last_sent: tuple[datetime, float] | None = None
        self._last_done: tuple[datetime, float] | None = None

    def request(self, header: Mapping[str, Any]) -> bool:
        """A client sent something. True where the number of cells changed."""
        kind, msg_id = header.get("msg_type"), header.get("msg_id")
        if kind == "execute_request" and isinstance(msg_id, str):
            if msg_id in self._pending:  # was held before and passes now
                return False
            self._pending.add(msg_id)
            self._clients.add(str(header.get("session")))
            self._sent += 1
            self._last_sent = _now()
            return True
        self._completions += kind == "complete_request"
        self._inspections += kind == "inspect_request"
        self._comms += kind in ("comm_open", "comm_msg", "comm_close")
        return False

    def reply(self, kind: object, parent_id: object) -> bool:
        """A client was answered. True where the number of cells changed."""
        if kind != "execute_reply" or not isinstance(parent_id, str):
            return False
        if parent_id not in self._pending:
            return False
        self._pending.discard(parent_id)
        self._done += 1
        self._last_done = _now()
        return True

    def lost(self, held: set[str]) -> bool:
        """The kernel is gone: cells that only it had are answered by nobody; ``held`` stay.

        True where there were any.
        """
        before = len(self._pending)
        self._pending &= held
        return len(self._pending) < before

    def snapshot(self) -> Activity:
        """The state now."""
        sent, done = self._last_sent, self._last_done
        return Activity(
            pending_cells=len(self._pending),
            cells_sent=self._sent,
            cells_done=self._done,
            last_sent_at=sent and sent[0],
            last_done_at=done and done[0],
            last_sent=sent and sent[1],
            last_done=done and done[1],
            completions=self._completions,
            inspections=self._inspections,
            comms=self._comms,
            clients=len(self._clients),
        )


def _now() -> tuple[datetime, float]:
    return datetime.now(timezone.utc), time.monotonic()
