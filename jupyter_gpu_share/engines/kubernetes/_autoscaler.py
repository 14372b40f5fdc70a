"""What the cluster's autoscaler says about pods that have no place: Events, told in words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from .api import EVENTS, Forbidden, KubeApi, KubernetesError
from .backends import dig

__all__ = ["Autoscaler", "told_by"]

Object = Mapping[str, Any]

#: Seconds until Events of a pod are read again, and until what nobody asks for is forgotten.
_AGAIN, _FORGET = 10.0, 600.0
_LONGEST = 200
#: Reasons by which Cluster Autoscaler and Karpenter tell that a node comes.
_COMING = ("TriggeredScaleUp", "Nominated")
#: That none comes, and what stands before the cause. The scheduler has the second reason, too.
_NONE = {
    "NotTriggerScaleUp": "pod didn't trigger scale-up: ",
    "FailedScheduling": "Failed to schedule pod, ",
}


def told_by(events: Iterable[Object]) -> str:
    """What an autoscaler has said last in the Events of a pod, for the user; empty for nothing."""
    found = max(
        ((_when(event), words) for event in events if (words := _words(event))), default=("", "")
    )
    return found[1]


def _words(event: Object) -> str:
    reason, message = event.get("reason", ""), " ".join((event.get("message") or "").split())
    if reason in _COMING:
        return "The cluster's autoscaler brings a node for it, which takes some minutes."
    before = _NONE.get(reason)
    if before is None or not message.startswith(before):
        return ""
    cause = message[len(before) :].rstrip(". ")
    cause = cause if len(cause) <= _LONGEST else cause[: _LONGEST - 1] + "…"
    return f"The cluster's autoscaler brings no node for it: {cause}."


def _when(event: Object) -> str:
    """RFC 3339 in UTC, as the API server writes all of them: they sort as texts do."""
    times = (
        dig(event, "series", "lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        dig(event, "metadata", "creationTimestamp"),
    )
    return str(next(filter(None, times), ""))[:19]


class Autoscaler:
    """Reads the Events of pods while somebody waits for their places.

    Without the right to read Events nothing is known, and nothing is asked again.
    """

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._clock = asyncio.get_running_loop().time
        #: By uid: what was said, and when it was read last.
        self._known: dict[str, tuple[str, float]] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._may = True

    def words(self, pod: Object) -> str:
        """What is known to be said of a pod. What is old is read again, for the next who asks."""
        uid = dig(pod, "metadata", "uid", default="")
        words, read = self._known.get(uid, ("", -_AGAIN))
        if uid and self._may and self._clock() - read >= _AGAIN and uid not in self._reading:
            task = self._reading[uid] = asyncio.create_task(self._read(uid), name="read Events")
            task.add_done_callback(lambda _: self._reading.pop(uid, None))
        return words

    async def _read(self, uid: str) -> None:
        now = self._clock()
        self._known = {key: one for key, one in self._known.items() if now - one[1] < _FORGET}
        before, _ = self._known.get(uid, ("", 0.0))
        self._known[uid] = before, now
        try:
            query = {"fieldSelector": f"involvedObject.uid={uid}"}
            events, _ = await self._api.list_once(EVENTS, self._namespace, **query)
        except Forbidden:
            self._may = False
        except KubernetesError:
            return  # asked again later
        else:
            self._known[uid] = told_by(events), now

    async def close(self) -> None:
        """Let go of what is being read."""
        for task in list(self._reading.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
