"""A watch goes on, whatever happens to connections and answers (FAKE server)."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from scripted import NAMESPACE, Act, ScriptedServer, refuse, reset, right, silence, stream
from waiting import eventually
from watched import Clock, Watched, the_same

from jupyter_gpu_share.engines.kubernetes.api import PODS, KubeApi, _access, _transport, _watch

SOON = 20.0


TROUBLES: dict[str, list[Act]] = {
    "500": [refuse(500)] * 3,
    "503": [refuse(503)] * 3,
    "429": [refuse(429)] * 3,
    "410": [refuse(410)] * 3,
    "no answer": [reset],
    "half an event, then the end": [stream(b'{"type": "ADD', then="end")],
    "half an event, then a reset": [stream(b'{"type": "ADD', then="reset")],
    "no JSON": [stream(b"<html>\n"), stream(b'{"type": \n')],
    "no event": [stream(b"[]\n"), stream(b'{"type": "ADDED", "object": {}}\n'), stream(b"{}\n")],
    "a kind of event of later times": [stream(b'{"type": "X", "object": {"metadata": {}}}\n')],
    "ends at once": [stream(then="end")] * 3,
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_it_goes_on(
    server: ScriptedServer, watched: Watched, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    server.put("a")
    server.then("watch", *TROUBLES[trouble])
    await watched.watch.synced()
    server.put("b")
    server.remove("a")
    if trouble.startswith("a kind"):
        await eventually(lambda: len(server.asked("watch")) == 1, "it watches")
        server.reset_lines()
    await watched.settled(server)
    assert the_same(watched, server)
    await eventually(lambda: server.watches and not watched.watch.health.error, "it is well again")


def error_event(code: int) -> Act:
    """A watch that ends with this."""
    error = {"kind": "Status", "code": code, "message": "as scripted"}
    return stream(json.dumps({"type": "ERROR", "object": error}).encode() + b"\n")


@pytest.mark.parametrize("as_event", [False, True])
@pytest.mark.parametrize(
    ("code", "lists", "words"),
    [
        (410, 2, "has to be read again"),
        (400, 2, "refused to watch pods"),
        (404, 2, "no such object"),
        (500, 1, "a problem of its own: 500"),
        (429, 1, "asked to wait"),
    ],
)
async def test_it_lists_again_where_that_helps(
    server: ScriptedServer,
    watched: Watched,
    caplog: pytest.LogCaptureFixture,
    code: int,
    lists: int,
    words: str,
    as_event: bool,
) -> None:
    caplog.set_level(logging.INFO)
    server.then("watch", error_event(code) if as_event else refuse(code))
    await watched.watch.synced()
    await watched.settled(server)
    assert watched.watch.health.lists == lists
    assert words in caplog.text
    assert "begins anew" not in caplog.text


@pytest.mark.parametrize("trouble", [refuse(500), refuse(503), refuse(429), reset])
async def test_a_list_that_fails_is_asked_for_again(
    server: ScriptedServer, watched: Watched, trouble: Act
) -> None:
    server.put("a")
    server.then("list", trouble, trouble)
    await watched.watch.synced()
    assert the_same(watched, server)
    assert len(server.asked("list")) == 3


async def test_a_list_that_expires_between_its_pages(
    server: ScriptedServer, watched: Watched
) -> None:
    for number in range(1203):
        server.put(f"pod-{number}")

    async def compacted(server: ScriptedServer, call: Any, line: Any) -> bool:
        server.compact()
        return await right(server, call, line)

    server.then("list", right, compacted)
    await watched.watch.synced()
    assert the_same(watched, server)
    await watched.settled(server)


@pytest.mark.parametrize("troubles", [[silence], [stream()], [stream(b'{"type": ')]])
@pytest.mark.slow
async def test_a_connection_that_died_without_a_word(
    server: ScriptedServer, api: KubeApi, monkeypatch: pytest.MonkeyPatch, troubles: list[Act]
) -> None:
    monkeypatch.setattr(_watch, "_GRACE", 0.2)
    watched = Watched(api, period=1.0)
    server.then("watch", *troubles)
    await watched.watch.synced()
    server.put("a")
    await eventually(lambda: len(server.asked("watch")) == 2, "the silence is noticed", SOON)
    await watched.settled(server)
    assert the_same(watched, server)
    await watched.watch.close()


@pytest.mark.slow
async def test_a_watch_that_never_ends_is_ended(
    server: ScriptedServer, api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something in between may not pass ``timeoutSeconds`` on; then nothing was listed again."""
    monkeypatch.setattr(_watch, "_GRACE", 0.2)
    watched = Watched(api, period=1.0, resync=0.0)
    talking = stream(then="hold")

    async def talks(server: ScriptedServer, call: Any, line: Any) -> bool:
        endless = asyncio.create_task(_talk(line))
        try:
            return await talking(server, call, line)
        finally:
            endless.cancel()

    server.then("watch", talks)
    await watched.watch.synced()
    await eventually(lambda: watched.watch.health.lists >= 2, "it lists again", SOON)
    await watched.watch.close()


