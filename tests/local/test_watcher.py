"""How kernels of one process wait: woken by every change, at no cost while there is none."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines import _places
from jupyter_gpu_share.engines._processes import Holder, this_process
from jupyter_gpu_share.engines.base import Starting, Waiting
from jupyter_gpu_share.engines.local import _contents
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Claim, Ledger
from jupyter_gpu_share.engines.local._watcher import Watcher
from jupyter_gpu_share.errors import EngineError, LedgerError
from jupyter_gpu_share.size import Size

GIB = 2**30
GPUS = tuple(Gpu(f"G{n}", "A100", n, 80 * GIB) for n in range(2))
INTERVAL = 0.02
T = TypeVar("T")


def ignore(news: Waiting | Starting) -> None:
    """What is told to a kernel that does not listen."""


class Server:
    """What a server has of the ledger: one thread, one watcher."""

    def __init__(self, path: Path, timeout: float = PATIENCE) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.ledger = self.thread.submit(Ledger, path, timeout=timeout).result(PATIENCE)
        self.watcher = Watcher(self.at_ledger, lambda: INTERVAL)
        self.statements: Counter[str] = Counter()
        self.ledger._db.set_trace_callback(self._count)

    async def at_ledger(self, work: Callable[[Ledger], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.thread, work, self.ledger)

    async def ask(self, kernel: str, size: str) -> Claim:
        wanted = Size.parse(size)
        return await self.at_ledger(lambda ledger: ledger.claim(kernel, wanted, this_process(), {}))

    async def wait(
        self, kernel: str, size: str, report: Callable[[Waiting | Starting], None] = ignore
    ) -> Claim:
        """As a start does: whoever leaves gives up the place."""
        try:
            return await self.watcher.wait(await self.ask(kernel, size), report)
        except BaseException:
            await asyncio.shield(self.release(kernel))
            raise

    async def release(self, kernel: str) -> None:
        await self.at_ledger(lambda ledger: ledger.release(kernel))
        self.watcher.look()

    async def looks(self, number: int) -> None:
        """Wait until the watcher has looked so often."""
        until = self.statements["PRAGMA data_version"] + number
        await eventually(lambda: self.statements["PRAGMA data_version"] >= until, "it looks")

    async def close(self) -> None:
        await self.watcher.close()
        self.thread.submit(self.ledger.close).result(PATIENCE)
        self.thread.shutdown()

    def _count(self, statement: str) -> None:
        self.statements[statement] += 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    ledger.set_gpus(GPUS)
    ledger.close()
    return path


@pytest.fixture
async def server(path: Path) -> AsyncIterator[Server]:
    own = Server(path)
    yield own
    await own.close()


@pytest.fixture
async def other(path: Path) -> AsyncIterator[Server]:
    own = Server(path)
    yield own
    await own.close()


async def waiters(server: Server, number: int, size: str = "1/4") -> list[asyncio.Task[Claim]]:
    """Kernels that wait, `w0` first."""
    found = []
    for n in range(number):
        found.append(asyncio.create_task(server.wait(f"w{n}", size)))
        await eventually(lambda n=n: len(server.watcher._waiters) == n + 1, "it waits")
    return found


async def stop(tasks: list[asyncio.Task[Claim]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_hundred_that_wait_write_nothing_while_nothing_changes(server: Server) -> None:
    assert (await server.ask("all", "2x1")).held
    tasks = await waiters(server, 100)
    await server.looks(5)
    before = Counter(server.statements)
    await server.looks(20)
    since = server.statements - before
    assert since["BEGIN IMMEDIATE"] == 0, since
    # What is left is asked once for all of them, and seldom more than a few times.
    assert sum(since.values()) < 3 * since["PRAGMA data_version"] + 30, since
    await stop(tasks)


async def test_a_look_at_all_claims_is_a_query_for_each_table_and_none_where_nothing_is_new(
    server: Server, other: Server
) -> None:
    assert (await server.ask("all", "2x1")).held
    for n in range(20):
        await server.ask(f"w{n}", "1/4")
    sizes = [Size.parse("1"), Size.parse("1/8")]
    looks: list[Callable[[Ledger], Any]] = [
        Ledger.living,
        Ledger.snapshot,
        lambda ledger: ledger.fits_each(None, sizes),
    ]
    for n, work in enumerate(looks):
        await other.ask(f"other {n}", "1/4")
        for queries in (4, 0):
            server.statements.clear()
            await server.at_ledger(work)
            assert sum("SELECT" in text for text in server.statements.elements()) == queries
            assert server.statements["BEGIN IMMEDIATE"] == 0


async def test_room_made_by_this_process_is_given_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.watcher, "_interval", lambda: 3600.0)
    await server.ask("all", "2x1")
    (task,) = await waiters(server, 1)
    await server.release("all")
    assert (await asyncio.wait_for(task, PATIENCE)).pieces


async def test_room_made_by_another_process_is_seen(server: Server, other: Server) -> None:
    await other.ask("all", "2x1")
    tasks = await waiters(server, 9)
    await other.at_ledger(lambda ledger: ledger.release("all"))
    await eventually(lambda: sum(task.done() for task in tasks) == 8, "eight quarters are had")
    assert not tasks[8].done()
    await other.at_ledger(lambda ledger: ledger.claims())
    await server.release("w3")
    assert (await asyncio.wait_for(tasks[8], PATIENCE)).pieces


async def test_one_that_was_granted_before_it_waited_is_not_forgotten(server: Server) -> None:
    await server.ask("all", "2x1")
    (early,) = await waiters(server, 1)
    claim = await server.ask("late", "1/4")
    await server.looks(3)
    await server.at_ledger(lambda ledger: ledger.release("all"))
    await server.looks(3)
    assert not early.done(), "this process wrote, so the ledger shows it no change"
    assert (await asyncio.wait_for(server.watcher.wait(claim, ignore), PATIENCE)).pieces
    assert (await asyncio.wait_for(early, PATIENCE)).pieces


async def test_many_that_come_at_once_are_told_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.ask("all", "2x1")
    tasks = await waiters(server, 1)
    claims = [await server.ask(f"late {n}", "1/4") for n in range(20)]
    pauses: list[float] = []
    monkeypatch.setattr(server.watcher, "_interval", lambda: pauses.append(0) or 3600.0)
    await eventually(lambda: pauses, "it has looked")
    looks = server.statements["PRAGMA data_version"]
    told: list[Any] = []
    for claim in claims:
        tasks.append(asyncio.create_task(server.watcher.wait(claim, told.append)))
        await eventually(lambda: len(told) == len(tasks) - 1, "it waits")
        await server.at_ledger(lambda ledger: None)
    assert server.statements["PRAGMA data_version"] == looks
    server.watcher.look()
    # Once more how many there are by now; the last knew that.
    await eventually(lambda: len(told) == 2 * len(claims) - 1, "they are told")
    assert server.statements["PRAGMA data_version"] == looks + 1
    await stop(tasks)


async def test_one_is_told_only_of_what_changed_for_it(server: Server, other: Server) -> None:
    await other.ask("all", "2x1")
    told: list[Any] = []
    first = asyncio.create_task(server.wait("first", "1", told.append))
    await eventually(lambda: told, "it is told its place")
    second = await other.ask("second", "1/4")
    assert second.position == 2
    await eventually(lambda: len(told) == 2, "it is told that one more waits")
    # Changes that are not about it: what others are told of a kernel, and a look for the dead.
    for n in range(3):
        info = {"path": str(n)}
        await other.at_ledger(lambda ledger, info=info: ledger.set_info("all", info))
        await server.looks(3)
    assert [(news.queue.position, news.queue.of) for news in told] == [(1, 1), (1, 2)]
    await stop([first])


async def test_who_leaves_leaves_alone(server: Server) -> None:
    await server.ask("all", "2x1")
    tasks = await waiters(server, 10)
    assert server.watcher._task is not None
    for n in (7, 0, 4):
        await stop([tasks[n]])
    await server.release("all")
    left = [task for n, task in enumerate(tasks) if n not in (7, 0, 4)]
    assert all(claim.pieces for claim in await asyncio.wait_for(asyncio.gather(*left), PATIENCE))
    held = [claim.kernel_id for claim in await server.at_ledger(Ledger.claims)]
    assert held == [f"w{n}" for n in range(10) if n not in (7, 0, 4)]


async def test_nobody_watches_while_nobody_waits(server: Server) -> None:
    await server.ask("all", "2x1")
    for _ in range(3):
        tasks = await waiters(server, 3)
        task = server.watcher._task
        assert task is not None
        assert not task.done()
        await stop(tasks)
        await eventually(task.done, "the watcher ends")
        assert task.exception() is None


async def test_a_failing_listener_fails_alone(server: Server) -> None:
    await server.ask("all", "2x1")
    told: list[Any] = []

    def report(news: Waiting | Starting) -> None:
        told.append(news)
        if len(told) == 2:
            raise RuntimeError("cannot be told")

    first = asyncio.create_task(server.wait("first", "1", report))
    await eventually(lambda: told, "it is told its place")
    second = asyncio.create_task(server.wait("second", "1"))
    with pytest.raises(RuntimeError, match="cannot be told"):
        await asyncio.wait_for(first, PATIENCE)
    await server.release("all")
    assert (await asyncio.wait_for(second, PATIENCE)).pieces


async def test_a_ledger_that_cannot_be_used_is_told_to_each(path: Path) -> None:
    server = Server(path, timeout=0.05)
    await server.ask("all", "2x1")
    claims = [await server.ask(f"w{n}", "1/4") for n in range(3)]
    tasks = [asyncio.create_task(server.watcher.wait(claim, ignore)) for claim in claims]
    await server.looks(2)
    raw = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE)
    raw.execute("BEGIN EXCLUSIVE")
    done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
    raw.close()
    assert all(isinstance(error, LedgerError) for error in done), done
    assert len({id(error) for error in done}) == 3
    assert {str(error) for error in done} == {str(done[0])}
    assert "held by another program" in str(done[0])
    # Whoever asks then waits as before.
    task = asyncio.create_task(server.wait("next", "1/4"))
    await server.looks(2)
    await server.release("all")
    for n in range(3):
        await server.release(f"w{n}")
    assert (await asyncio.wait_for(task, PATIENCE)).pieces
    await server.close()


async def test_a_claim_that_was_removed_is_told_to_its_kernel_alone(
    server: Server, other: Server
) -> None:
    await server.ask("all", "2x1")
    tasks = await waiters(server, 3)
    await other.at_ledger(lambda ledger: ledger.release("w1"))
    with pytest.raises(LedgerError, match="gone from the ledger"):
        await asyncio.wait_for(tasks[1], PATIENCE)
    await server.looks(2)
    assert [task.done() for task in tasks] == [False, True, False]
    await stop([tasks[0], tasks[2]])


async def test_closing_ends_all_waiting_and_the_task(server: Server) -> None:
    await server.ask("all", "2x1")
    tasks = await waiters(server, 3)
    task = server.watcher._task
    assert sorted(await server.watcher.close()) == ["w0", "w1", "w2"]
    assert task is not None
    assert task.done()
    for one in tasks:
        with pytest.raises(EngineError, match="is closed"):
            await asyncio.wait_for(one, PATIENCE)


_HOLDER = """
import sys
from pathlib import Path
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.size import Size

