"""A TCP proxy before the API server that can fall silent or lose answers."""

from __future__ import annotations

import asyncio
import contextlib


class Proxy:
    """Passes bytes on, TLS and all. What it does wrong is set from outside.

    Attributes
    ----------
    silent: nothing passes any more on the connections there are, and none is closed. New
        connections work.
    lose: so many of the next answers are thrown away, with their connections.
    """

    def __init__(self, port: int) -> None:
        self.lose = 0
        self.lost = 0
        self.port = 0
        self._target = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaf: set[asyncio.StreamWriter] = set()
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> Proxy:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """End."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def fall_silent(self) -> int:
        """Pass nothing on any more on what is connected now; how many connections that are."""
        self._deaf |= self._open
        return len(self._open)

    async def hang_up(self) -> None:
        """Close what has fallen silent, so that the other end can close it too."""
        deaf, self._deaf = self._deaf, set()
        for writer in deaf:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        other = None
        try:
            there, other = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(
                self._pass(reader, other, writer, asked=True),
                self._pass(there, writer, writer, asked=False),
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._open.discard(writer)
            for end in (writer, other):
                if end is not None:
                    end.transport.abort()
                    with contextlib.suppress(OSError, asyncio.CancelledError):
                        await end.wait_closed()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        *,
        asked: bool,
    ) -> None:
        while data := await reader.read(65536):
            if client in self._deaf:
                continue
            if not asked and self.lose > 0 and len(data) > 300:
                self.lose -= 1
                self.lost += 1
                raise OSError("lost")
            writer.write(data)
            await writer.drain()
        raise OSError("closed")
