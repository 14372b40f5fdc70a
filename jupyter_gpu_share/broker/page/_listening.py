"""Where the page is served."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable

from tornado import web
from tornado.httpserver import HTTPServer

from ...errors import EngineError
from ..connections import listening_at

__all__ = ["listen", "run"]

#: Bytes of a request's body.
_MAX_BODY = 16 * 1024


def listen(host: str, port: int, other: str) -> socket.socket:
    """A listening socket.

    Parameters
    ----------
    port: 0 for any that is free.
    other: how to name another port, as the end of the error's line.

    Raises
    ------
    EngineError: the port is taken, or the host is none of this machine's.
    """
    try:
        return listening_at((host, port))
    except OSError as error:
        raise EngineError(f"The page cannot use port {port}: {error.strerror}. {other}") from error


async def run(
    application: web.Application, listening: socket.socket, ready: Callable[[], None]
) -> None:
    """Serve until SIGTERM or SIGINT; ``ready`` is called when the page can be opened."""
    server = HTTPServer(application, max_body_size=_MAX_BODY)
    server.add_socket(listening)
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, over.set)
    try:
        ready()
        await over.wait()
    finally:
        server.stop()
        await server.close_all_connections()
