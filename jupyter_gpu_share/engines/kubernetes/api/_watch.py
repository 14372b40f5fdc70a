"""One list+watch loop: the objects of a collection as they are, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ._client import KubeApi, Object
from ._errors import Expired, KubernetesError, error_of
from ._resources import Resource

__all__ = ["Change", "Health", "Watch"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 20.0
#: The server ends a watch after its seconds; silence for this much longer means it is dead.
_GRACE = 5.0
#: Deleted objects that are remembered, so that a late event does not bring one back.
_GRAVES = 1000


@dataclass(frozen=True)
class Change:
    """What happened to an object: ``old`` is None where it is new, ``new`` where it is gone."""

    old: Object | None
    new: Object | None

    @property
    def name(self) -> str:
        """Name of the object."""
        name: str = (self.new or self.old or {})["metadata"]["name"]
        return name


@dataclass(frozen=True)
class Health:
    """How a watch does.

    Attributes
    ----------
    synced: the objects have been listed at least once.
    age: seconds since the API server was last heard of; None before the first time.
    error: what keeps it from being up to date; empty where it is.
    lists: how often the objects had to be listed.
    """

    synced: bool
    age: float | None
    error: str
    lists: int


class Watch:
    """Keeps the objects of a collection in memory.

    It holds what exists and the names of a bounded number of objects that were deleted, nothing
    that grows with time.

    Parameters
    ----------
    changed: told of every change, on the event loop; must not block.
    selector: label selector.
    period: seconds after which the watch is begun anew. A connection that died without a word is
        noticed at most a few seconds later.
    resync: seconds after which the objects are listed again, should an event have been lost.
    """

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        namespace: str | None,
        changed: Callable[[Change], None],
        *,
        selector: str = "",
        period: float = 60.0,
        resync: float = 600.0,
    ) -> None:
        self.objects: dict[str, Object] = {}
        self._api = api
        self._resource = resource
        self._namespace = namespace
        self._changed = changed
        self._selector = selector
        self._period = period
        self._resync = resync
        self._random = random.Random()  # noqa: S311 - jitter
        self._graves: OrderedDict[str, None] = OrderedDict()
        self._position = ""
        self._listed = 0.0
        self._heard: float | None = None
        self._error = ""
        self._lists = 0
        self._synced = asyncio.Event()
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"watch {self._resource.plural}")

    async def close(self) -> None:
        """End."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @property
    def health(self) -> Health:
        """How the watch does now."""
        age = None if self._heard is None else time.monotonic() - self._heard
        return Health(self._synced.is_set(), age, self._error, self._lists)

    async def synced(self, patience: float = 15.0) -> None:
        """Wait until the objects have been listed.

        Raises
        ------
        KubernetesError: that has not happened in time; the text says why.
        """
        self.start()
        try:
            await asyncio.wait_for(self._synced.wait(), patience)
        except asyncio.TimeoutError:
            raise KubernetesError(
                self._error or f"The Kubernetes API did not list {self._resource.plural} in time."
            ) from None

    # -- the loop ----------------------------------------------------------------------------

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                if not self._position or time.monotonic() - self._listed > self._resync:
                    await self._list()
                await self._follow()
                pause = _FIRST_PAUSE
            except Expired:
                self._position = ""
            except KubernetesError as error:
                self._error = str(error)
                wait = max(error.retry_after or 0.0, pause * self._random.uniform(0.5, 1.5))
                _log.info("%s Next attempt in %.1f s.", error, wait)
                await asyncio.sleep(wait)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except Exception:
                # A loop that has ended would show a world that stands still.
                self._error = f"The watch of {self._resource.plural} met an error of its own."
                _log.exception("The watch of %s begins anew", self._resource.plural)
                self._position = ""
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _list(self) -> None:
        query = {"labelSelector": self._selector} if self._selector else {}
        items, position = await self._api.list(self._resource, self._namespace, **query)
        self._hear()
        self._listed = time.monotonic()
        self._lists += 1
        found = {item["metadata"]["name"]: item for item in items}
        for name in [name for name in self.objects if name not in found]:
            self._gone(self.objects[name])
        for item in found.values():
            self._seen(item)
        self._position = position
        self._synced.set()

    async def _follow(self) -> None:
        seconds = max(1, round(self._period * self._random.uniform(0.8, 1.0)))
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._position,
            "timeoutSeconds": str(seconds),
        }
        if self._selector:
            query["labelSelector"] = self._selector
        what = f"watch {self._resource.plural}"
        path = self._resource.path(self._namespace)
        async with self._api.stream(path, what, query, seconds + _GRACE) as lines:
            self._hear()
            async for line in lines:
                self._hear()
                self._take(json.loads(line), what)
        self._hear()

    def _hear(self) -> None:
        self._heard = time.monotonic()
        self._error = ""

    def _take(self, event: dict[str, Any], what: str) -> None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise error_of(int(item.get("code") or 500), json.dumps(item), what)
        version = item["metadata"].get("resourceVersion", "")
        if kind != "BOOKMARK":
            if kind == "DELETED":
                self._gone(item)
            else:
                self._seen(item)
        if _newer(version, self._position):
            self._position = version

    # -- the objects -------------------------------------------------------------------------

    def _seen(self, item: Object) -> None:
        meta = item["metadata"]
        meta.pop("managedFields", None)  # half of an object, and of no use here
        uid = meta["uid"]
        if uid in self._graves:
            return
        old = self.objects.get(meta["name"])
        if old is not None and old["metadata"]["uid"] == uid:
            if not _newer(meta["resourceVersion"], old["metadata"]["resourceVersion"]):
                return
        elif old is not None:
            # Another object of the same name; that the first was deleted has not been heard.
            if not _newer(meta["resourceVersion"], old["metadata"]["resourceVersion"]):
                return
            self._gone(old)
            old = None
        self.objects[meta["name"]] = item
        self._tell(Change(old, item))

    def _gone(self, item: Object) -> None:
        meta = item["metadata"]
        self._graves[meta["uid"]] = None
        while len(self._graves) > _GRAVES:
            self._graves.popitem(last=False)
        old = self.objects.get(meta["name"])
        if old is not None and old["metadata"]["uid"] == meta["uid"]:
            del self.objects[meta["name"]]
            self._tell(Change(old, None))

    def _tell(self, change: Change) -> None:
        try:
            self._changed(change)
        except Exception:
            _log.exception("A change of %s could not be taken note of", change.name)


def _newer(version: str, than: str) -> bool:
    """Whether a resource version is later. They are numbers since Kubernetes says so (1.35)."""
    try:
        return int(version) > int(than)
    except ValueError:
        return version != than
