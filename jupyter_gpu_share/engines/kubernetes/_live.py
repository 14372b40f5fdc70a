"""What is only shown: followed while somebody looks, so that a look costs nothing.

Pages ask again and again what is free. To list all pods of a cluster for each answer costs the API
server tens of megabytes; to follow them costs what changes. Nothing is followed that nobody has
asked for in the last minutes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ..._threads import stopped, within
from .api import (
    Change,
    Forbidden,
    Invalid,
    KubeApi,
    KubernetesError,
    NotFound,
    Resource,
    Watch,
)

__all__ = ["Live"]

Object = dict[str, Any]

#: Seconds without a question after which a collection is followed no longer.
_LINGER = 300.0
#: Seconds until it is asked again whether a right was granted.
_REFUSED = 600.0
#: Seconds that the first look waits until a collection has come.
_PATIENCE = 15.0
#: Seconds for which a watch that is interrupted is still believed.
_BELIEVED = 30.0
#: Seconds until a collection is read again though no event seems to be missing.
_RESYNC = 7200.0


class Live:
    """Collections of the whole cluster, each followed while it is asked for.

    Parameters
    ----------
    period: seconds after which a watch is begun anew.
    """

    def __init__(self, api: KubeApi, period: float) -> None:
        self._api = api
        self._period = period
        self._watches: dict[Resource, Watch] = {}
        self._asked: dict[Resource, float] = {}
        #: When it was said last that a collection may be watched, or not.
        self._may: dict[Resource, tuple[bool, float]] = {}
        #: Those that were not there in time.
        self._late: set[Resource] = set()
        #: What was told last, until something changes.
        self._told: dict[Resource, list[Object]] = {}
        self._ending: asyncio.Task[None] | None = None
        self._closed = False

    async def objects(
        self, resource: Resource, keep: Callable[[Object], Object | None], fields: str = ""
    ) -> list[Object] | None:
        """The objects as they are now, the same list as before where nothing has changed.

        None where that is not known this way: they may not be watched, or the watch does not hear
        of them. A list will tell them, or why it cannot.

        Parameters
        ----------
        keep: what is kept of an object, None for nothing.
        fields: field selector.
        """
        self._asked[resource] = time.monotonic()
        if resource not in self._watches and not await self._allowed(resource):
            return None
        if self._closed:
            return None  # whoever asked before the end would begin a watch that nobody ends
        watch = self._watches.get(resource)
        if watch is None:
            watch = self._watches[resource] = Watch(
                self._api,
                resource,
                None,
                partial(self._changed, resource),
                fields=fields,
                everywhere=resource.namespaced,
                keep=keep,
                period=self._period,
                resync=_RESYNC,
            )
            if self._ending is None or self._ending.done():
                self._ending = asyncio.create_task(self._end_unasked(), name="looks")
        try:
            await watch.synced(0.0 if resource in self._late else _PATIENCE)
        except (Forbidden, Invalid, NotFound):
            # The right to list them is missing, say: not tried again with each look.
            self._may[resource] = False, time.monotonic()
            if self._watches.get(resource) is watch:
                await self._end(resource)
            return None
        except KubernetesError:
            # It may be large, and the network slow: it goes on, and is not waited for again.
            self._late.add(resource)
            return None
        self._late.discard(resource)
        health = watch.health
        if health.error and (health.age is None or health.age > _BELIEVED):
            return None
        if resource not in self._told:
            self._told[resource] = list(watch.objects.values())
        return self._told[resource]

    async def _allowed(self, resource: Resource) -> bool:
        may, asked = self._may.get(resource, (False, -_REFUSED))
        if may or time.monotonic() - asked < _REFUSED:
            return may
        try:
            may = await within(_PATIENCE, self._api.allowed("watch", resource, None))
        except (KubernetesError, asyncio.TimeoutError):
            return False  # whoever lists instead is told why
        self._may[resource] = may, time.monotonic()
        return may

    async def _end_unasked(self) -> None:
        while self._watches:
            await asyncio.sleep(_LINGER / 2)
            now = time.monotonic()
            for resource in list(self._watches):
                if now - self._asked[resource] >= _LINGER:
                    await self._end(resource)

    def _changed(self, resource: Resource, change: Change) -> None:
        self._told.pop(resource, None)

    async def _end(self, resource: Resource) -> None:
        watch = self._watches.pop(resource)
        self._late.discard(resource)
        self._told.pop(resource, None)
        await watch.close()

    async def close(self) -> None:
        """Follow nothing any more."""
        self._closed = True
        await stopped(self._ending)
        for resource in list(self._watches):
            await self._end(resource)
