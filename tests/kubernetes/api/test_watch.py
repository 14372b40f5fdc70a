"""A watch keeps what there is, whatever happens to the stream of events (FAKE server)."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from scripted import (
    NAMESPACE,
    Act,
    Object,
    ScriptedServer,
    pod,
    refuse,
    reset,
    right,
    silence,
    status,
    stream,
    write_kubeconfig,
)
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes.api import (
    NODES,
    PODS,
    Change,
    Forbidden,
    KubeApi,
    KubernetesError,
    Watch,
    _transport,
    _watch,
)

SOON = 20.0


class Watched:
    """A watch, and what it told."""

    def __init__(self, api: KubeApi, **settings: Any) -> None:
        self.changes: list[Change] = []
        self.watch = Watch(api, PODS, NAMESPACE, self.changes.append, **settings)

    @property
    def names(self) -> list[str]:
        """Of the objects that it has."""
        return sorted(self.watch.objects)

    async def settled(self, server: ScriptedServer) -> None:
        """Wait until all that was said has been taken note of; the server's news are a mark."""
        mark = server.put("mark")["metadata"]["resourceVersion"]
        await eventually(
            lambda: self.version("mark") == int(mark), f"event {mark} has been taken note of"
        )

    def version(self, name: str) -> int:
        """Of an object; 0 where it is unknown."""
        found = self.watch.objects.get(name)
        return int(found["metadata"]["resourceVersion"]) if found else 0

    def told(self, name: str) -> list[tuple[str, str]]:
        """Versions of an object, before and after."""
        return [
            tuple(obj["metadata"]["resourceVersion"] if obj else "" for obj in (one.old, one.new))
            for one in self.changes
            if one.name == name
        ]


@pytest.fixture
async def watched(api: KubeApi) -> AsyncIterator[Watched]:
    """A watch of the FAKE."""
    watched = Watched(api)
    yield watched
    await watched.watch.close()


def the_same(watched: Watched, server: ScriptedServer) -> bool:
    """Whether the watch has what there is."""
    return watched.watch.objects == server.pods


# -- what happens is known -------------------------------------------------------------------


async def test_it_lists_and_follows(server: ScriptedServer, watched: Watched) -> None:
    first = server.put("a")
    await watched.watch.synced()
    assert the_same(watched, server)
    second = server.put("a")
    third = server.remove("a")
    server.put("b")
    await watched.settled(server)
    assert watched.names == ["b", "mark"]
    versions = [obj["metadata"]["resourceVersion"] for obj in (first, second, third)]
    assert watched.told("a") == [("", versions[0]), (versions[0], versions[1]), (versions[1], "")]
    assert len(server.asked("list")) == 1


async def test_what_is_of_no_use_is_not_kept(server: ScriptedServer, watched: Watched) -> None:
    body = pod("a")
    body["metadata"]["managedFields"] = [{"manager": "kubelet"}]
    server.put("a", body)
    await watched.watch.synced()
    assert "managedFields" not in watched.watch.objects["a"]["metadata"]


async def test_a_selector_is_passed_on(server: ScriptedServer, api: KubeApi) -> None:
    watched = Watched(api, selector="a=b,c!=d")
    await watched.watch.synced()
    await eventually(lambda: server.asked("watch"), "it watches")
    for verb in ("list", "watch"):
        assert server.asked(verb)[0].query["labelSelector"] == "a=b,c!=d"
    await watched.watch.close()


async def test_a_bookmark_moves_the_position(server: ScriptedServer, watched: Watched) -> None:
    await watched.watch.synced()
    await eventually(lambda: server.watches, "it watches")
    server.version += 500  # others have changed other things
    server.bookmark()
    server.end_watches()
    await eventually(lambda: len(server.asked("watch")) == 2, "it watches again")
    assert server.asked("watch")[1].query["resourceVersion"] == str(server.version)
    assert not watched.changes


@pytest.mark.parametrize("size", [1_500_000, 6_000_000])
async def test_large_objects(server: ScriptedServer, watched: Watched, size: int) -> None:
    await watched.watch.synced()
    body = pod("large")
    body["metadata"]["annotations"] = {"x": "y" * size}
    server.put("large", body)
    await watched.settled(server)
    assert watched.watch.objects["large"]["metadata"]["annotations"] == {"x": "y" * size}
    server.end_watches()
    await watched.settled(server)
    assert len(server.asked("list")) == 1


async def test_events_in_pieces(server: ScriptedServer, watched: Watched) -> None:
    await watched.watch.synced()
    await eventually(lambda: server.watches, "it watches")
    new = server.put("ä", told=False)
    line = json.dumps({"type": "ADDED", "object": new}, ensure_ascii=False).encode() + b"\n"
    for byte in line:
        server.send(bytes([byte]))
    await watched.settled(server)
    assert the_same(watched, server)
    assert len(server.asked("list")) == 1


# -- events that are lost, doubled, late -----------------------------------------------------


