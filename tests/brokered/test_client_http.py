"""The HTTP client of a cluster's broker: what it sends, what it takes, and what it never shows."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

import pytest
from fake_cluster_broker import TOKEN, FakeClusterBroker
from waiting import PATIENCE, eventually

from jupyter_gpu_share.broker import http_client
from jupyter_gpu_share.broker.client import BrokerAway, BrokerRefused, find_broker
from jupyter_gpu_share.broker.http_client import HttpBroker, News, broker_url, pauses, token_of
from jupyter_gpu_share.errors import EngineError

INSTANCE = "1" * 32
Serve = Callable[[Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]], Any]


@pytest.fixture
async def http(broker: FakeClusterBroker) -> AsyncIterator[HttpBroker]:
    made = HttpBroker(broker.url, TOKEN, INSTANCE)
    yield made
    await made.close()


@pytest.fixture
async def raw() -> AsyncIterator[Callable[..., Any]]:
    """Starts servers that answer with certain bytes, and gives a client of each."""
    servers: list[asyncio.Server] = []
    clients: list[HttpBroker] = []

    async def start(*pieces: bytes, stay: bool = False, **settings: Any) -> HttpBroker:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                if stay:
                    await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        port = server.sockets[0].getsockname()[1]
        clients.append(HttpBroker(f"http://127.0.0.1:{port}", TOKEN, INSTANCE, **settings))
        return clients[-1]

    yield start
    for client in clients:
        await client.close()
    for server in servers:
        server.close()


def answer(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("", None),
        ("/run/broker.sock", None),
        ("unix:///run/broker.sock", None),
        ("http://broker.gpu-share:8000/services/gpu-share/", "http://broker.gpu-share:8000/services/gpu-share"),
        ("HTTPS://broker/", "https://broker"),
        ("http://[fd00::1]:8000", "http://[fd00::1]:8000"),
    ],
)  # fmt: skip
def test_an_address_of_a_cluster_is_told_from_a_socket(named: str, found: str | None) -> None:
    assert broker_url({"JUPYTER_GPU_SHARE_BROKER": named}) == found


@pytest.mark.parametrize(
    "named",
    ["http:/broker", "http://", "http://me:secret@broker", "http://broker?x=1", "http://broker:x"],
)
def test_what_is_no_address_is_refused_without_being_shown(named: str) -> None:
    with pytest.raises(EngineError, match="write it like") as caught:
        broker_url({"JUPYTER_GPU_SHARE_BROKER": named})
    assert "secret" not in str(caught.value)


def test_the_broker_of_a_cluster_shares_out_nothing_of_this_machine() -> None:
    with pytest.raises(EngineError, match="names the broker of a cluster"):
        find_broker({"JUPYTER_GPU_SHARE_BROKER": "http://broker:8000"})


@pytest.mark.parametrize("token", ["", "two words", "a\nb", "ümlaut"])
def test_without_a_token_nothing_is_asked(token: str) -> None:
    with pytest.raises(EngineError, match="JUPYTERHUB_API_TOKEN is not set"):
        token_of({"JUPYTERHUB_API_TOKEN": token})


def test_pauses_grow_and_are_never_in_step() -> None:
    pause = pauses()
    found = [pause() for _ in range(12)]
    assert found[0] < 0.03
    assert all(0.05 <= seconds <= 0.1 for seconds in found[-4:])
    assert len(set(found)) == len(found)


async def test_token_and_instance_are_sent(http: HttpBroker, broker: FakeClusterBroker) -> None:
    assert (await http.ask("GET", "/v1/machine"))["engine"] == "kubernetes"
    wrong = HttpBroker(broker.url, "another", INSTANCE)
    with pytest.raises(BrokerRefused) as caught:
        await wrong.ask("GET", "/v1/machine")
    assert caught.value.status == 401
    await wrong.close()


async def test_proxies_of_the_environment_get_nothing(
    http: HttpBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await http.ask("GET", "/v1/shares") == []


async def test_a_connection_that_was_closed_unused_is_made_again(
    http: HttpBroker, broker: FakeClusterBroker
) -> None:
    await http.ask("GET", "/v1/shares")
    broker.lose("GET", "before")
    assert await http.ask("GET", "/v1/shares") == []


async def test_a_broker_that_does_not_answer_in_time_is_away(
    broker: FakeClusterBroker, http: HttpBroker
) -> None:
    broker.stalled = asyncio.Event()
    with pytest.raises(BrokerAway, match="does not answer"):
        await http.ask("GET", "/v1/shares", patience=0.1)
    broker.stalled.set()


async def test_a_broker_that_can_not_do_it_now_is_asked_again_and_says_why(
    broker: FakeClusterBroker, http: HttpBroker
) -> None:
    broker.problem = (503, "The Hub does not answer.")
    with pytest.raises(BrokerAway, match="The Hub does not answer"):
        await http.ask("GET", "/v1/shares")


async def test_no_redirect_is_followed(raw: Callable[..., Any]) -> None:
    client = await raw(answer("302 Found", b"", "Location: http://127.0.0.1:9/elsewhere"))
    with pytest.raises(BrokerRefused, match="is no broker"):
        await client.ask("GET", "/v1/shares")


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfe", b"[" * 100_000])
async def test_an_answer_that_makes_no_sense_is_refused(
    raw: Callable[..., Any], body: bytes
) -> None:
    client = await raw(answer("200 OK", body))
    with pytest.raises(EngineError):
        await client.ask("GET", "/v1/shares")


async def test_an_answer_is_bounded(
    raw: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "_MAX_ANSWER", 1000)
    client = await raw(answer("200 OK", b'"' + b"x" * 2000 + b'"'))
    with pytest.raises(BrokerAway):
        await client.ask("GET", "/v1/shares")


async def test_the_token_is_in_no_error_and_no_log(
    raw: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = f'{{"detail": "I know your token: {TOKEN}"}}'.encode()
    clients = [
        await raw(answer("403 Forbidden", said)),
        await raw(answer("503 No", said)),
        await raw(b"no HTTP at all\r\n\r\n"),
        await raw(answer("200 OK", b"x"), patience=0.1),
        HttpBroker("http://127.0.0.1:9", TOKEN, INSTANCE),
    ]
    for client in clients:
        assert TOKEN not in repr(client)
        with pytest.raises(EngineError) as caught:
            await client.ask("GET", "/v1/shares")
        shown = "".join(traceback.format_exception(caught.value))
        assert TOKEN not in shown
        assert "\n" not in str(caught.value)
    await clients[-1].close()
    assert TOKEN not in caplog.text


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


async def heard(client: HttpBroker, last: str = "") -> list[News]:
    async with aclosing(client.events(last)) as stream:
        return [news async for news in stream]


async def test_events_come_in_any_pieces(raw: Callable[..., Any]) -> None:
    text = b': a sign of life\n\nid: b-1\nevent: row\ndata: {"a": 1}\n\nid: b-2\r\nevent: gone\r\n'
    text += b'data: {"b": "\xc3\xa4"}\r\n\r\ndata: no JSON\n\ndata: [1]\n\ndata: {"cut'
    client = await raw(HEAD, *(text[n : n + 1] for n in range(len(text))))
    assert await heard(client) == [News("b-1", "row", {"a": 1}), News("b-2", "gone", {"b": "ä"})]


async def test_a_stream_without_a_sign_of_life_is_lost(raw: Callable[..., Any]) -> None:
    client = await raw(HEAD, b": hello\n\n", stay=True, silence=0.2)
    with pytest.raises(BrokerAway):
        await asyncio.wait_for(heard(client), PATIENCE)


async def test_an_event_is_bounded(
    raw: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "_MAX_ANSWER", 1000)
    client = await raw(HEAD, b"data: " + b"x" * 3000, stay=True)
    with pytest.raises(BrokerAway):
        await asyncio.wait_for(heard(client), PATIENCE)


async def test_a_stream_is_resumed_where_it_stopped(
    broker: FakeClusterBroker, http: HttpBroker
) -> None:
    async with aclosing(http.events()) as stream:
        first = await anext(stream)
        assert first.kind == "reset"
        broker.publish("wanted", {})
        number = (await anext(stream)).number
    broker.publish("gone", {"kernel_id": "k", "attempt": "a"})
    async with aclosing(http.events(number)) as stream:
        assert (await anext(stream)).kind == "gone", "what was missed"
    await eventually(lambda: not broker._streams, "the connection is closed")