ledger = Ledger(Path(sys.argv[1]))
claim = ledger.claim("of another", Size.parse(sys.argv[2]), this_process(), {})
print("holds" if claim.held else "waits", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(path: Path, size: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has a claim until it ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path), size],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "holds\n"
            yield process
        finally:
            process.kill()


async def test_what_a_killed_process_held_goes_to_those_that_wait(
    server: Server, path: Path
) -> None:
    with holder(path, "2x1") as process:
        tasks = await waiters(server, 4)
        await server.looks(3)
        assert not any(task.done() for task in tasks)
        process.kill()
        done = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
    assert all(claim.pieces for claim in done)


# -- many at once ----------------------------------------------------------------------------

_WORKER = """
import asyncio, os, random, signal, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.engines.local._watcher import Watcher
from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.size import Size

path, seed = Path(sys.argv[1]), int(sys.argv[2])
draw, me = random.Random(seed), this_process()
sizes = ["1/4", "1/2", "3/4", "1", "2x1/4", "2x1/2", "10GiB"]

async def main():
    thread = ThreadPoolExecutor(1)
    loop = asyncio.get_running_loop()
    ledger = await loop.run_in_executor(thread, lambda: Ledger(path, timeout=60))

    async def at_ledger(work):
        return await loop.run_in_executor(thread, work, ledger)

    watcher = Watcher(at_ledger, lambda: 0.02)
    enough = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, enough.set)
    print(f"began {os.getpid()}.", flush=True)

    async def one(name, size):
        claim = lambda l: l.claim(name, Size.parse(size), me, {})
        try:
            await watcher.wait(await at_ledger(claim), lambda news: None)
            print("held", flush=True)
            await asyncio.sleep(draw.uniform(0, 0.05))
        finally:
            await asyncio.shield(at_ledger(lambda l: l.release(name)))
            watcher.look()

    async def kernel(number):
        turn = 0
        while not enough.is_set():
            turn += 1
            name, size = f"{os.getpid()}-{number}-{turn}", draw.choice(sizes)
            task = asyncio.create_task(one(name, size))
            leaves = asyncio.create_task(asyncio.sleep(draw.uniform(0, 1.0)))
            if draw.random() < 0.4:
                await asyncio.wait({task, leaves}, return_when=asyncio.FIRST_COMPLETED)
                if not task.done():
                    task.cancel()
                    print("left", flush=True)
            leaves.cancel()
            # Whoever does not leave waits as long as it takes.
            await asyncio.gather(task, return_exceptions=True)
            if not task.cancelled():
                task.result()

    await asyncio.gather(*(kernel(number) for number in range(6)))
    left = await watcher.close()
    assert not left, left
    print("ended", flush=True)

asyncio.run(main())
"""


