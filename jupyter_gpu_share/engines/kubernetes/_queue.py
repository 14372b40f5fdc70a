"""Who else waits for a place in the namespace.

This server's own pods are watched, others' are not: with a thousand servers each change would be
told a thousand times. They are read now and then while a kernel of this server waits, or while one
is idle that could make room.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from ..._threads import stopped
from ._names import PART, SERVER, label, selector
from ._shared import Shared
from .api import PODS, KubeApi, KubernetesError

__all__ = ["Queue", "waits"]

Object = dict[str, Any]

#: Seconds between two readings; where a namespace has no other server, between looks for one.
_AGAIN, _ALONE = 10.0, 60.0
#: More who wait are read less often, each for so many seconds.
_EACH = 0.1
#: Seconds that what a decision goes by may be old.
_FRESH = 1.0
#: The pods that no scheduler has placed.
_WITHOUT_PLACE = "spec.nodeName=,status.phase=Pending"


def waits(pod: Object | None, part: str) -> bool:
    """Whether a pod is of this part, and waits for a place."""
    return (
        pod is not None
        and label(pod, PART) == part
        and not (pod.get("spec") or {}).get("nodeName")
        and not pod["metadata"].get("deletionTimestamp")
        and (pod.get("status") or {}).get("phase", "Pending") == "Pending"
    )


class Queue:
    """What is known of other servers' pods that wait.

    Parameters
    ----------
    server: this one; empty where all servers' pods are watched: then there are no others.
    part: of the pods that wait for shares, ``kernel`` or ``lease``.
    read: told whenever it was read while somebody waits.

    Attributes
    ----------
    others: time of creation and name of each, as they were read last; empty while nobody asks.
    alone: no other server has shown itself in the namespace.
    """

    def __init__(
        self, api: KubeApi, namespace: str, server: str, part: str, read: Callable[[], None]
    ) -> None:
        self.others: list[tuple[str, str]] = []
        self.alone = False
        self._api = api
        self._namespace = namespace
        self._server = server
        self._part = part
        self._told = read
        self._random = random.Random()  # noqa: S311 - jitter
        self._asked = False
        self._task: asyncio.Task[None] | None = None
        self._whole = Shared(self._pods)
        self._known: tuple[list[Object], float] | None = None

    @property
    def _selector(self) -> str:
        return f"{selector(part=self._part)},{SERVER}!={self._server}"

    def ask(self) -> None:
        """A kernel of this server waits: have its place known."""
        if not self._server:
            return
        self._asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow(), name="queue")

    async def _follow(self) -> None:
        while self._asked:
            self._asked = False
            try:
                await self._read()
            except KubernetesError:
                self._asked = True  # or who waits would seem to be the first all of a sudden
            else:
                self._told()
            pause = max(_AGAIN, _EACH * len(self.others))
            await asyncio.sleep(pause * self._random.uniform(0.8, 1.2))
        self.others = []

    async def _read(self) -> None:
        # A place is only shown: it may come from the server's memory.
        query = {
            "labelSelector": self._selector,
            "fieldSelector": _WITHOUT_PLACE,
            "resourceVersion": "0",
        }
        found = await self._api.list_metadata(PODS, self._namespace, **query)
        metas = [each["metadata"] for each in found]
        self.others = [
            (meta["creationTimestamp"], meta["name"])
            for meta in metas
            if not meta.get("deletionTimestamp")
        ]

    async def pods(self) -> list[Object]:
        """Other servers' pods that wait, whole.

        That nobody waits may be as old as the pause between two readings. That somebody does is
        read just now, as shares are given back for it.

        Raises
        ------
        KubernetesError
        """
        if not self._server:
            return []
        now = time.monotonic()
        if self._known is None or now - self._known[1] > (_ALONE if self.alone else _AGAIN):
            self._known = await self._whole.get(now)
        elif self._known[0] and now - self._known[1] > _FRESH:
            self._known = await self._whole.get(now - _FRESH)
        return self._known[0]

    async def own(self) -> set[str]:
        """Names of this server's pods that wait now.

        Its watch can have heard nothing for a while, and shares are given back for them.

        Raises
        ------
        KubernetesError
        """
        whose = {"server": self._server} if self._server else {}
        query = {
            "labelSelector": selector(**whose, part=self._part),
            "fieldSelector": _WITHOUT_PLACE,
        }
        found = await self._api.list_metadata(PODS, self._namespace, **query)
        metas = [each["metadata"] for each in found]
        return {meta["name"] for meta in metas if not meta.get("deletionTimestamp")}

    async def _pods(self) -> list[Object]:
        query = {"labelSelector": self._selector, "fieldSelector": _WITHOUT_PLACE}
        found, _ = await self._api.list(PODS, self._namespace, **query)
        return [pod for pod in found if waits(pod, self._part)]

    async def close(self) -> None:
        """Read nothing any more."""
        await stopped(self._task)
        await self._whole.close()
