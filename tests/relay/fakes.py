"""A kernel that does what a test says, to the last message."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session
from kernels import KEY, new_number

from jupyter_gpu_share.engines.base import Connection

Message = dict[str, Any]


class FakeKernel:
    """Answers each request with ``ok`` between busy and idle, unless told otherwise.

    Attributes
    ----------
    got: channel and message of each that came, in order.
    on: by message type, what to do in place of answering; called on the kernel's thread.
    """

    def __init__(self, folder: Path) -> None:
        self.connection = Connection(
            "ipc",
            str(folder / f"f{new_number()}"),
            {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5},
            KEY,
        )
        self.session = Session(key=KEY, signature_scheme="hmac-sha256")
        self.got: list[tuple[str, Message]] = []
        self.on: dict[str, Callable[[str, list[bytes], Message], None]] = {}
        self.sockets: dict[str, zmq.Socket[bytes]] = {}
        context = zmq.Context.instance()
        for name in ("shell", "control", "stdin", "iopub"):
            socket = context.socket(zmq.XPUB if name == "iopub" else zmq.ROUTER)
            socket.linger = 0
            socket.bind(self.connection.url(name))
            self.sockets[name] = socket
        self._ending = threading.Event()
        self._todo: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def types(self, channel: str) -> list[str]:
        """Types of the messages that came on a channel, the relay's own aside."""
        own = "gpu-share"
        return [
            message["header"]["msg_type"]
            for name, message in list(self.got)
            if name == channel and message["header"]["username"] != own
        ]

    def do(self, work: Callable[[], None]) -> None:
        """Have the kernel's thread do something."""
        self._todo.append(work)

    def status(self, state: str, parent: Mapping[str, Any]) -> None:
        self.publish("status", {"execution_state": state}, parent)

    def publish(self, kind: str, content: Message, parent: Mapping[str, Any] | None) -> None:
        """Send on iopub; on the kernel's thread."""
        message = self.session.msg(kind, content)
        message["parent_header"] = parent
        self.sockets["iopub"].send_multipart([kind.encode(), *self.session.serialize(message)])

    def reply(self, channel: str, idents: list[bytes], message: Message, **content: Any) -> None:
        """Answer a request; on the kernel's thread."""
        kind = message["header"]["msg_type"].removesuffix("_request") + "_reply"
        self.session.send(
            self.sockets[channel],
            kind,
            {"status": "ok", **content},
            parent=message["header"],
            ident=idents,
        )

    def _serve(self) -> None:
        while not self._ending.is_set():
            for work in self._todo[:]:
                self._todo.remove(work)
                work()
            for name, socket in self.sockets.items():
                if socket.poll(1 if name == "shell" else 0):
                    frames = socket.recv_multipart()
                    if name != "iopub":
                        self._take(name, frames)
        for socket in self.sockets.values():
            socket.close()

    def _take(self, name: str, frames: list[bytes]) -> None:
        idents, rest = self.session.feed_identities(frames)
        message = self.session.deserialize(rest)
        self.got.append((name, message))
        kind = message["header"]["msg_type"]
        if kind in self.on:
            self.on[kind](name, idents, message)
        elif kind.endswith("_request"):
            self.status("busy", message["header"])
            self.reply(name, idents, message, by="the kernel")
            self.status("idle", message["header"])

    def kill(self) -> None:
        """End it."""
        self._ending.set()
        self._thread.join()
