"""Events of pods, read while somebody waits for them, and told by whoever knows their words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ..._threads import stopped
from . import _autoscaler as autoscaler
from . import _kueue as kueue
from . import _preparing as preparing
from .api import EVENTS, Forbidden, KubeApi, KubernetesError
from .backends import dig

__all__ = ["Events"]

Object = Mapping[str, Any]

#: Seconds until Events of a pod are read again, and until what nobody asks for is forgotten.
_AGAIN, _FORGET = 10.0, 600.0
#: The API server looks through all Events of the namespace for each question. So it is asked about
#: no more pods than these one by one, and else for all Events, with so many seconds in between.
_FEW, _PAUSE = 4, 5.0
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
        #: Uids of pods that are to be read about, and whether each is gated.
        self._wanted: dict[str, bool] = {}
        self._reading: asyncio.Task[None] | None = None
        self._refused = -_REFUSED
        self._pruned = -_AGAIN

    def words(self, pod: Object) -> str:
        """What is known to be said of a pod. What is old is read again, for the next who asks."""
        uid = dig(pod, "metadata", "uid", default="")
        events, read = self._known.get(uid, ((), -_AGAIN))
        gated = kueue.gated(pod)
        may = self._clock() - self._refused >= _REFUSED
        if uid and may and self._clock() - read >= _AGAIN:
            self._wanted[uid] = gated
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read_wanted(), name="read Events")
        if gated:
            return kueue.waits_for(pod, events)
        if dig(pod, "spec", "nodeName"):
            return preparing.told_by(pod, events)
        return autoscaler.told_by(events)

    async def _read_wanted(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            now = self._clock()
            if now - self._pruned >= _AGAIN:
                self._pruned = now
                known = self._known.items()
                self._known = {key: one for key, one in known if now - one[1] < _FORGET}
            for uid in wanted:
                self._known[uid] = self._before(uid), now
            try:
                if len(wanted) <= _FEW:
                    reading = (self._read(*each) for each in wanted.items())
                    for failed in await asyncio.gather(*reading, return_exceptions=True):
                        if failed is not None:
                            raise failed
                else:
                    await self._read_all(wanted)
                    await asyncio.sleep(_PAUSE)
            except Forbidden:
                self._refused = now
                self._wanted.clear()
            except KubernetesError:
                pass  # asked again later

    async def _read(self, uid: str, gated: bool) -> None:
        events = await self._list(f"involvedObject.uid={uid}")
        if gated and (of_workload := kueue.events_of([*self._before(uid), *events])):
            events += await self._list(of_workload)
        self._note(uid, events)

    async def _read_all(self, wanted: Mapping[str, bool]) -> None:
        """Read of many pods at once."""
        gated = any(wanted.values())

        def keep(event: dict[str, Any]) -> dict[str, Any] | None:
            about = event.get("involvedObject") or {}
            of_workload = gated and about.get("kind") == "Workload"
            return event if of_workload or about.get("uid") in wanted else None

        found, _ = await self._api.select_once(EVENTS, self._namespace, keep)
        own: dict[str, list[Object]] = {}
        for event in found:
            about = event["involvedObject"]
            own.setdefault(about.get("uid", ""), []).append(event)
            if about.get("kind") == "Workload":
                own.setdefault(kueue.workload_events(about.get("name", "")), []).append(event)
        for uid, is_gated in wanted.items():
            events = own.get(uid, [])
            if is_gated and (of_workload := kueue.events_of([*self._before(uid), *events])):
                events = [*events, *own.get(of_workload, [])]
            self._note(uid, events)

    def _before(self, uid: str) -> Sequence[Object]:
        return self._known[uid][0] if uid in self._known else ()

    def _note(self, uid: str, events: Sequence[Object]) -> None:
        # Of those that say the same the newest is kept: there may be one in each hour.
        said = {_words(event): event for event in sorted((*self._before(uid), *events), key=_when)}
        read = self._known[uid][1] if uid in self._known else self._clock()
        self._known[uid] = sorted(said.values(), key=_when), read

    async def _list(self, selector: str) -> list[Object]:
        found, _ = await self._api.list_once(EVENTS, self._namespace, fieldSelector=selector)
        return list(found)

    async def close(self) -> None:
        """Let go of what is being read."""
        reading, self._reading = self._reading, None
        await stopped(reading)


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
