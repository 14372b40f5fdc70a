"""Events by number: each reader is told its own, whatever happens to others meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from jupyter_gpu_share.broker import events as module
from jupyter_gpu_share.broker.events import Events


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", 10)
    monkeypatch.setattr(module, "_MOST", 3)


async def after(events: Events, number: int, whose: str) -> tuple[int, list[int] | None]:
    number, found = await asyncio.wait_for(events.after(number, whose), 5)
    return number, None if found is None else [each.data["n"] for each in found]


async def test_a_quiet_reader_misses_nothing_by_what_happens_to_others() -> None:
    events = Events()
    events.publish("ann", "row", {"n": 1})
    number, told = await after(events, 0, "ann")
    assert told == [1]
    for n in range(25):
        events.publish("bob", "row", {"n": n})
    events.publish("ann", "row", {"n": 2})
    assert await after(events, number, "ann") == (27, [2])


async def test_a_reader_whose_events_are_forgotten_is_told_so() -> None:
    events = Events()
    for n in range(12):
        events.publish("ann", "row", {"n": n})
    assert await after(events, 0, "ann") == (12, None)
    assert await after(events, 2, "ann") == (12, list(range(2, 12)))


async def test_what_everybody_is_told_comes_in_its_order() -> None:
    events = Events()
    for n, whose in enumerate(("ann", None, "bob", "ann", None)):
        events.publish(whose, "row", {"n": n})
    assert await after(events, 0, "ann") == (5, [0, 1, 3, 4])
    assert await after(events, 0, "eve") == (5, [1, 4])
    for n in range(12):
        events.publish("bob", "row", {"n": n})
    assert await after(events, 0, "eve") == (17, None), "one that was for all is forgotten"


async def test_of_many_readers_nothing_is_kept_for_ever() -> None:
    events = Events()
    for n in range(100):
        events.publish(f"user-{n}", "row", {"n": n})
    assert len(events._lost) <= 3
    assert len(events._own) == len(events._kept) == 10
    assert await after(events, 0, "user-3") == (100, None)
    events.publish("user-3", "row", {"n": 7})
    assert await after(events, 100, "user-3") == (101, [7])
