"""A watch of a large collection of which little is kept (FAKE server)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from scripted import Object, ScriptedServer, pod, refuse, silence, stream
from waiting import eventually
from watched import Watched

from jupyter_gpu_share.engines.kubernetes.api import PODS, KubeApi, Watch, _watch

SOON = 20.0


def body(name: str, namespace: str = "team", *, wanted: bool = True) -> Object:
    one = pod(name)
    one["metadata"] |= {"namespace": namespace, "labels": {"wanted": str(wanted)}}
    return one


def keep(item: Object) -> Object | None:
    """Labels of those that are wanted."""
    labels = item["metadata"]["labels"]
    return {"metadata": {"labels": labels}} if labels["wanted"] == "True" else None


@pytest.fixture
async def watch(api: KubeApi) -> AsyncIterator[Watch]:
    made = Watch(
        api, PODS, None, lambda _: None, everywhere=True, keep=keep, fields="status.phase!=Failed"
    )
    yield made
    await made.close()


def known(watch: Watch) -> dict[str, str]:
    return {key: each["metadata"]["resourceVersion"] for key, each in watch.objects.items()}


async def test_what_is_kept_comes_as_a_stream(server: ScriptedServer, watch: Watch) -> None:
    first = server.put("a", body("a"))
    server.put("b", body("b", wanted=False))
    await watch.synced()
    assert watch.objects["team/a"]["metadata"] == {
        "name": "a",
        "namespace": "team",
        "uid": first["metadata"]["uid"],
        "resourceVersion": first["metadata"]["resourceVersion"],
        "labels": {"wanted": "True"},
    }
    assert list(watch.objects) == ["team/a"]
    (asked,) = server.asked("stream")
    assert asked.query["fieldSelector"] == "status.phase!=Failed"
    assert asked.query["resourceVersionMatch"] == "NotOlderThan"
    assert "resourceVersion" not in asked.query, "the newest there is"
    assert not server.asked("list")
    await eventually(lambda: server.watches, "it goes on from there")
    assert server.asked("watch")[0].query["resourceVersion"] == str(server.version)
    assert server.asked("watch")[0].query["fieldSelector"] == "status.phase!=Failed"


async def test_what_is_not_wanted_any_more_goes(server: ScriptedServer, watch: Watch) -> None:
    server.put("a", body("a"))
    await watch.synced()
    await eventually(lambda: server.watches, "it watches")
    server.pods["a"]["metadata"]["labels"] = {"wanted": "False"}
    server.put("a")
    server.put("b", body("b", "elsewhere"))
    last = server.put("c", body("c", wanted=False))
    await eventually(lambda: list(watch.objects) == ["elsewhere/b"], "it has what is wanted")
    assert watch._position <= last["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    "trouble", [refuse(422), refuse(400), stream(then="end"), silence], ids=range(4)
)
async def test_where_there_are_no_such_streams_it_lists(
    server: ScriptedServer, watch: Watch, monkeypatch: pytest.MonkeyPatch, trouble: Any
) -> None:
    monkeypatch.setattr(_watch, "_STREAM", 0.2)
    server.put("a", body("a"))
    server.put("b", body("b", wanted=False))
    server.then("stream", trouble)
    await watch.synced()
    assert list(known(watch)) == ["team/a"]
    assert len(server.asked("list")) == 1
    assert not watch._api.streams_lists, "it is not tried again"


async def test_a_network_that_is_away_says_nothing_of_streams(
    server: ScriptedServer, watch: Watch
) -> None:
    server.put("a", body("a"))
    server.then("stream", refuse(503))
    server.then("list", refuse(503))
    await watch.synced()
    assert len(server.asked("stream")) == 2
    assert watch._api.streams_lists


async def test_what_is_kept_whole_is_listed(server: ScriptedServer, watched: Watched) -> None:
    await watched.watch.synced()
    assert not server.asked("stream")


async def test_without_a_bookmark_a_long_watch_is_taken_for_dead(
    server: ScriptedServer, api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch, "_SILENCE", 0.2)
    watched = Watched(api, period=300.0)
    server.then("watch", silence)
    await watched.watch.synced()
    await eventually(lambda: len(server.asked("watch")) >= 2, "the silence is noticed", SOON)
    assert len(server.asked("list")) == 1, "it goes on where it was"
    await watched.watch.close()


async def test_objects_of_a_kind_share_their_keys_and_short_texts(
    server: ScriptedServer, watch: Watch
) -> None:
    """A thousand pods would have a thousand copies of each, which is most of what they take."""
    for name in ("a", "b"):
        server.put(name, body(name))
    await watch.synced()
    labels = [each["metadata"]["labels"] for each in watch.objects.values()]
    (one, text), (other, again) = (next(iter(each.items())) for each in labels)
    assert one is other
    assert text is again
