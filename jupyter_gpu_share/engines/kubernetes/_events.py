"""Events of pods, read while somebody waits for them, and told by whoever knows their words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from . import _autoscaler as autoscaler
from . import _kueue as kueue
from . import _preparing as preparing
from .api import EVENTS, Forbidden, KubeApi, KubernetesError
from .backends import dig

__all__ = ["Events"]

Object = Mapping[str, Any]

#: Seconds until Events of a pod are read again, and until what nobody asks for is forgotten.
_AGAIN, _FORGET = 10.0, 600.0
#: Seconds until they are asked for again after a refusal: a right may be granted, and an API server
#: that has just come back refuses what it has not read of.
_REFUSED = 600.0


class Events:
    """Reads the Events of pods while somebody waits for them.

    Without the right to read Events nothing is known, and seldom is asked again. The cluster
    forgets an Event after an hour or so, and a pod may wait for longer: what was said last stays.
    """

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._clock = asyncio.get_running_loop().time
        #: By uid: what there was, from old to new, and when it was read last.
        self._known: dict[str, tuple[Sequence[Object], float]] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._refused = -_REFUSED
        self._pruned = -_AGAIN

    def words(self, pod: Object) -> str:
        """What is known to be said of a pod. What is old is read again, for the next who asks."""
        uid = dig(pod, "metadata", "uid", default="")
        events, read = self._known.get(uid, ((), -_AGAIN))
        gated = kueue.gated(pod)
        may = self._clock() - self._refused >= _REFUSED
        if uid and may and self._clock() - read >= _AGAIN and uid not in self._reading:
            task = self._reading[uid] = asyncio.create_task(
                self._read(uid, gated), name="read Events"
            )
            task.add_done_callback(lambda _: self._reading.pop(uid, None))
        if gated:
            return kueue.waits_for(pod, events)
        if dig(pod, "spec", "nodeName"):
            return preparing.told_by(pod, events)
        return autoscaler.told_by(events)

    async def _read(self, uid: str, gated: bool) -> None:
        now = self._clock()
        if now - self._pruned >= _AGAIN:
            self._pruned = now
            self._known = {key: one for key, one in self._known.items() if now - one[1] < _FORGET}
        before, _ = self._known.get(uid, ((), 0.0))
        self._known[uid] = before, now
        try:
            events = await self._list(f"involvedObject.uid={uid}")
            if gated and (of_workload := kueue.events_of([*before, *events])):
                events += await self._list(of_workload)
        except Forbidden:
            self._refused = now
        except KubernetesError:
            return  # asked again later
        else:
            # Of those that say the same the newest is kept: there may be one in each hour.
            said = {_words(event): event for event in sorted((*before, *events), key=_when)}
            self._known[uid] = sorted(said.values(), key=_when), now

    async def _list(self, selector: str) -> list[Object]:
        found, _ = await self._api.list_once(EVENTS, self._namespace, fieldSelector=selector)
        return list(found)

    async def close(self) -> None:
        """Let go of what is being read."""
        for task in list(self._reading.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _words(event: Object) -> tuple[str, str]:
    return event.get("reason") or "", event.get("message") or ""


def _when(event: Object) -> str:
    """RFC 3339 in UTC, as the API server writes all of them: they sort as texts do."""
    times = (
        dig(event, "series", "lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        dig(event, "metadata", "creationTimestamp"),
    )
    return str(next(filter(None, times), ""))[:19]
