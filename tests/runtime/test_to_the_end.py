"""Work that goes to its end, whoever leaves."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress

import pytest
from waiting import PATIENCE

from jupyter_gpu_share._threads import stopped, to_the_end, within


async def test_its_result_and_its_error_are_the_callers() -> None:
    async def give() -> int:
        return 7

    async def fail() -> None:
        raise ValueError("no")

    assert await to_the_end(give()) == 7
    with pytest.raises(ValueError, match="no"):
        await to_the_end(fail())


async def test_a_caller_that_is_cancelled_twice_leaves_when_it_is_done() -> None:
    go, ended = asyncio.Event(), False

    async def work() -> None:
        nonlocal ended
        await go.wait()
        ended = True

    caller = asyncio.ensure_future(to_the_end(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended


async def test_an_error_that_nobody_is_told_of_is_no_news() -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    go = asyncio.Event()

    async def fail() -> None:
        await go.wait()
        raise ValueError("no")

    caller = asyncio.ensure_future(to_the_end(fail()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    go.set()
    with suppress(asyncio.CancelledError):
        await caller
    del caller
    gc.collect()
    await asyncio.sleep(0)
    assert not told


# -- work that has an end ------------------------------------------------------------------------


async def test_what_takes_too_long_is_ended_and_told() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(asyncio.TimeoutError):
        await within(0.01, work())
    assert ended.is_set()
    assert await within(None, asyncio.sleep(0, "done")) == "done"


async def test_a_cancellation_at_the_moment_of_the_end_is_not_forgotten() -> None:
    """A loop that waits for something again and again would go on for ever."""
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    caller = asyncio.ensure_future(within(PATIENCE, done))
    while not done._callbacks:  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    done.set_result(1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


# -- tasks that are stopped ----------------------------------------------------------------------


async def test_a_task_that_has_forgotten_its_cancellation_is_stopped_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jupyter_gpu_share._threads._AGAIN", 0.01)
    forgotten = 0

    async def forgetful() -> None:
        nonlocal forgotten
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if forgotten == 3:
                    raise
                forgotten += 1

    async def failing() -> None:
        raise ValueError("no")

    tasks = [asyncio.create_task(forgetful()), asyncio.create_task(failing())]
    await asyncio.sleep(0)
    await asyncio.wait_for(stopped(*tasks, None), PATIENCE)
    assert forgotten == 3 and tasks[0].cancelled() and tasks[1].done()


async def test_a_task_that_stops_all_does_not_wait_for_itself() -> None:
    await stopped(asyncio.current_task())
    other = asyncio.create_task(asyncio.Event().wait())
    stopping = asyncio.create_task(stopped(other))
    await asyncio.wait({other})
    assert other.cancelled()
    await stopping


async def test_what_is_called_at_the_end_of_a_task_has_been_when_it_is_stopped() -> None:
    """Who keeps tasks until then, and stops those that are left, would do so for ever."""
    ended = asyncio.create_task(asyncio.sleep(0))
    await asyncio.wait({ended})
    left = {ended}
    ended.add_done_callback(left.discard)
    await stopped(ended)
    assert not left