def work(path: Path, seed: int) -> subprocess.Popen[bytes]:
    with path.with_name("log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", _WORKER, str(path), str(seed)], stdout=log)


@pytest.mark.slow
async def test_nobody_waits_for_ever_among_those_who_leave_and_those_who_are_killed(
    path: Path,
) -> None:
    """Servers with six kernels each; some kernels give up waiting, some servers are killed."""
    seed = 1
    draw = random.Random(seed)
    running = [work(path, seed * 1000 + n) for n in range(4)]
    log = path.with_name("log")
    try:
        for n in range(6):
            before = log.read_bytes().count(b"held")
            await eventually(
                lambda before=before: log.read_bytes().count(b"held") > before + 20,
                "shares are had",
            )
            victim = draw.randrange(len(running))
            os.kill(running[victim].pid, signal.SIGKILL)
            running[victim].wait(PATIENCE)
            running[victim] = work(path, seed * 1000 + 100 + n)
        await eventually(lambda: log.read_bytes().count(b"held") > 200, "all are at work")
        # The last one may not have begun yet, and would end at once when it is asked to.
        began = {f"began {process.pid}.".encode() for process in running}
        await eventually(lambda: began <= set(log.read_bytes().split(b"\n")), "all have begun")
        # From now on nobody asks anew: whoever waits still has to get its turn.
        for process in running:
            process.terminate()
        await eventually(
            lambda: all(process.poll() is not None for process in running), "all have had a turn"
        )
        assert [process.returncode for process in running] == [0] * 4
    finally:
        for process in running:
            process.kill()
            process.wait(PATIENCE)
    text = log.read_bytes()
    assert text.count(b"left") > 5
    assert text.count(b"ended") == 4
    ledger = Ledger(path)
    ledger.sweep()
    assert ledger.claims() == []
    ledger.close()


def test_a_process_is_looked_up_once_for_all_of_its_claims(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(path)
    dead = Holder(2**30, "1")
    for n in range(6):
        ledger.claim(f"mine {n}", Size.parse("1/8"), this_process(), {})
        ledger.claim(f"dead {n}", Size.parse("1/8"), dead, {})
    asked: list[Any] = []
    this_place = _places.here()
    alive = Holder.alive.fget
    assert alive is not None
    monkeypatch.setattr(Holder, "alive", property(lambda own: asked.append(own) or alive(own)))
    carried: list[Any] = []

    def carriers_of(tokens: Any) -> dict[str, list[int]]:
        carried.append(tokens)
        return {token: [] for token in tokens}

    monkeypatch.setattr(_contents, "carriers_of", carriers_of)
    places: list[Any] = []
    monkeypatch.setattr(_places, "_namespace", lambda: places.append(1) or this_place.namespace)
    assert ledger.has_dead()
    assert len(places) <= 2, "whether it has ended, and whether it is here"
    assert len(asked) == 2
    assert len(carried) == 1
    ledger.close()
