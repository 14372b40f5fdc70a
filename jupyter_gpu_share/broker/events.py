"""What happened to shares, told by number, so that who was away can go on where they stopped."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from uuid import uuid4

__all__ = ["Event", "Events"]

#: How many are kept for who comes back, and of how many it is known what was forgotten.
_KEPT, _MOST = 1000, 10_000


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
        self._kept: deque[Event] = deque()
        #: The same by whom they are about, so that nobody looks through everybody's.
        self._own: dict[Hashable | None, deque[Event]] = {}
        self._number = 0
        #: The last one that is forgotten, by whom it was about; and up to which that is not known.
        self._lost: dict[Hashable | None, int] = {}
        self._unknown = 0
        #: What readers wait for, by whom they read for.
        self._news: dict[Hashable, asyncio.Event] = {}

    @property
    def number(self) -> int:
        """Of the last event."""
        return self._number

    def publish(self, whose: Hashable | None, kind: str, data: dict[str, Any]) -> None:
        """Tell somebody of something, a user or one of their servers; None: everybody."""
        self._number += 1
        event = Event(self._number, whose, kind, data)
        self._kept.append(event)
        self._own.setdefault(whose, deque()).append(event)
        if len(self._kept) > _KEPT:
            self._forget()
        for reader in [whose] if whose is not None else list(self._news):
            if (news := self._news.pop(reader, None)) is not None:
                news.set()

    def _forget(self) -> None:
        """Forget the first of all, which is the first of those about the same."""
        first = self._kept.popleft()
        own = self._own[first.whose]
        own.popleft()
        if not own:
            del self._own[first.whose]
        if len(self._lost) >= _MOST:
            self._lost.clear()
            self._unknown = first.number
        self._lost[first.whose] = first.number

    def _since(self, number: int, whose: Hashable | None) -> Iterator[Event]:
        """The last events about ``whose`` alone, the last one first."""
        return takewhile(lambda each: each.number > number, reversed(self._own.get(whose, ())))

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
            if number < max(self._unknown, *(self._lost.get(each, 0) for each in (whose, None))):
                return self._number, None
            new = [*self._since(number, whose), *self._since(number, None)]
            found = sorted(new, key=lambda each: each.number)
            number = self._number
            if found:
                return number, found
            await self._news.setdefault(whose, asyncio.Event()).wait()

    def text(self, number: int, kind: str, data: dict[str, Any]) -> str:
        """An event as server-sent events have it."""
        return f"id: {self._name}-{number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
