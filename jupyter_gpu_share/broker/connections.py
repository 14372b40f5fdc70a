"""Connections of users, so many and no more: none can keep the others out."""

from __future__ import annotations

import resource
import socket
from collections import Counter
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from .identity import uid_of

__all__ = ["BoundedServer", "listening_at", "more_descriptors"]

ROOT = 0


class BoundedServer(HTTPServer):
    """An HTTP server that closes what goes beyond the bounds.

    ``bounds`` is set before the first connection: most of one owner, and most of all together. On a
    Unix socket owners are users, and root is held to neither bound: the administrator gets in when
    everybody else is too many.
    """

    bounds: tuple[int, int] = (256, 4096)

    def initialize(self, *args: Any, **options: Any) -> None:
        """Called by tornado in place of ``__init__``."""
        super().initialize(*args, **options)
        self._users: dict[IOStream, Hashable] = {}

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Called by tornado with each connection."""
        try:
            owner = self.owner(stream)
        except OSError:
            stream.close()
            return
        opened: Counter[Hashable] = Counter(self._users.values())
        each, total = self.bounds
        if owner != ROOT and (opened[owner] >= each or opened.total() - opened[ROOT] >= total):
            stream.close()
            return
        self._users[stream] = owner
        super().handle_stream(stream, address)

    def owner(self, stream: IOStream) -> Hashable:
        """To whose bound a connection counts: the user's number.

        Raises
        ------
        OSError: it has ended.
        """
        return uid_of(stream.socket)

    def on_close(self, server_conn: Any) -> None:
        """Called by tornado when a connection has ended, whoever ended it."""
        self._users.pop(server_conn.stream, None)
        super().on_close(server_conn)


def listening_at(
    address: Any, *, family: int = socket.AF_INET, backlog: int | None = None
) -> socket.socket:
    """A socket that listens at an address of TCP, also where an earlier process has just ended.

    Parameters
    ----------
    backlog: most connections that are not accepted yet; None: what the system has.

    Raises
    ------
    OSError
    """
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(*([] if backlog is None else [backlog]))
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def more_descriptors() -> None:
    """Let this process have as many descriptors as it may.

    Each connection takes one, and on a machine each process that is watched.
    """
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
