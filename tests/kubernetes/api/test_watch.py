"""A watch keeps what there is, and says how it does (FAKE server)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from scripted import (
    NAMESPACE,
    Object,
    ScriptedServer,
    pod,
    refuse,
    reset,
    status,
    stream,
    write_kubeconfig,
)
from waiting import eventually
from watched import Clock, Watched, the_same

from jupyter_gpu_share.engines.kubernetes.api import (
    NODES,
    PODS,
    Change,
    Forbidden,
    KubeApi,
    KubernetesError,
    Watch,
    _watch,
)

SOON = 20.0


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


async def test_a_quiet_watch_ends_before_it_is_taken_for_dead(
    server: ScriptedServer, api: KubeApi
) -> None:
    """An API server sends no bookmark of a kind of which nothing has changed since it began."""
    watched = Watched(api, period=300.0)

    async def begun(number: int) -> int:
        await eventually(lambda: len(server.asked("watch")) == number, f"watch {number} begins")
        await eventually(lambda: server.watches, "it is open")
        return int(server.asked("watch")[-1].query["timeoutSeconds"])

    await watched.watch.synced()
    assert await begun(1) <= _watch._QUIET < _watch._SILENCE, "nothing has changed so far"
    await watched.settled(server)
    server.end_watches()
    assert await begun(2) > _watch._SILENCE, "what changes is followed for longer"
    server.bookmark()
    server.end_watches()
    assert await begun(3) <= _watch._QUIET, "a bookmark is no change"
    await watched.watch.close()


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
        assert not asyncio.all_tasks() - {asyncio.current_task(), *server.tasks}
        await eventually(lambda: not server.lines, "all connections are closed")


async def test_whoever_closes_it_can_be_cancelled(server: ScriptedServer, api: KubeApi) -> None:
    watch = Watch(api, PODS, NAMESPACE, lambda change: None)

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
