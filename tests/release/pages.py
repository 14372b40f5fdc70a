"""Pages of a notebook, and what came over their websockets."""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import websocket
from servers import TOKEN, Server
from waiting import PATIENCE

__all__ = ["Answer", "Heard", "Page"]


@dataclass(frozen=True)
class Answer:
    """How a request was answered: its status, and of an error the name and the line."""

    status: str
    ename: str = ""
    evalue: str = ""
    expressions: dict[str, Any] = field(default_factory=dict)

    @property
    def interrupted(self) -> bool:
        """Whether the kernel itself was interrupted; a cell that waited has another line."""
        by_kernel = not self.evalue or "how much of it ran" in self.evalue
        return self.ename == "KeyboardInterrupt" and by_kernel


@dataclass
class Heard:
    """What all pages have heard, each message once.

    Attributes
    ----------
    answers: by the id of the request.
    ran: how often each token was printed.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    ran: Counter[str] = field(default_factory=Counter)
    _seen: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, message: dict[str, Any]) -> None:
        """Note a message."""
        header, content = message["header"], message["content"]
        asked = str(message["parent_header"].get("msg_id"))
        with self._lock:
            if header["msg_id"] in self._seen:
                return  # the other tab has heard it too
            self._seen.add(header["msg_id"])
            if header["msg_type"].endswith("_reply"):
                error = (str(content.get(name) or "") for name in ("ename", "evalue"))
                found = content.get("user_expressions") or {}
                answer = Answer(content.get("status", "ok"), *error, found)
                assert asked not in self.answers, f"{asked} was answered twice"
                self.answers[asked] = answer
            elif header["msg_type"] == "stream" and content["name"] == "stdout":
                for line in content["text"].splitlines():
                    if line.startswith("RAN "):
                        self.ran[line.split()[1]] += 1


class Page:
    """A tab: one websocket, and what came over it."""

    def __init__(self, server: Server, kernel_id: str, heard: Heard) -> None:
        url = server.url.replace("http", "ws", 1) + f"api/kernels/{kernel_id}/channels"
        header = [f"Authorization: token {TOKEN}"]
        self._socket = websocket.create_connection(url, header=header, timeout=PATIENCE)
        self._socket.settimeout(None)  # a kernel that waits for its share may be silent for long
        self._heard = heard
        self._session = uuid4().hex
        self._fault: AssertionError | None = None
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def run(self, token: str, code: str, *, strict: bool = False, **expressions: str) -> None:
        """Send a cell; its message has the token for its id.

        Parameters
        ----------
        strict: cells that wait behind it are aborted where it fails.
        """
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        content |= {"user_expressions": expressions, "stop_on_error": strict}
        self.send(token, "execute_request", content)

    def send(self, msg_id: str, kind: str, content: object, channel: str = "shell") -> None:
        """Send any message. Nobody minds where the page is gone."""
        header = {"msg_id": msg_id, "msg_type": kind, "version": "5.3"}
        header |= {"session": self._session, "username": "", "date": "2026-01-01T00:00:00Z"}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        self._socket.send(json.dumps({**message, "channel": channel}))

    def close(self) -> None:
        """Leave, as a page that is reloaded does."""
        with suppress(Exception):
            self._socket.send_close()
        with suppress(Exception):
            self._socket.abort()
        self._thread.join(PATIENCE)
        with suppress(Exception):
            self._socket.shutdown()
        self.check()

    def check(self) -> None:
        """Fail where something came that must not."""
        if self._fault is not None:
            raise self._fault

    def _listen(self) -> None:
        try:
            while text := self._socket.recv():
                self._heard.take(json.loads(text))
        except AssertionError as fault:
            self._fault = fault
        except Exception:
            return  # the page was closed, or its server has ended
