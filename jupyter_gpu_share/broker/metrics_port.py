"""Metrics on a port of their own, as Prometheus asks for them.

On a machine every user can connect to it. So it has few connections and makes its answer at most
once a second, and where it names users it asks for a token.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic

from prometheus_client import CONTENT_TYPE_LATEST
from tornado import web
from tornado.iostream import IOStream

from ..errors import EngineError, GpuShareError
from .connections import BoundedServer, listening_at

__all__ = ["MetricsPort", "listen_locally", "read_token"]

_CONNECTIONS = 16
_IDLE_TIMEOUT = 60.0
_MAX_BODY = 1024
#: Seconds that an answer counts.
_LIFETIME = 1.0

Collect = Callable[[], Awaitable[bytes]]


class MetricsPort:
    """Serves ``/metrics``.

    Parameters
    ----------
    listening: a socket, which is closed with it.
    collect: makes the answer.
    token: who has none as ``Authorization: Bearer`` gets nothing; empty: everybody gets it.
    """

    def __init__(self, listening: socket.socket, collect: Collect, token: str = "") -> None:
        given = {"answer": _Answer(collect), "token": token}
        self._server = _Server(
            web.Application([(r"/metrics", _Metrics, given)], log_function=lambda handler: None),
            max_body_size=_MAX_BODY,
            idle_connection_timeout=_IDLE_TIMEOUT,
            body_timeout=_IDLE_TIMEOUT,
        )
        self._server.bounds = (_CONNECTIONS, _CONNECTIONS)
        self._server.add_socket(listening)

    async def close(self) -> None:
        """Serve nobody any more."""
        self._server.stop()
        await self._server.close_all_connections()


class _Server(BoundedServer):
    """Who connects is not known here: all share the bounds."""

    def owner(self, stream: IOStream) -> int:
        return -1


class _Answer:
    """Made again when it is old; whoever asks meanwhile waits for the same one."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect
        self._lock = asyncio.Lock()
        self._known = b""
        self._until = 0.0

    async def get(self) -> bytes:
        async with self._lock:
            if monotonic() >= self._until:
                self._known = await self._collect()
                self._until = monotonic() + _LIFETIME
            return self._known


class _Metrics(web.RequestHandler):
    def initialize(self, answer: _Answer, token: str) -> None:
        self.answer = answer
        self.token = token

    async def get(self) -> None:
        sent = self.request.headers.get("Authorization", "")
        if self.token and not hmac.compare_digest(sent.encode(), f"Bearer {self.token}".encode()):
            self.set_header("WWW-Authenticate", "Bearer")
            self._line(401, "The metrics need the token of c.Broker.metrics_token_file.")
            return
        try:
            text = await self.answer.get()
        except GpuShareError as error:
            self._line(503, str(error))
            return
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(text)

    def _line(self, status: int, line: str) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(line + "\n")


def read_token(path: str) -> str:
    """The token in a file; empty where no file is named.

    Raises
    ------
    EngineError: it cannot be read, is empty, or is open to everybody.
    """
    if not path:
        return ""
    file = Path(path)
    try:
        everybody = file.stat().st_mode & stat.S_IRWXO
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise EngineError(
            f"The token for the metrics cannot be read from {file}: {why}. Name another file in "
            "c.Broker.metrics_token_file."
        ) from error
    if everybody or not token:
        what = "is open to everybody" if everybody else "is empty"
        raise EngineError(
            f"The file {file} with the token for the metrics {what}. Make a new one: "
            f"umask 027; openssl rand -hex 32 > {file}"
        )
    return token


def listen_locally(port: int) -> socket.socket:
    """A listening socket at a port of 127.0.0.1.

    Raises
    ------
    EngineError: it is taken.
    """
    try:
        return listening_at(("127.0.0.1", port), backlog=_CONNECTIONS)
    except OSError as error:
        raise EngineError(
            f"The metrics cannot use port {port} of 127.0.0.1: {error.strerror}. Name another in "
            "c.Broker.metrics_port."
        ) from error
