"""Connections of users, so many and no more: none can keep the others out."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from .identity import uid_of

__all__ = ["BoundedServer"]


class BoundedServer(HTTPServer):
    """An HTTP server on a Unix socket that closes what goes beyond the bounds.

    ``bounds`` is set before the first connection: most of one user, and most of all together. Root
    is held to neither: the administrator gets in when everybody else is too many.
    """

    bounds: tuple[int, int] = (256, 4096)

    def initialize(self, *args: Any, **options: Any) -> None:
        """Called by tornado in place of ``__init__``."""
        super().initialize(*args, **options)
        self._users: dict[IOStream, int] = {}

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Called by tornado with each connection."""
        try:
            uid = self.owner(stream)
        except OSError:
            stream.close()
            return
        opened = Counter(self._users.values())
        each, total = self.bounds
        if uid and (opened[uid] >= each or opened.total() - opened[0] >= total):
            stream.close()
            return
        self._users[stream] = uid
        super().handle_stream(stream, address)

    def owner(self, stream: IOStream) -> int:
        """The user to whose bound a connection counts.

        Raises
        ------
        OSError: it has ended.
        """
        return uid_of(stream.socket)

    def on_close(self, server_conn: Any) -> None:
        """Called by tornado when a connection has ended, whoever ended it."""
        self._users.pop(server_conn.stream, None)
        super().on_close(server_conn)
