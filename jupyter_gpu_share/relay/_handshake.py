"""How the relay knows that a kernel is there, for all that comes next."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

__all__ = ["Handshake"]

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
        """A ``kernel_info_request`` is on its way."""
        self._asked, self._answered, self._heard = msg_id, False, False

    def note(
        self, header: Mapping[str, Any], parent: Mapping[str, Any], content: dict[str, Any]
    ) -> None:
        """Take note of a message of the kernel."""
        if parent.get("msg_id") != self._asked:
            return
        kind = header.get("msg_type")
        if kind == "kernel_info_reply":
            self._answered, self.info = True, content
            self._next = time.monotonic() + _INTERVAL
        elif kind == "status" and content.get("execution_state") == "idle":
            self._heard = True

    @property
    def done(self) -> bool:
        """True once nothing that the kernel sends can be missed."""
        return self._answered and self._heard

    @property
    def due(self) -> float | None:
        """When to ask again, in seconds of ``time.monotonic``.

        The kernel answered then, but its output is not subscribed to yet.
        """
        return self._next if self._answered and not self._heard else None
