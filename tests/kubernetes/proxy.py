"""A TCP proxy before the API server that can fall silent or lose answers."""

from __future__ import annotations

import asyncio
import contextlib

from listener import Listener


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
        self._listener = Listener(self._serve)
        self._deaf: set[asyncio.StreamWriter] = set()
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> Proxy:
        """Listen on a free port of loopback."""
        await self._listener.start()
        self.port = self._listener.port
        return self

    async def close(self) -> None:
        """End."""
        await self._listener.close()

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
        self._open.add(writer)
        other = None
        try:
            there, other = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(
                self._pass(reader, other, writer, asked=True),
                self._pass(there, writer, writer, asked=False),
            )
        finally:
            self._open.discard(writer)
            if other is not None:
                other.transport.abort()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await other.wait_closed()

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