async def test_doubled_events_are_told_once(server: ScriptedServer, watched: Watched) -> None:
    await watched.watch.synced()
    new = server.put("a")
    server.say("ADDED", new)
    changed = server.put("a")
    server.say("MODIFIED", changed)
    gone = server.remove("a")
    server.say("DELETED", gone)
    await watched.settled(server)
    assert len(watched.told("a")) == 3
    assert watched.names == ["mark"]


async def test_an_old_event_changes_nothing(server: ScriptedServer, watched: Watched) -> None:
    await watched.watch.synced()
    old = server.put("a")
    new = server.put("a")
    server.say("MODIFIED", old)
    await watched.settled(server)
    assert watched.watch.objects["a"] == new
    assert len(watched.told("a")) == 2


async def test_what_was_deleted_does_not_come_back(
    server: ScriptedServer, watched: Watched
) -> None:
    await watched.watch.synced()
    last = server.put("a")
    server.remove("a")
    server.say("MODIFIED", last)
    server.say("ADDED", last)
    await watched.settled(server)
    assert watched.names == ["mark"]
    assert len(watched.told("a")) == 2


async def test_what_was_never_seen_and_is_deleted_does_not_come(
    server: ScriptedServer, watched: Watched
) -> None:
    await watched.watch.synced()
    await eventually(lambda: server.watches, "it watches")
    late = server.put("a", told=False)
    server.remove("a")
    server.say("ADDED", late)
    await watched.settled(server)
    assert watched.names == ["mark"]
    assert not watched.told("a")


async def test_what_a_list_missed_does_not_come_back(
    server: ScriptedServer, watched: Watched
) -> None:
    last = server.put("a")
    await watched.watch.synced()
    server.remove("a", told=False)
    server.compact()
    server.end_watches()
    await eventually(lambda: watched.watch.health.lists == 2, "it lists again")
    server.say("MODIFIED", last)
    await watched.settled(server)
    assert watched.names == ["mark"]


async def test_the_same_name_again(server: ScriptedServer, watched: Watched) -> None:
    await watched.watch.synced()
    first = server.put("a")
    gone = server.remove("a", told=False)
    second = server.put("a")
    server.say("MODIFIED", first)  # of the first, late
    server.say("DELETED", gone)  # even later
    server.say("MODIFIED", first)
    await watched.settled(server)
    assert watched.watch.objects["a"] == second
    versions = [obj["metadata"]["resourceVersion"] for obj in (first, second)]
    assert watched.told("a") == [("", versions[0]), (versions[0], ""), ("", versions[1])]


async def test_the_same_name_again_and_gone(server: ScriptedServer, watched: Watched) -> None:
    await watched.watch.synced()
    server.put("a")
    server.remove("a", told=False)
    server.put("a", told=False)
    server.remove("a")
    await watched.settled(server)
    assert watched.names == ["mark"]
    assert len(watched.told("a")) == 2


async def test_what_left_the_selector_may_come_back(
    server: ScriptedServer, watched: Watched
) -> None:
    await watched.watch.synced()
    server.put("a")
    left = server.put("a", told=False)
    server.say("DELETED", left)
    back = server.put("a", told=False)
    server.say("ADDED", back)
    server.say("DELETED", left)  # once more, late
    await watched.settled(server)
    assert watched.watch.objects["a"] == back
    server.remove("a")
    await watched.settled(server)
    assert watched.names == ["mark"]


async def test_lost_events_are_made_good(server: ScriptedServer, api: KubeApi) -> None:
    watched = Watched(api, resync=0.0)
    kept = server.put("kept")
    server.put("lost")
    await watched.watch.synced()
    await eventually(lambda: server.watches, "it watches")
    server.remove("lost", told=False)
    changed = server.put("kept", told=False)
    server.put("new", told=False)
    server.end_watches()
    await eventually(lambda: the_same(watched, server), "the next list has it")
    versions = [obj["metadata"]["resourceVersion"] for obj in (kept, changed)]
    assert watched.told("kept") == [("", versions[0]), (versions[0], versions[1])]
    await watched.watch.close()


async def test_a_cluster_that_went_back(server: ScriptedServer, watched: Watched) -> None:
    """As one does whose etcd was restored from a copy: versions are lower than they were."""
    copied, then = server.put("a"), server.version
    await watched.watch.synced()
    server.put("a")
    server.put("b")
    server.remove("a")
    await watched.settled(server)
    server.version = then
    server.pods = {"a": copied}
    server.compact()
    server.then("watch", refuse(410))
    server.end_watches()
    await eventually(lambda: the_same(watched, server), "it has what there is")
    server.put("a")
    await watched.settled(server)
    assert the_same(watched, server)


# -- connections and answers that fail -------------------------------------------------------


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


