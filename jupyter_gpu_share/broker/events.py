"""What happened to shares, told by number, so that who was away can go on where they stopped."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import uuid4

__all__ = ["Event", "Events"]

#: How many are kept for who comes back.
_KEPT = 1000


@dataclass(frozen=True)
class Event:
    """One thing that happened. ``whose`` share it is about; None: everybody is told."""

    number: int
    whose: Hashable | None
    kind: str
    data: dict[str, Any]


class Events:
    """The last events of this process. All methods are for one event loop.

    Nobody has a queue of their own: a reader that is slow costs no memory.
    """

    def __init__(self) -> None:
        #: Numbers begin anew with each broker, so the broker is part of an event's id.
        self._name = uuid4().hex[:12]
        self._kept: deque[Event] = deque(maxlen=_KEPT)
        self._number = 0
        #: What readers wait for, by whom they read for.
        self._news: dict[Hashable, asyncio.Event] = {}

    @property
    def number(self) -> int:
        """Of the last event."""
        return self._number

    def publish(self, whose: Hashable | None, kind: str, data: dict[str, Any]) -> None:
        """Tell somebody of something, a user or one of their servers; None: everybody."""
        self._number += 1
        self._kept.append(Event(self._number, whose, kind, data))
        for reader in [whose] if whose is not None else list(self._news):
            if (news := self._news.pop(reader, None)) is not None:
                news.set()

    def resumed(self, last_id: str | None) -> int | None:
        """The number of the event with this id; None where what came after it is not known.

        That is so for ids of another broker, of events too long ago, and for no id at all.
        """
        name, _, number = (last_id or "").partition("-")
        if name != self._name or not number.isdecimal() or len(number) > 18:
            return None
        first = self._number - len(self._kept)
        return int(number) if first <= int(number) <= self._number else None

    async def after(self, number: int, whose: Hashable) -> tuple[int, list[Event] | None]:
        """Wait for somebody's events after ``number``: the last number looked at, and the events.

        None instead of events: some of them are forgotten.
        """
        while True:
            if number < self._number - len(self._kept):
                return self._number, None
            new = islice(reversed(self._kept), self._number - number)
            found = [each for each in new if each.whose in (whose, None)][::-1]
            number = self._number
            if found:
                return number, found
            await self._news.setdefault(whose, asyncio.Event()).wait()

    def text(self, number: int, kind: str, data: dict[str, Any]) -> str:
        """An event as server-sent events have it."""
        return f"id: {self._name}-{number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
