"""A watch of the FAKE server, what it told, and its clock."""

from __future__ import annotations

import time
from typing import Any

import pytest
from scripted import NAMESPACE, ScriptedServer
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes.api import PODS, Change, KubeApi, Watch, _watch


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


def the_same(watched: Watched, server: ScriptedServer) -> bool:
    """Whether the watch has what there is."""
    return watched.watch.objects == server.pods


class Clock:
    """The watch's clock, which can be put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0

        class Time:
            monotonic = staticmethod(lambda: time.monotonic() + self.ahead)

        monkeypatch.setattr(_watch, "time", Time)
