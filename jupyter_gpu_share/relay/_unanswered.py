"""The cells that a kernel has not answered, and which of them it never will."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ._held import Held

__all__ = ["Unanswered"]

#: Seconds that a cell has before the kernel is asked whether it is past it.
_PATIENCE = 2.0


class Unanswered:
    """Cells of the main shell, from their sending to their reply.

    ipykernel sends no reply of a cell that is interrupted outside the code of the cell: while it
    begins or ends it. Such a cell would count as running for as long as the process lives. But
    what comes on shell is answered in order. So where a cell takes long, the relay sends one
    request more, and when that is answered, the cells before it are over. It is sent again after
    twice the time, as an interrupt may meet the request, too.

    Cells of subshells have an order of their own, and no interrupt meets them.
    """

    def __init__(self) -> None:
        self._cells: dict[str, tuple[Held, float]] = {}
        self._asked_at: float | None = None
        self._before: dict[str, frozenset[str]] = {}

    def sent(self, cell: Held) -> None:
        """The kernel is handed a cell."""
        if not cell.header.get("subshell_id"):
            self._cells[str(cell.header.get("msg_id"))] = cell, time.monotonic()

    def answered(self, msg_id: str) -> None:
        """A cell got its reply."""
        self._cells.pop(msg_id, None)

    def clear(self) -> None:
        """The process is another one, or there is none."""
        self._cells.clear()
        self.forget()

    # -- what is asked -----------------------------------------------------------------------

    @property
    def due(self) -> float | None:
        """When to ask, in seconds of ``time.monotonic``; None where no cell is open."""
        if not self._cells:
            return None
        _, oldest = next(iter(self._cells.values()))
        if self._asked_at is None:
            return oldest + _PATIENCE
        return self._asked_at + max(self._asked_at - oldest, _PATIENCE)

    def asked(self, msg_id: str) -> None:
        """A request was sent behind all cells that are open."""
        self._asked_at = time.monotonic()
        self._before[msg_id] = frozenset(self._cells)

    def over(self, parent: Mapping[str, Any]) -> list[Held]:
        """The cells that are over without a reply, as the request ``parent`` is answered."""
        before = self._before.pop(str(parent.get("msg_id")), frozenset())
        if before:
            self._asked_at = None
        return [cell for msg_id, (cell, _) in self._cells.items() if msg_id in before]

    @property
    def under_way(self) -> bool:
        """True while a request is not answered."""
        return bool(self._before)

    def forget(self) -> None:
        """The requests that are under way say nothing any more."""
        self._asked_at = None
        self._before.clear()
