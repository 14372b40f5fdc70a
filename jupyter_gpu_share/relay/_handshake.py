"""How the relay knows that a kernel is there, for all that comes next."""

from __future__ import annotations

import time
from typing import Any

#: The relay's own requests come back under a name that no client has.
OWN_IDENT = b"gpu-share-handshake"
#: Seconds until the handshake is repeated when the kernel answered but its output did not come.
_INTERVAL = 0.05


class Handshake:
    """Whether the kernel answers and its output arrives: both, for the same request."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}
        self._asked: str | None = None
        self._answered = False
        self._heard = False
        self._next = 0.0

    def sent(self, msg_id: str) -> None:
        self._asked, self._answered, self._heard = msg_id, False, False

    def answered(self, parent_id: object, info: dict[str, Any]) -> None:
        if parent_id == self._asked:
            self._answered, self.info = True, info
            self._next = time.monotonic() + _INTERVAL

    def heard(self, parent_id: object) -> None:
        self._heard |= parent_id == self._asked

    @property
    def done(self) -> bool:
        return self._answered and self._heard

    @property
    def overdue(self) -> bool:
        """The kernel answered, but its output is not subscribed to yet."""
        return self._answered and not self._heard and time.monotonic() >= self._next

    def milliseconds_left(self) -> int | None:
        if not self._answered:
            return None
        return max(0, int((self._next - time.monotonic()) * 1000) + 1)
