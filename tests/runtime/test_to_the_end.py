"""Work that goes to its end, whoever leaves."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress

import pytest

from jupyter_gpu_share._threads import to_the_end


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
