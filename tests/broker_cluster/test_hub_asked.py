"""How the Hub is asked: over connections that stay open, and over new ones where it closed them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from jupyter_gpu_share.broker.cluster.callers import HubAnswer, HubApi

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: _xsrf=x\r\n\r\n{}"


class _Hub:
    """Answers so many questions of a connection, then closes it when the next one comes."""

    def __init__(self) -> None:
        self.connections = 0
        self.answers = 1000
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        left = self.answers
        try:
            while True:
                question = await reader.readuntil(b"\r\n\r\n")
                if not left:
                    break
                left -= 1
                self.asked.append(question)
                writer.write(HEAD)
        except asyncio.IncompleteReadError:
            pass
        writer.close()


@pytest.fixture
async def hub() -> _Hub:
    return _Hub()


@pytest.fixture
async def api(hub: _Hub) -> AsyncIterator[HubApi]:
    server = await asyncio.start_server(hub.serve, "127.0.0.1", 0)
    made = HubApi(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hub/api")
    yield made
    await made.close()
    server.close()


async def test_connections_stay_open_and_tell_nothing_of_others(hub: _Hub, api: HubApi) -> None:
    for token in ("token-of-ann", "token-of-bob"):
        assert await api.user(token) == HubAnswer(200, b"{}")
    assert hub.connections == 1
    first, second = hub.asked
    assert b"token-of-ann" in first and b"token-of-ann" not in second
    assert b"Cookie" not in second


async def test_a_connection_that_the_hub_has_closed_is_no_hub_that_is_away(
    hub: _Hub, api: HubApi
) -> None:
    hub.answers = 1
    for _ in range(3):
        assert (await api.user("token-of-ann")).status == 200
    assert hub.connections == 3


async def test_a_hub_that_never_answers_is_away(hub: _Hub, api: HubApi) -> None:
    hub.answers = 0
    assert await api.user("token-of-ann") == HubAnswer(0)


async def test_a_hub_that_is_not_there_is_away() -> None:
    api = HubApi("http://127.0.0.1:9/hub/api")
    assert await api.user("token-of-ann") == HubAnswer(0)
    await api.close()