class Clock:
    """The watch's clock, which can be put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0

        class Time:
            monotonic = staticmethod(lambda: time.monotonic() + self.ahead)

        monkeypatch.setattr(_watch, "time", Time)


# -- health ----------------------------------------------------------------------------------


async def test_health(
    server: ScriptedServer, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    health = watched.watch.health
    assert (health.synced, health.age, health.error, health.lists) == (False, None, "", 0)
    await watched.watch.synced()
    await watched.settled(server)
    # Less than a watch lasts.
    clock.ahead += 30.0
    assert (watched.watch.health.age or 0.0) >= 30.0
    server.bookmark()
    await eventually(lambda: (watched.watch.health.age or 30.0) < 20.0, "it has heard of it")
    assert len(server.asked("watch")) == 1
    port = server.port
    await server.close()
    await eventually(lambda: "cannot be reached" in watched.watch.health.error, "it says so")
    again = await ScriptedServer().start(port=port)
    again.pods, again.version = server.pods, server.version
    await eventually(lambda: watched.watch.health.error == "", "it is well again")
    await again.close()


async def test_what_keeps_it_from_listing_is_told_at_once(
    server: ScriptedServer, kubeconfig: Path
) -> None:
    server.then("list", *[refuse(503)] * 1000)
    api = KubeApi(str(kubeconfig), patience=3600.0)
    watched = Watched(api)
    watched.watch.start()
    await eventually(lambda: "503" in watched.watch.health.error, "it says so")
    with pytest.raises(KubernetesError, match="503"):
        await watched.watch.synced(0.1)
    await watched.watch.close()
    await api.close()


async def test_a_refusal_is_not_waited_for(server: ScriptedServer, watched: Watched) -> None:
    server.then("list", *[refuse(403, status(403, "Forbidden", "User cannot list pods"))] * 5)
    for _ in range(2):
        with pytest.raises(Forbidden, match="cannot list pods"):
            await asyncio.wait_for(watched.watch.synced(3600.0), SOON)
    await eventually(lambda: watched.watch.health.synced, "rights came")
    await watched.watch.synced()


async def test_it_needs_a_namespace_where_there_are_some(api: KubeApi) -> None:
    with pytest.raises(ValueError, match="namespace"):
        Watch(api, PODS, None, print)
    Watch(api, NODES, None, print)


# -- credentials -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_credentials_that_were_renewed(
    server: ScriptedServer, watched: Watched, kubeconfig: Path, verb: str
) -> None:
    server.tokens = {"t0ken-one"}
    if verb == "watch":
        await watched.watch.synced()
        await eventually(lambda: server.watches, "it watches")
    server.tokens = {"t0ken-two"}
    write_kubeconfig(kubeconfig, server.url, token="t0ken-two")
    watched.watch.start()
    server.end_watches()
    await watched.settled(server)
    assert server.asked(verb)[-1].headers["authorization"] == "Bearer t0ken-two"
    assert watched.watch.health.lists == 1


async def test_credentials_that_cannot_be_renewed(
    server: ScriptedServer, watched: Watched, kubeconfig: Path
) -> None:
    server.tokens = {"t0ken-one"}
    await watched.watch.synced()
    await eventually(lambda: server.watches, "it watches")
    kept = kubeconfig.read_text()
    kubeconfig.write_text("")
    server.tokens = {"t0ken-two"}
    server.end_watches()
    await eventually(lambda: "no usable access" in watched.watch.health.error, "it says so")
    kubeconfig.write_text(kept.replace("t0ken-one", "t0ken-two"))
    await watched.settled(server)


# -- ending ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("troubled", [False, True])
async def test_closed_at_any_moment_nothing_is_left(
    server: ScriptedServer, kubeconfig: Path, troubled: bool
) -> None:
    server.put("a")
    for turns in range(80):
        server._script.clear()
        if troubled:
            server.then("list", refuse(401), reset)
            server.then("watch", refuse(410), stream(b'{"type'), reset)
        api = KubeApi(str(kubeconfig))
        watched = Watched(api)
        waiting = asyncio.create_task(watched.watch.synced())
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(watched.watch.close(), SOON)
        await api.close()
        assert not asyncio.all_tasks() - {asyncio.current_task(), *server._tasks}
        await eventually(lambda: not server.lines, "all connections are closed")


async def test_whoever_closes_it_can_be_cancelled(server: ScriptedServer, api: KubeApi) -> None:
    def stubborn(change: Change) -> None:
        closing.cancel()

    watch = Watch(api, PODS, NAMESPACE, stubborn)
    server.put("a")

    async def close() -> None:
        await watch.close()
        await asyncio.sleep(3600)

    watch.start()
    closing = asyncio.create_task(close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(closing, SOON)


async def test_who_is_told_may_fail(
    server: ScriptedServer, api: KubeApi, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(change: Change) -> None:
        raise ZeroDivisionError

    watch = Watch(api, PODS, NAMESPACE, fails)
    new: Object = server.put("a")
    await watch.synced()
    assert watch.objects == {"a": new}
    assert "could not be taken note of" in caplog.text
    await watch.close()
