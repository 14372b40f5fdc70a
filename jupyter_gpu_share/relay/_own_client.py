"""The relay as a client of its own kernel, for what it asks while messages are carried past it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from typing import Any

import zmq
from jupyter_client.session import Session

from ._sockets import context
from ._wire import Socket

__all__ = ["OwnClient"]

_numbers = count()


class OwnClient:
    """Sends to the clients' side of shell, within the process. Belongs to the relay's thread.

    Only what the carriers pass on reaches the kernel: at other times the relay would answer itself.

    Attributes
    ----------
    socket: to be polled; None while nothing is asked.
    """

    def __init__(self, shell: Socket, session: Session) -> None:
        self.socket: Socket | None = None
        self._session = session
        self._address = f"inproc://relay-shell-{next(_numbers)}"
        shell.bind(self._address)

    def ask(self, kind: str, metadata: Mapping[str, Any]) -> str:
        """Send a request without content; its id.

        Where no descriptor is left it is not sent, as one that an interrupt has met.
        """
        message = self._session.msg(kind, {}, metadata=dict(metadata))
        with suppress(zmq.ZMQError):
            if self.socket is None:
                socket = context().socket(zmq.DEALER)
                socket.linger = 0
                socket.connect(self._address)
                self.socket = socket
            self.socket.send_multipart(self._session.serialize(message))
        return str(message["msg_id"])

    def close(self) -> None:
        """Wait for no answer any more. It can be asked again."""
        if self.socket is not None:
            self.socket.close(linger=0)
            self.socket = None
