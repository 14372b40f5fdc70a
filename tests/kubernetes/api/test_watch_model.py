"""A watch against a model: random histories, told in every wrong way."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import NAMESPACE, Object, ScriptedServer, refuse
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes.api import PODS, Change, KubeApi, Watch, _watch

SEED = 20260411
ROUNDS, EVENTS = 40, 500
NAMES = 60
GRAVES = 100


class Mirror:
    """What whoever is told of the changes knows."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.changes = 0

    def changed(self, change: Change) -> None:
        """Take note; what is said to have been must be what was."""
        self.changes += 1
        assert self.objects.get(change.name) == change.old
        assert change.old != change.new
        if change.new is None:
            del self.objects[change.name]
        else:
            self.objects[change.name] = change.new


def broken_off(server: ScriptedServer, watch: Watch) -> None:
    """The watch is told by the status of the next one that it has to list."""
    server.then("watch", refuse(410))
    server.end_watches()


def told(server: ScriptedServer, watch: Watch) -> None:
    """It is told within the watch."""
    server.send(json.dumps({"type": "ERROR", "object": {"code": 410}}).encode() + b"\n")


def reset(server: ScriptedServer, watch: Watch) -> None:
    """The connection breaks, and what was is forgotten."""
    server.version += 1
    server.compact()
    server.reset_lines()


@pytest.mark.slow
async def test_it_agrees_after_every_list_and_does_not_grow(
    server: ScriptedServer,
    api: KubeApi,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(_watch, "_GRAVES", GRAVES)
    rng = random.Random(SEED)
    mirror = Mirror()
    watch = Watch(api, PODS, NAMESPACE, mirror.changed)
    await watch.synced()
    late: list[tuple[str, Object]] = []
    sent = 0
    for turn in range(ROUNDS):
        await eventually(lambda: server.watches, "it watches")
        for _ in range(EVENTS):
            event = happens(server, rng)
            # Lost, told, or told twice; at once or later, after the next list perhaps.
            late += [event] * rng.choice([0, 1, 1, 1, 1, 1, 1, 2, 2])
            while late and rng.random() < 0.6:
                server.say(*late.pop(rng.randrange(len(late))))
                sent += 1
        mark = server.put("mark")
        await eventually(partial(has, watch, mark), "all of it is taken note of")
        bounded(watch, 2 * NAMES)
        rng.choice([broken_off, told, reset])(server, watch)
        await eventually(partial(has_listed, watch, turn + 2), "it lists again")
        assert watch.objects == server.pods == mirror.objects
        bounded(watch, len(server.pods))
    await watch.close()
    assert sent > 15_000
    assert mirror.changes > ROUNDS * NAMES
    assert "could not be taken note of" not in caplog.text


def happens(server: ScriptedServer, rng: random.Random) -> tuple[str, Object]:
    """Something happens in the cluster; the event that should be told."""
    name = f"pod-{rng.randrange(NAMES)}"
    if name not in server.pods:
        return "ADDED", server.put(name, told=False)
    if rng.random() < 0.4:
        return "DELETED", server.remove(name, told=False)
    return "MODIFIED", server.put(name, told=False)


def has(watch: Watch, obj: Object) -> bool:
    """Whether it knows of an object as it is."""
    return watch.objects.get(obj["metadata"]["name"]) == obj


def has_listed(watch: Watch, times: int) -> bool:
    """Whether it has listed so often."""
    return watch.health.lists >= times


def bounded(watch: Watch, objects: int) -> None:
    """Nothing that it holds has grown."""
    held = {name: value for name, value in vars(watch).items() if hasattr(value, "__len__")}
    sizes = {name: len(value) for name, value in held.items() if not isinstance(value, str)}
    assert sizes.keys() == {"objects", "_graves"}
    assert sizes["objects"] <= objects
    assert sizes["_graves"] <= GRAVES


# -- every order -----------------------------------------------------------------------------


class FakeApi:
    """FAKE: one list of nothing, and one watch that says what it was given."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines
        self.said = asyncio.Event()

    async def list_once(self, *_: Any, **__: Any) -> tuple[list[Object], str]:
        """An empty list."""
        return [], "100"

    @asynccontextmanager
    async def stream(self, *_: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines, and then silence."""
        yield self._say()

    async def _say(self) -> AsyncIterator[bytes]:
        for line in self._lines:
            yield line
        self.said.set()
        await asyncio.Event().wait()


#: What happens to a name: it is made or changed, deleted, or leaves the selector.
steps = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["put", "put", "del", "leave"])))


def history(what: list[tuple[str, str]]) -> tuple[list[dict[str, Any]], dict[str, Object]]:
    """The events of these steps, and what there is in the end."""
    events: list[dict[str, Any]] = []
    alive: dict[str, Object] = {}
    away: dict[str, Object] = {}
    for number, (name, step) in enumerate(what, 101):
        old = alive.pop(name, None)
        obj = old or away.pop(name, None)
        if step != "put" and old is None:
            continue
        meta = {"name": name, "uid": f"uid-{number}"} if obj is None else obj["metadata"]
        obj = {"metadata": {**meta, "resourceVersion": str(number)}}
        if step == "put":
            alive[name] = obj
        elif step == "leave":
            away[name] = obj
        kind = "DELETED" if step != "put" else "MODIFIED" if old else "ADDED"
        events.append({"type": kind, "object": obj})
    return events, alive


@settings(max_examples=300, deadline=None)
@given(steps, st.randoms(use_true_random=False), st.data())
def test_the_order_does_not_matter(
    what: list[tuple[str, str]], rng: random.Random, data: st.DataObject
) -> None:
    events, alive = history(what)
    told = events + [event for event in events if data.draw(st.booleans())]
    rng.shuffle(told)
    assert asyncio.run(follows(told, lambda mirror: mirror.objects)) == alive


async def follows(events: list[dict[str, Any]], result: Callable[[Mirror], Any]) -> Any:
    """What is known after these events."""
    api: Any = FakeApi([json.dumps(event).encode() for event in events])
    mirror = Mirror()
    watch = Watch(api, PODS, NAMESPACE, mirror.changed)
    watch.start()
    await asyncio.wait_for(api.said.wait(), 20.0)
    assert watch.objects == mirror.objects
    found = deepcopy(result(mirror))
    await watch.close()
    return found
