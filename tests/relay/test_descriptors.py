"""How many threads and descriptors a relay takes, and what happens where there are none."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from kernels import House
from test_relay import settled
from waiting import PATIENCE, eventually

from jupyter_gpu_share.relay import HoldMode
from jupyter_gpu_share.relay._descriptors import raise_descriptor_limit, too_many, words

HERE = Path(__file__).parent


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def test_a_relay_takes_three_threads_and_twenty_five_descriptors(house: House) -> None:
    kernel = house.kernel()
    # What is opened once is not counted.
    house.relay().attach(kernel.connection).result(PATIENCE)
    files, threads, relays = await settled(open_files), threading.active_count(), 4
    for _ in range(relays):
        relay = house.relay()
        relay.hold(HoldMode.WAITING)
        relay.attach(kernel.connection).result(PATIENCE)
        relay.notify("a line")
    await eventually(lambda: open_files() <= files + 25 * relays, "no more are open")
    assert threading.active_count() == threads + 3 * relays


def test_the_limit_is_raised_and_never_lowered() -> None:
    code = (
        "import resource, sys\n"
        "from jupyter_gpu_share.relay._descriptors import raise_descriptor_limit\n"
        "soft, hard = map(int, sys.argv[1:])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))\n"
        "told = raise_descriptor_limit()\n"
        "print(told, *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )

    def limits(soft: int, hard: int) -> list[int]:
        command = [sys.executable, "-c", code, str(soft), str(hard)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
        return [int(each) for each in done.stdout.split()]

    assert limits(256, 2048) == [2048, 2048, 2048]
    assert limits(1024, 1024) == [1024, 1024, 1024]
    assert limits(300, 5000) == [5000, 5000, 5000]


def test_a_limit_that_the_system_does_not_grant_is_approached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []

    def refuse(_: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        if limits[0] > 9000:
            raise ValueError

    infinity = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, infinity))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_descriptor_limit() == 4096
    assert asked == [(65_536, infinity), (10_240, infinity), (4096, infinity)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (infinity, infinity))
    assert raise_descriptor_limit() is None
    assert len(asked) == 3


def test_threads_may_be_too_many_too() -> None:
    error = RuntimeError("can't start new thread")
    assert too_many(error)
    assert "too many threads" in words(error)
    assert not too_many(RuntimeError("something else"))
    assert not too_many(OSError(13, "Permission denied"))


@pytest.mark.slow
def test_at_the_limit_the_reason_is_told_and_no_cell_is_lost() -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "limited.py")],
        capture_output=True,
        text=True,
        check=False,
        timeout=4 * PATIENCE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    refused = {name for name in done.stdout.split() if name in ("bind", "attach", "resume")}
    assert refused == {"bind", "attach", "resume"}, "each met the limit"