async def _talk(line: Any) -> None:
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "1"}}}
    while True:
        await asyncio.sleep(0.02)
        await line.chunk(json.dumps(bookmark).encode() + b"\n")


async def test_a_line_without_end_is_not_collected(
    server: ScriptedServer, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transport, "_LONGEST_LINE", 2**16)
    server.then("watch", stream(*[b"x" * 2**15] * 4))
    await watched.watch.synced()
    await eventually(lambda: len(server.asked("watch")) == 2, "it gives that one up")
    await watched.settled(server)


async def test_the_position_outlives_a_connection(server: ScriptedServer, watched: Watched) -> None:
    await watched.watch.synced()
    await watched.settled(server)
    server.reset_lines()
    server.put("a")
    await watched.settled(server)
    assert the_same(watched, server)
    assert len(server.asked("list")) == 1


async def test_it_does_not_wait_behind_requests(
    server: ScriptedServer, api: KubeApi, watched: Watched
) -> None:
    """While hundreds of kernels start each connection for requests is taken."""
    await watched.watch.synced()
    await eventually(lambda: server.watches, "it watches")
    many = 2 * _access._CONNECTIONS
    server.then("get", *[silence] * many)
    waiting = [asyncio.create_task(api.get(PODS, f"pod-{n}", NAMESPACE)) for n in range(many)]
    await eventually(lambda: len(server.asked("get")) == _access._CONNECTIONS, "all are taken")
    server.end_watches()
    await watched.settled(server)
    assert len(server.asked("get")) == _access._CONNECTIONS
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


# -- how long it waits -----------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_the_server_says_when_to_come_back(
    server: ScriptedServer, watched: Watched, verb: str
) -> None:
    server.then(verb, refuse(429, Retry_After="1"))
    watched.watch.start()
    await eventually(lambda: len(server.asked(verb)) == 2, "it comes back")
    first, second = server.asked(verb)
    assert second.at - first.at >= 0.95
    await watched.settled(server)


async def test_but_not_never(
    server: ScriptedServer, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch, "_LONGEST_WAIT", 0.05)
    server.then("watch", refuse(429, Retry_After="86400"), refuse(503, Retry_After="9" * 400))
    await watched.watch.synced()
    await watched.settled(server)


@pytest.mark.parametrize("trouble", ["ends at once", "410"])
async def test_it_does_not_spin(
    server: ScriptedServer,
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    # So long that only a pause of this kind can be what keeps it from asking again.
    monkeypatch.setattr(_watch, "_FIRST_PAUSE", 3600.0)
    server.then("watch", TROUBLES[trouble][0])
    await watched.watch.synced()
    await eventually(lambda: watched.watch.health.error, "it says why it waits")
    assert len(server.asked("watch")) == 1


async def test_what_went_well_for_long_is_followed_at_once(
    server: ScriptedServer, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load balancer ends quiet connections, for ever: that is no reason to wait ever longer."""
    monkeypatch.setattr(_watch, "_LONGEST_PAUSE", 0.0)
    await watched.watch.synced()
    monkeypatch.setattr(_watch, "_LONGEST_PAUSE", 3600.0)
    clock = Clock(monkeypatch)
    for turn in range(40):
        await eventually(lambda turn=turn: len(server.asked("watch")) == turn + 1, "it watches")
        await eventually(lambda: server.watches, "and is answered")
        clock.ahead += 4000.0
        server.reset_lines()
    await watched.settled(server)
