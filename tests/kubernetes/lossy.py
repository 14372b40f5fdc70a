"""A proxy before the API server that reads what is asked, and can lose the answer of one write.

What was asked is done by the real API server; only the answer never comes. For a while after that
nothing is answered and nothing is passed on, as in a brown-out.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from aiohttp import web

__all__ = ["LossyProxy"]

_WRITES = ("POST", "PATCH", "DELETE")
_HOP = {"Content-Length", "Transfer-Encoding", "Connection", "Host"}


class LossyProxy:
    """Passes requests on over TLS, and answers without it.

    Parameters
    ----------
    host: where it listens, of the loopback addresses of this machine.

    Attributes
    ----------
    port: where it listens.
    behind: seconds by which what is watched comes late.
    writes: those of kernels' objects that were done since :meth:`lose`, as method and path.
    lost: the one whose answer was lost; empty before.
    """

    def __init__(self, target: str, authority: Path, host: str = "127.0.0.1") -> None:
        self.port = 0
        self._host = host
        self.behind = 0.0
        self.writes: list[str] = []
        self.lost = ""
        self._target = target
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._number: int | None = None
        self._beside = False
        self._away, self._until = 0.0, 0.0
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> LossyProxy:
        """Listen on a free port."""
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def close(self) -> None:
        """End."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    def lose(self, number: int, away: float, *, beside: bool = False) -> None:
        """Lose the answer to a write, counted from 0; then answer nothing for ``away`` seconds.

        Parameters
        ----------
        beside: count the signs of life of servers instead.
        """
        self.writes, self.lost = [], ""
        self._number, self._away, self._beside = number, away, beside

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        if time.monotonic() < self._until:
            return _hang_up(request)
        assert self._session is not None
        body = await request.read()
        headers = {key: value for key, value in request.headers.items() if key not in _HOP}
        url = f"{self._target}{request.raw_path}"
        async with self._session.request(
            request.method, url, data=body or None, headers=headers
        ) as found:
            if self._loses(request):
                await found.read()
                self._until = time.monotonic() + self._away
                return _hang_up(request)
            kept = {key: value for key, value in found.headers.items() if key not in _HOP}
            answer = web.StreamResponse(status=found.status, headers=kept)
            await answer.prepare(request)
            late = self.behind if "watch" in request.query else 0.0
            async for data in _later(found.content.iter_any(), late):
                await answer.write(data)
            await answer.write_eof()
            return answer

    def _loses(self, request: web.Request) -> bool:
        beside = request.path.rpartition("/leases")[1] != ""
        if request.method not in _WRITES or "reviews" in request.path or beside != self._beside:
            return False
        what = f"{request.method} {request.path}"
        self.writes.append(what)
        if self._number is None or len(self.writes) <= self._number or self.lost:
            return False
        self.lost = what
        return True


async def _later(source: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    """What comes, in its order, each piece so many seconds after it came."""
    clock = asyncio.get_running_loop().time
    pieces: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue()

    async def read() -> None:
        try:
            async for data in source:
                pieces.put_nowait((clock() + seconds, data))
        finally:
            pieces.put_nowait((clock() + seconds, None))

    reading = asyncio.ensure_future(read())
    try:
        while True:
            due, data = await pieces.get()
            await asyncio.sleep(max(0.0, due - clock()))
            if data is None:
                break
            yield data
        await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _hang_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
