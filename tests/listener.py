"""A TCP server of a test, whose connections all end with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["Listener"]

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listener:
    """Runs ``serve`` for each connection in a task that it owns.

    ``asyncio`` forgets a connection whose task is cancelled before it began; its socket is found
    open when some later test collects garbage. Here each one is closed. It can start again.
    """

    def __init__(self, serve: Serve) -> None:
        self.port = 0
        self._serve = serve
        self._server: asyncio.Server | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self, port: int = 0, **options: Any) -> None:
        """Listen on loopback, on a free port unless one is given."""
        self._closed = False
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port, **options)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more, drop what is connected, and wait until it is gone."""
        assert self._server is not None
        self._closed = True
        self._server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._run(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
