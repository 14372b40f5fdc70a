"""Many processes claim, change and release at random while some of them are killed.

Each process also marks what it truly uses in a file that only it writes. So the ledger is held
against the use itself, and not only against its own opinion.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.engines._processes import Holder, this_process
from jupyter_gpu_share.engines.local import _ledger
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.size import Size

GIB = 2**30
GPUS = (
    Gpu("G0", "A100", 0, 80 * GIB),
    Gpu("G1", "A100", 1, 80 * GIB),
    Gpu("G2", "L4", 2, 24 * GIB),
)
CAPACITY = {gpu.uuid: gpu.memory_bytes for gpu in GPUS}
PROCESSES = 8

_WORKER = """
import json, os, random, sys, time
from pathlib import Path
from jupyter_gpu_share.engines.local import _ledger
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.size import Size

folder, seed, recovery = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "with-recovery"
if not recovery:
    _ledger.dead_of = lambda rows: []
draw = random.Random(seed)
CAPACITY = json.loads(sys.argv[4])
ledger, me = Ledger(folder / "ledger.db"), this_process()
marks = folder / f"use-{os.getpid()}.json"
sizes = ["1/4", "1/2", "3/4", "1", "10GiB", "24GiB", "2x1/4", "1/3", "2x1/3"]

def mark(token, used):
    new = marks.with_suffix(".new")
    row = {"pid": me.pid, "start": me.start_time, "claim": token, "used": used}
    new.write_text(json.dumps(row))
    os.replace(new, marks)

turns = 0
while True:
    kernel = f"{os.getpid()}-{turns}"
    claim = ledger.claim(kernel, Size.parse(draw.choice(sizes)), me, {})
    patience = time.monotonic() + draw.uniform(0.05, 2.0)
    while not claim.held and time.monotonic() < patience:
        time.sleep(0.005)
        claim = ledger.turn(kernel)
    if claim.held:
        # Used strictly within the time in which it is held, and never more than is.
        use = {piece.uuid: piece.memory_bytes for piece in claim.pieces}
        mark(claim.token, use)
        time.sleep(draw.uniform(0, 0.05))
        size = Size.parse(draw.choice(sizes))
        fits = ledger.change(kernel, size, dry=True) is not None
        if fits:
            shrunk = {uuid: size.bytes_of(CAPACITY[uuid]) for uuid in use}
            mark(claim.token, {uuid: min(use[uuid], shrunk[uuid]) for uuid in use})
        changed = ledger.change(kernel, size) if fits else None
        if changed is not None:
            use = {piece.uuid: piece.memory_bytes for piece in changed.pieces}
            mark(claim.token, use)
            time.sleep(draw.uniform(0, 0.05))
            print("changed", flush=True)
        mark(claim.token, {})
        print("held", flush=True)
    ledger.release(kernel)
    turns += 1
