"""What kernels left running is ended, in as few looks at all processes as it takes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Collection

import pytest
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines._processes import CLAIM_VARIABLE
from jupyter_gpu_share.engines.local import _leftovers
from jupyter_gpu_share.engines.local._leftovers import Leftovers


def left(token: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, CLAIM_VARIABLE: token}
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print('on', flush=True); time.sleep(99)"],
        env=env,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"on\n"
    return process


async def test_what_carries_a_claim_is_killed_and_nothing_else() -> None:
    one, two, other = left("token-1"), left("token-2"), left("token-3")
    try:
        leftovers = Leftovers()
        await asyncio.gather(leftovers.end("token-1"), leftovers.end("token-2"))
        assert one.wait(PATIENCE) == two.wait(PATIENCE) == -9
        assert other.poll() is None
    finally:
        for process in (one, two, other):
            process.kill()
            process.wait(PATIENCE)


async def test_those_that_come_during_a_look_share_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[set[str]] = []
    go = threading.Event()

    def carriers_of(tokens: Collection[str]) -> dict[str, list[int]]:
        looks.append(set(tokens))
        assert go.wait(PATIENCE)
        return {}

    monkeypatch.setattr(_leftovers, "carriers_of", carriers_of)
    leftovers = Leftovers()
    first = asyncio.create_task(leftovers.end("first"))
    await eventually(lambda: looks, "it looks")
    others = []
    for n in range(20):
        others.append(asyncio.create_task(leftovers.end(f"t{n}")))
        for _ in range(3):  # whatever they begin has begun
            await asyncio.sleep(0)
    leaves = asyncio.create_task(leftovers.end("leaves"))
    await asyncio.sleep(0)
    leaves.cancel()
    assert not first.done()
    go.set()
    await asyncio.wait_for(asyncio.gather(first, *others), PATIENCE)
    await leftovers.close()
    assert looks == [{"first"}, {"leaves", *(f"t{n}" for n in range(20))}]
    await asyncio.wait_for(leftovers.end("last"), PATIENCE)
    assert looks[2:] == [{"last"}]
