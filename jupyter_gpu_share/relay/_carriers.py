"""The threads that carry shell and iopub between clients and kernel, without Python in the way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from itertools import count

import zmq

from ._sockets import close, context
from ._wire import Socket

__all__ = ["CARRIED", "Carriers"]

_log = logging.getLogger(__name__)

#: What has enough traffic to be worth a thread.
CARRIED = ("shell", "iopub")

_PATIENCE_MS = 5000

_numbers = count()


class Carriers:
    """Two threads that carry frames between fronts and backs in libzmq's own proxy loop.

    Making them does all that can fail, and carries nothing yet: whoever cannot have them has lost
    nothing. From :meth:`let_go` to :meth:`stop` the sockets of :data:`CARRIED` belong to the
    threads.

    Attributes
    ----------
    capture: what passes on shell, both ways, each message once and in order.

    Raises
    ------
    zmq.ZMQError, RuntimeError: no descriptor or no thread is left. Nothing is left open.
    """

    def __init__(self, fronts: Mapping[str, Socket], backs: Mapping[str, Socket]) -> None:
        self._sockets: dict[str, Socket] = {}
        self._threads: list[threading.Thread] = []
        self._gate = threading.Event()
        self._called_off = self._stopping = False
        try:
            captured = self._open("captured", zmq.PAIR)
            self.capture = self._open("capture", zmq.PAIR)
            address = _address()
            captured.bind(address)
            self.capture.connect(address)
            # One end that steers, for both: a descriptor less than a pair for each.
            self._steering = self._open("steering", zmq.XPUB)
            self._steering.xpub_verbose = 1
            self._steering.rcvtimeo = _PATIENCE_MS
            address = _address()
            self._steering.bind(address)
            for name in CARRIED:
                steered = self._open(name, zmq.SUB)
                steered.subscribe(b"")
                steered.connect(address)
                # A command that is sent before its receiver is known would be lost.
                self._steering.recv()
                thread = threading.Thread(
                    target=self._carry,
                    args=(
                        fronts[name],
                        backs[name],
                        captured if name == "shell" else None,
                        steered,
                    ),
                    name=f"gpu-share-{name}",
                    daemon=True,
                )
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self.abandon()
            raise

    def _open(self, name: str, kind: int) -> Socket:
        socket = self._sockets[name] = context().socket(kind)
        socket.set_hwm(0)
        socket.linger = 0
        return socket

    def let_go(self) -> None:
        """Begin to carry."""
        self._gate.set()

    def abandon(self) -> None:
        """End without having carried anything."""
        self._called_off = True
        self.let_go()
        self._join()
        self.close()

    def _carry(self, front: Socket, back: Socket, capture: Socket | None, steered: Socket) -> None:
        self._gate.wait()
        if self._called_off:
            return
        try:
            zmq.proxy_steerable(front, back, capture, steered)
        except zmq.ContextTerminated:
            pass
        except zmq.ZMQError:
            # libzmq 4.3.5 replies to each command, which SUB cannot; the loop ends by that then.
            if not self._stopping:
                _log.exception("A kernel's messages are not carried any more")

    def stop(self) -> None:
        """End the threads; the sockets are the caller's again. What was captured stays readable."""
        self._stopping = True
        self._steering.send(b"TERMINATE")
        self._join()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """Close the own sockets; the threads must have ended."""
        close(self._sockets)


def _address() -> str:
    return f"inproc://carriers-{next(_numbers)}"