"""


class CapacityExceededError(AssertionError):
    """A GPU was given out more than once."""


def observe(folder: Path, raw: sqlite3.Connection) -> None:
    """Hold the ledger, and what processes truly use, against the capacity, at this instant."""
    rows = raw.execute("SELECT uuid, sum(memory_bytes) FROM pieces GROUP BY uuid").fetchall()
    for uuid, amount in rows:
        if amount > CAPACITY[uuid]:
            raise CapacityExceededError(f"the ledger gives out {amount} of {uuid}")
    # Use is read one file after the other, so a share may be seen at its old holder and at its
    # new one. Only who used it before and after the reading used it throughout; and as a size
    # changes once at most, so much as the smaller of the two.
    used: Counter[str] = Counter()
    first = dict(_use(folder))
    second = dict(_use(folder))
    for claim, use in first.items():
        after = second.get(claim, {})
        used.update({uuid: min(amount, after.get(uuid, 0)) for uuid, amount in use.items()})
    for uuid, amount in used.items():
        if amount > CAPACITY[uuid]:
            raise CapacityExceededError(f"{amount} of {uuid} are in use")


def _use(folder: Path) -> Iterator[tuple[str, dict[str, int]]]:
    for file in folder.glob("use-*.json"):
        row = json.loads(file.read_text())
        if row["used"] and Holder(row["pid"], row["start"]).alive:
            yield row["claim"], row["used"]


@contextmanager
def workers(folder: Path, seed: int, recovery: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes at work; the list may be changed."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        running.extend(start(folder, seed * 1000 + n, recovery) for n in range(PROCESSES))
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait(PATIENCE)


def start(folder: Path, seed: int, recovery: str) -> subprocess.Popen[bytes]:
    log = (folder / "held.log").open("ab")
    with log:
        return subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(folder), str(seed), recovery, json.dumps(CAPACITY)],
            stdout=log,
        )


def storm(folder: Path, seconds: float, seed: int, recovery: str = "with-recovery") -> Counter[str]:
    """Run processes, kill some at random instants and observe all the while; what happened."""
    draw = random.Random(seed)
    ledger = Ledger(folder / "ledger.db")
    ledger.set_gpus(GPUS)
    ledger.close()
    # Not opened as read-only: whoever reads first after a kill has to roll back what was begun.
    raw = sqlite3.connect(folder / "ledger.db", timeout=PATIENCE)
    raw.execute("PRAGMA query_only = ON")
    seen: Counter[str] = Counter()
    with workers(folder, seed, recovery) as running:
        # On a busy machine it takes a while until anybody is at work.
        calm = time.monotonic() + PATIENCE
        while not (folder / "held.log").stat().st_size and time.monotonic() < calm:
            time.sleep(0.01)
        end = time.monotonic() + seconds
        next_kill = time.monotonic() + 0.5
        while time.monotonic() < end:
            observe(folder, raw)
            seen["observed"] += 1
            if time.monotonic() >= next_kill:
                victim = draw.randrange(len(running))
                os.kill(running[victim].pid, signal.SIGKILL)
                running[victim].wait(PATIENCE)
                seen["killed"] += 1
                running[victim] = start(folder, seed * 1000 + 100 + seen["killed"], recovery)
                next_kill = time.monotonic() + draw.uniform(0.02, 0.4)
    raw.close()
    log = (folder / "held.log").read_text()
    seen["held"], seen["changed"] = log.count("held"), log.count("changed")
    return seen


def check_that_nothing_is_held(folder: Path) -> None:
    """After everybody died: the ledger is empty, and who comes next gets the whole machine."""
    ledger = Ledger(folder / "ledger.db")
    try:
        ledger.sweep()
        assert [claim.kernel_id for claim in ledger.claims()] == []
        assert ledger.claim("next", Size.parse("3x1"), this_process(), {}).held
        ledger.release("next")
    finally:
        ledger.close()


@pytest.mark.slow
def test_capacity_holds_in_a_short_storm(tmp_path: Path) -> None:
    seen = storm(tmp_path, 4.0, seed=1)
    assert seen["killed"] > 1
    assert seen["held"] > PROCESSES
    assert seen["changed"] > 1
    check_that_nothing_is_held(tmp_path)


@pytest.mark.slow
def test_capacity_holds_in_a_long_storm(tmp_path: Path) -> None:
    seconds = float(os.environ.get("JUPYTER_GPU_SHARE_STRESS_SECONDS", "60"))
    seen = storm(tmp_path, seconds, seed=2)
    print(f"{seconds:g} s: {dict(seen)}")
    assert seen["killed"] > 1
    assert seen["held"] > seconds
    check_that_nothing_is_held(tmp_path)


@pytest.mark.slow
def test_without_the_recovery_the_check_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the storms assert at their end is due to the sweep of the dead."""
    storm(tmp_path, 2.0, seed=1, recovery="without-recovery")
    with monkeypatch.context() as patch:
        patch.setattr(_ledger, "dead_of", lambda rows: [])
        with pytest.raises(AssertionError):
            check_that_nothing_is_held(tmp_path)
        ledger = Ledger(tmp_path / "ledger.db")
        claim = ledger.claim("starving", Size.parse("3x1"), this_process(), {})
        ledger.release("starving")
        ledger.close()
        assert not claim.held, "the dead starve the living"
    check_that_nothing_is_held(tmp_path)


@pytest.mark.parametrize("where", ["ledger", "use"])
@pytest.mark.slow
def test_the_observer_sees_what_is_too_much(tmp_path: Path, where: str) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.set_gpus(GPUS)
    me = this_process()
    claim = ledger.claim("a", Size.parse("2x1/2"), me, {})
    ledger.close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as raw:
        observe(tmp_path, raw)
        if where == "ledger":
            raw.execute("DROP TRIGGER capacity")
            raw.execute("INSERT INTO pieces VALUES (?, 9, 'G0', ?)", (claim.token, 80 * GIB))
        else:
            for name in "ab":
                row = {"pid": me.pid, "start": me.start_time, "claim": name}
                row["used"] = {"G0": 41 * GIB}
                (tmp_path / f"use-{name}.json").write_text(json.dumps(row))
        with pytest.raises(CapacityExceededError):
            observe(tmp_path, raw)
