"""The list+watch loop: the objects of a collection as they are, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...._threads import stopped, within
from ._client import KubeApi, Object
from ._errors import (
    Expired,
    Forbidden,
    Invalid,
    KubernetesError,
    NotFound,
    ServerTrouble,
    Unauthorized,
    Unreachable,
    Untrusted,
    error_of,
)
from ._resources import Resource

__all__ = ["Change", "Health", "Watch"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 20.0
#: The longest that a server's ``Retry-After`` is followed.
_LONGEST_WAIT = 60.0
#: The server ends a watch after its seconds; silence for this much longer means it is dead.
_GRACE = 5.0
#: It says where it is every minute; without a word for so long the connection is dead, too.
_SILENCE = 90.0
#: Yet it says so of no kind of which nothing has changed since the watch began. So that such a
#: watch is not taken for dead, the server is asked to end it before the silence is that long.
_QUIET = 75.0
#: Seconds without a word after which a list that comes as a stream is given up.
_STREAM = 15.0
#: Annotation of the bookmark after the last object of such a list.
_LISTED = "k8s.io/initial-events-end"
#: A watch that ends sooner is not simply followed by the next, or the two would spin.
_SHORTEST = 0.5
#: Deleted objects that are remembered, so that a late event does not bring one back.
_GRAVES = 1000
#: Longest texts, in characters, that objects have in common; names and uids are longer.
_SHARED = 32


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

    It holds what exists and the uids of a bounded number of objects that were deleted, nothing
    that grows with time.

    Parameters
    ----------
    namespace: None for what belongs to none, and with ``everywhere``.
    changed: told of every change, on the event loop; must not block.
    selector: label selector.
    fields: field selector.
    everywhere: follow all namespaces.
    keep: what is kept of each object, None for nothing; it need not keep the resourceVersion. Such
        a collection is large: where the server can, it sends it object by object.
    period: seconds after which the watch is begun anew. A connection that died without a word is
        noticed a few seconds later, or after 90 s without even a bookmark.
    resync: seconds after which the objects are listed again, should an event have been lost.

    Attributes
    ----------
    objects: by name, or with ``everywhere`` by ``NAMESPACE/NAME``. A list replaces what is known;
        an event only what is older.

    Raises
    ------
    ValueError: the namespace is missing.
    """

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        namespace: str | None,
        changed: Callable[[Change], None],
        *,
        selector: str = "",
        fields: str = "",
        everywhere: bool = False,
        keep: Callable[[Object], Object | None] | None = None,
        period: float = 60.0,
        resync: float = 600.0,
    ) -> None:
        if resource.namespaced and not namespace and not everywhere:
            raise ValueError(f"a watch of {resource.plural} needs a namespace")
        self.objects: dict[str, Object] = {}
        self._api = api
        self._resource = resource
        self._namespace = namespace
        self._changed = changed
        self._selector, self._fields = selector, fields
        self._everywhere = everywhere
        self._keep = keep
        self._period = period
        self._resync = resync
        self._random = random.Random()  # noqa: S311 - jitter
        #: Versions at which objects were deleted since the last list, by uid.
        self._graves: OrderedDict[str, str] = OrderedDict()
        #: Where the next watch begins, and of when the last list is.
        self._position, self._floor = "", "0"
        self._listed = 0.0
        self._heard: float | None = None
        #: Whether the last watch brought a change.
        self._lively = False
        #: Seconds to wait after the next failure.
        self._pause = 0.0
        self._error = ""
        self._lists = 0
        self._refused: KubernetesError | None = None
        #: The first list was answered, with a refusal perhaps.
        self._answered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"watch {self._resource.plural}")

    async def close(self) -> None:
        """End."""
        task, self._task = self._task, None
        await stopped(task)
        if not self._answered.is_set():
            # Whoever waits for the first list is not left waiting for one that will not come.
            self._refused = KubernetesError("The access to Kubernetes has been closed.")
            self._answered.set()

    @property
    def health(self) -> Health:
        """How the watch does now."""
        age = None if self._heard is None else time.monotonic() - self._heard
        return Health(self._lists > 0, age, self._error, self._lists)

    async def synced(self, patience: float = 15.0) -> None:
        """Wait until the objects have been listed.

        Raises
        ------
        KubernetesError: that was refused, or has not happened in time; the text says why.
        """
        self.start()
        try:
            await within(patience, self._answered.wait())
        except asyncio.TimeoutError:
            raise KubernetesError(
                self._error or f"The Kubernetes API did not list {self._resource.plural} in time."
            ) from None
        if self._refused is not None:
            raise self._refused.with_traceback(None)

    # -- the loop ----------------------------------------------------------------------------

    async def _run(self) -> None:
        self._pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            wait = 0.0
            try:
                if not self._position or began - self._listed > self._resync:
                    await self._list()
                await self._follow()
                self._pause = _FIRST_PAUSE
                continue
            except KubernetesError as error:
                wait = min(error.retry_after or 0.0, _LONGEST_WAIT)
                await self._failed(error, began)
            except Exception:
                # A loop that has ended would show a world that stands still.
                self._error = f"The watch of {self._resource.plural} met an error of its own."
                _log.exception("The watch of %s begins anew", self._resource.plural)
                self._position = ""
            if time.monotonic() - began > _LONGEST_PAUSE:
                # It went well for long, such as until a load balancer ended a quiet connection.
                self._pause = _FIRST_PAUSE
            await asyncio.sleep(max(wait, self._pause * self._random.uniform(0.5, 1.5)))
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    async def _failed(self, error: KubernetesError, began: float) -> None:
        self._error = str(error)
        _log.info("The watch of %s is interrupted: %s", self._resource.plural, error)
        if isinstance(error, Expired | Invalid | NotFound):
            self._position = ""
        if isinstance(error, Forbidden | Invalid | NotFound) and not self._lists:
            self._refused = error
            self._answered.set()
        if isinstance(error, Unauthorized | Untrusted):
            try:
                await self._api.renew(began)
            except KubernetesError as cause:
                self._error = str(cause)

    async def _list(self) -> None:
        items, position = await self._all()
        self._hear()
        self._listed = time.monotonic()
        found = {self._key(item): item for item in items}
        for key in [key for key in self.objects if key not in found]:
            self._remove(key, position)
        for item in found.values():
            self._put(item)
        self._position, self._floor = position, position or "0"
        self._graves.clear()
        self._lists += 1
        self._refused = None
        self._answered.set()

    @property
    def _selected(self) -> dict[str, str]:
        """The part of a request that says which objects are meant."""
        chosen = {"labelSelector": self._selector, "fieldSelector": self._fields}
        return {name: value for name, value in chosen.items() if value}

    async def _all(self) -> tuple[list[Object], str]:
        """The objects as they are now, and the position for a watch."""
        streams = self._keep is not None and self._api.streams_lists
        if streams:
            try:
                return await self._streamed()
            except Untrusted:
                raise
            except (Expired, Invalid, ServerTrouble, Unreachable) as error:
                _log.info("A list did not come as a stream: %s", error)
        # Not repeated in there: what goes wrong shall be visible, and is repeated here.
        resource, namespace = self._resource, self._namespace
        if self._keep is None:
            return await self._api.list_once(resource, namespace, **self._selected)
        items, position = await self._api.select_once(
            resource, namespace, self._kept, **self._selected
        )
        if streams:
            # It does not know of that, or something between does not let it through.
            self._api.streams_lists = False
        return items, position

    async def _streamed(self) -> tuple[list[Object], str]:
        """A list object by object: neither side ever has all of it in memory."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
            "timeoutSeconds": str(max(1, round(self._period))),
            **self._selected,
        }
        what, found = f"list {self._resource.plural} as a stream", dict[str, Object]()
        path = self._resource.path(self._namespace)
        async with self._api.stream(path, what, query, _STREAM) as lines:
            async for line in lines:
                kind, item = _event(line, what)
                if kind == "BOOKMARK":
                    if (item["metadata"].get("annotations") or {}).get(_LISTED) == "true":
                        return list(found.values()), str(item["metadata"]["resourceVersion"])
                    continue
                found.pop(item["metadata"]["uid"], None)
                if kind != "DELETED" and (kept := self._kept(item)) is not None:
                    found[item["metadata"]["uid"]] = kept
        raise ServerTrouble(f"The Kubernetes API ended at once: {what}.")

    async def _follow(self) -> None:
        period = self._period if self._lively else min(self._period, _QUIET)
        self._lively = False
        seconds = max(1, round(period * self._random.uniform(0.8, 1.0)))
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._position,
            "timeoutSeconds": str(seconds),
            **self._selected,
        }
        what = f"watch {self._resource.plural}"
        path = self._resource.path(self._namespace)
        began = time.monotonic()
        silence = min(seconds + _GRACE, _SILENCE)
        async with self._api.stream(path, what, query, silence) as lines:
            self._hear()
            async for line in lines:
                self._hear()
                self._take(line, what)
                self._pause = _FIRST_PAUSE
                if time.monotonic() - began > seconds + _GRACE:
                    break  # what is in between does not end it
        self._hear()
        if time.monotonic() - began < _SHORTEST:
            raise ServerTrouble(f"The Kubernetes API ended at once: {what}.")

    def _hear(self) -> None:
        self._heard = time.monotonic()
        self._error = ""

    # -- the objects -------------------------------------------------------------------------

    def _key(self, item: Object) -> str:
        meta = item["metadata"]
        return f"{meta.get('namespace', '')}/{meta['name']}" if self._everywhere else meta["name"]

    def _kept(self, item: Object) -> Object | None:
        """What is kept of an object."""
        if self._keep is None:
            return item
        kept = self._keep(item)
        if kept is None:
            return None
        meta = item["metadata"]
        named = {key: meta.get(key, "") for key in ("name", "namespace", "uid", "resourceVersion")}
        return {**kept, "metadata": {**kept["metadata"], **named}}

    def _take(self, line: bytes, what: str) -> None:
        """Take note of one event."""
        kind, item = _event(line, what)
        version = item["metadata"].get("resourceVersion", "")
        if kind != "BOOKMARK":
            self._lively = True
        if kind in ("ADDED", "MODIFIED", "DELETED") and _after(version, self._floor):
            kept = self._kept(item) if kind != "DELETED" else None
            if kept is not None:
                self._seen(kept)
            elif kind == "DELETED" or self._key(item) in self.objects:
                self._deleted(item)
        if version and (not self._position or _after(version, self._position)):
            self._position = version

    def _seen(self, item: Object) -> None:
        meta = item["metadata"]
        grave = self._graves.get(meta["uid"])
        if grave is not None and not _after(meta["resourceVersion"], grave):
            return
        old = self.objects.get(self._key(item))
        # Versions count on across objects: what has an earlier one is an earlier object too.
        if old is None or _after(meta["resourceVersion"], old["metadata"]["resourceVersion"]):
            self._put(item)

    def _deleted(self, item: Object) -> None:
        meta, key = item["metadata"], self._key(item)
        old = self.objects.get(key)
        # It may have come back: an object that the selector does not match is "deleted" too.
        if old is not None and not _after(
            old["metadata"]["resourceVersion"], meta["resourceVersion"]
        ):
            self._remove(key, meta["resourceVersion"])
        self._bury(meta["uid"], meta["resourceVersion"])

    def _put(self, item: Object) -> None:
        meta, key = item["metadata"], self._key(item)
        meta.pop("managedFields", None)  # half of an object, and of no use here
        item = _sharing(item)
        old = self.objects.get(key)
        if old is not None and old["metadata"]["uid"] != meta["uid"]:
            # Another object of the same name; that the first was deleted has not been heard.
            self._remove(key, meta["resourceVersion"])
            old = None
        self.objects[key] = item
        if old is None or old["metadata"]["resourceVersion"] != meta["resourceVersion"]:
            self._tell(Change(old, item))

    def _remove(self, key: str, version: str) -> None:
        old = self.objects.pop(key)
        self._bury(old["metadata"]["uid"], version)
        self._tell(Change(old, None))

    def _bury(self, uid: str, version: str) -> None:
        if uid not in self._graves or _after(version, self._graves[uid]):
            self._graves[uid] = version
        while len(self._graves) > _GRAVES:
            self._graves.popitem(last=False)

    def _tell(self, change: Change) -> None:
        try:
            self._changed(change)
        except Exception:
            _log.exception("A change of %s could not be taken note of", change.name)


def _event(line: bytes, what: str) -> tuple[str, Object]:
    """Kind and object of an event.

    Raises
    ------
    KubernetesError: it tells of one, or is no event.
    """
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        raise ServerTrouble(f"What came is no event of Kubernetes ({what}).") from None
    kind, item = event["type"], event["object"]
    if kind == "ERROR":
        raise error_of(int(item.get("code") or 500), json.dumps(item), what)
    return kind, item


def _sharing(value: Any) -> Any:
    """The same data with one copy of each key and short text, however many objects have them.

    Objects of a kind are all alike, and most of what they take are their keys.
    """
    if isinstance(value, dict):
        return {sys.intern(key): _sharing(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_sharing(each) for each in value]
    if type(value) is str and len(value) <= _SHARED:
        return sys.intern(value)
    return value


def _after(version: str, other: str) -> bool:
    """Whether a resource version is later: numbers that count on, as Kubernetes 1.35 promises."""
    return int(version) > int(other)
