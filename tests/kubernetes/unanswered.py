"""A FAKE of what an API server keeps, whose answers to writes can be lost.

Objects are as the last write left them, watches see that at once, and a lease has its device as
soon as its pod and its claim are there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

from jupyter_gpu_share.allocations import QueuePosition
from jupyter_gpu_share.engines.kubernetes._names import PREFIX, SERVER, label
from jupyter_gpu_share.engines.kubernetes.api import (
    CLAIMS,
    PODS,
    Conflict,
    Forbidden,
    NotFound,
    Unreachable,
)
from jupyter_gpu_share.engines.kubernetes.backends import Facts

__all__ = ["OUTCOMES", "Store"]

Object = dict[str, Any]

#: What can become of a write: it is done, and the answer is lost; it never arrives; it is refused.
OUTCOMES = ("lost", "never", "refused")


class Store:
    """The objects of one namespace, with the calls of ``KubeApi`` that change them.

    Attributes
    ----------
    fails: outcome by the number of a write, from 0, counted since :meth:`count`.
    away: nothing is answered, and nothing done.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.fails: dict[int, str] = {}
        self.away = False
        self.writes: list[str] = []
        self.changed: Callable[[], object] = lambda: None
        self._version = 0

    def count(self, *fails: tuple[int, str]) -> None:
        """Count writes from here on; these fail."""
        self.writes, self.fails = [], dict(fails)

    def cluster(self, backend: Any = None, instance: str = "mine", **more: Any) -> Any:
        """What a kernel's parts take for the cluster."""
        return SimpleNamespace(
            server="alice",
            everybody=False,
            instance=instance,
            namespace="team",
            backend=backend,
            facts=Facts(),
            facts_for=lambda size: Facts(),
            events=SimpleNamespace(words=lambda pod: ""),
            api=self,
            queue=SimpleNamespace(alone=False),
            claims=_Watched(self, CLAIMS),
            pods=_Watched(self, PODS),
            pod=lambda name: self.of(PODS).get(name),
            place=lambda name: QueuePosition(1, 1),
            is_own=lambda obj: label(obj, SERVER) == "alice",
            own_names=lambda server, prefix: {n for _, n in self.objects if n.startswith(prefix)},
            own_claims=lambda server, prefix="": {
                n: each for n, each in self.of(CLAIMS).items() if n.startswith(prefix)
            },
            refresh=lambda: asyncio.sleep(0),
            read_gpus=lambda: asyncio.sleep(0),
            **more,
        )

    def of(self, resource: Any) -> dict[str, Object]:
        """Objects of one kind, by name."""
        found = self.objects.items()
        return {name: item for (plural, name), item in found if plural == resource.plural}

    # -- the calls -------------------------------------------------------------------------------

    async def get(self, resource: Any, name: str, space: str) -> Object:
        await asyncio.sleep(0)
        if self.away:
            raise Unreachable("The Kubernetes API cannot be reached.")
        return deepcopy(self._found(resource, name))

    async def list(self, resource: Any, space: str, **query: str) -> tuple[list[Object], str]:
        await asyncio.sleep(0)
        return [deepcopy(each) for each in self.of(resource).values()], ""

    async def select(self, resource: Any, space: None, keep: Any, **query: str) -> list[Object]:
        await asyncio.sleep(0)
        return [deepcopy(each) for each in self.of(resource).values()]

    async def create(self, resource: Any, body: Object, space: str) -> Object:
        name = body["metadata"]["name"]

        def apply() -> Object:
            return self._put(resource, name, {"status": {}, **deepcopy(body)})

        return await self._write(f"create {resource.plural}", apply)

    async def patch(self, resource: Any, name: str, body: Object, space: str) -> Object:
        def apply() -> Object:
            found = self._found(resource, name)
            version = found["metadata"]["resourceVersion"]
            if body.get("metadata", {}).get("resourceVersion", version) != version:
                raise Conflict("It has changed.")
            if "spec" in body:
                found["spec"] = body["spec"]
            changed = body.get("metadata", {}).get("annotations", {})
            notes = {**found["metadata"].get("annotations", {}), **changed}
            found["metadata"]["annotations"] = {k: v for k, v in notes.items() if v is not None}
            return self._put(resource, name, found)

        return await self._write(f"patch {resource.plural}", apply)

    async def delete(self, resource: Any, name: str, space: str, **how: Any) -> None:
        def apply() -> Object:
            found = self.objects.get((resource.plural, name), {"metadata": {}})["metadata"]
            for key, value in (("uid", how.get("uid")), ("resourceVersion", how.get("version"))):
                if found and value is not None and found[key] != value:
                    raise Conflict("It has changed.")
            return self.objects.pop((resource.plural, name), {})

        await self._write(f"delete {resource.plural}", apply)

    async def _write(self, what: str, apply: Callable[[], Object]) -> Object:
        number = len(self.writes)
        self.writes.append(what)
        outcome = "never" if self.away else self.fails.get(number)
        await asyncio.sleep(0)
        if outcome == "refused":
            raise Forbidden("It is not allowed.")
        result = apply() if outcome != "never" else {}
        self._schedule()
        self.changed()
        if outcome is not None:
            raise Unreachable("The Kernel API gave no answer.")
        return deepcopy(result)

    def _found(self, resource: Any, name: str) -> Object:
        try:
            return self.objects[resource.plural, name]
        except KeyError:
            raise NotFound("There is no such object.") from None

    def _put(self, resource: Any, name: str, item: Object) -> Object:
        self._version += 1
        meta = item["metadata"]
        meta.setdefault("uid", f"u-{self._version}")
        meta["resourceVersion"] = str(self._version)
        self.objects[resource.plural, name] = item
        return item

    def _schedule(self) -> None:
        """A claim has its device while a pod of its name is there."""
        pods = self.of(PODS)
        for name, claim in self.of(CLAIMS).items():
            claim["status"] = {"allocation": True} if name in pods else {}

    def touch(self, name: str, **notes: str) -> None:
        """Somebody else changes a pod."""
        found = self.objects[PODS.plural, name]
        found["metadata"]["annotations"] |= {PREFIX + key: value for key, value in notes.items()}
        self._put(PODS, name, found)

    def note(self, name: str, key: str) -> str | None:
        """One of our annotations of a pod."""
        found: str | None = self.of(PODS)[name]["metadata"]["annotations"].get(PREFIX + key)
        return found


class _Watched:
    """Objects of one kind, as they are whenever it is looked."""

    def __init__(self, store: Store, resource: Any) -> None:
        self._store, self._resource = store, resource

    @property
    def objects(self) -> dict[str, Object]:
        return self._store.of(self._resource)
