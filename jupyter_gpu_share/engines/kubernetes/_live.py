"""What is only shown: followed while somebody looks, so that a look costs nothing.

Pages ask again and again what is free. To list all pods of a cluster for each answer costs the API
server tens of megabytes; to follow them costs what changes. Nothing is followed that nobody has
asked for in the last minutes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .api import Forbidden, Invalid, KubeApi, KubernetesError, NotFound, Resource, Watch

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
        self._ending: asyncio.Task[None] | None = None

    async def objects(
        self, resource: Resource, keep: Callable[[Object], Object | None], fields: str = ""
    ) -> list[Object] | None:
        """The objects as they are now.

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
        watch = self._watches.get(resource)
        if watch is None:
            watch = self._watches[resource] = Watch(
                self._api,
                resource,
                None,
                lambda _: None,
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
            self._may[resource] = False, time.monotonic()  # not with each look anew
            if self._watches.get(resource) is watch:
                del self._watches[resource]
            await watch.close()
            return None
        except KubernetesError:
            # It may be large, and the network slow: it goes on, and is not waited for again.
            self._late.add(resource)
            return None
        self._late.discard(resource)
        health = watch.health
        if health.error and (health.age is None or health.age > _BELIEVED):
            return None
        return list(watch.objects.values())

    async def _allowed(self, resource: Resource) -> bool:
        may, asked = self._may.get(resource, (False, -_REFUSED))
        if may or time.monotonic() - asked < _REFUSED:
            return may
        try:
            may = await self._api.allowed("watch", resource, None)
        except KubernetesError:
            return False  # whoever lists instead is told why
        self._may[resource] = may, time.monotonic()
        return may

    async def _end_unasked(self) -> None:
        while self._watches:
            await asyncio.sleep(_LINGER / 2)
            now = time.monotonic()
            for resource in list(self._watches):
                if now - self._asked[resource] >= _LINGER:
                    await self._watches.pop(resource).close()

    async def close(self) -> None:
        """Follow nothing any more."""
        if self._ending is not None:
            self._ending.cancel()
            with suppress(asyncio.CancelledError):
                await self._ending
        for watch in list(self._watches.values()):
            await watch.close()
        self._watches.clear()
