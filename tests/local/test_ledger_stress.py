"""Many processes claim and release at random while some of them are killed.

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
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.engines.local._processes import Holder

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
from jupyter_gpu_share.engines.local._processes import this_process
from jupyter_gpu_share.size import Size

folder, seed, recovery = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "with-recovery"
if not recovery:
    _ledger._alive = lambda row: True
draw = random.Random(seed)
ledger, me = Ledger(folder / "ledger.db"), this_process()
marks = folder / f"use-{os.getpid()}.json"
sizes = ["1/4", "1/2", "3/4", "1", "10GiB", "24GiB", "2x1/4", "1/3", "2x1/3"]

def mark(used):
    new = marks.with_suffix(".new")
    new.write_text(json.dumps({"pid": me.pid, "start": me.start_time, "used": used}))
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
        # Used strictly within the time in which it is held.
        mark({piece.uuid: piece.memory_bytes for piece in claim.pieces})
        time.sleep(draw.uniform(0, 0.05))
        mark({})
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
    # new one. Only who used it before and after the reading used it throughout.
    used: Counter[str] = Counter()
    first = dict(_use(folder))
    second = dict(_use(folder))
    for name, use in first.items():
        if second.get(name) == use:
            used.update(use)
    for uuid, amount in used.items():
        if amount > CAPACITY[uuid]:
            raise CapacityExceededError(f"{amount} of {uuid} are in use")


def _use(folder: Path) -> Iterator[tuple[str, dict[str, int]]]:
    for file in folder.glob("use-*.json"):
        row = json.loads(file.read_text())
        if row["used"] and Holder(row["pid"], row["start"]).alive:
            yield file.name, row["used"]


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
            [sys.executable, "-c", _WORKER, str(folder), str(seed), recovery], stdout=log
        )


def storm(folder: Path, seconds: float, seed: int, recovery: str = "with-recovery") -> Counter[str]:
    """Run processes, kill some at random instants and observe all the while; what happened."""
    draw = random.Random(seed)
    ledger = Ledger(folder / "ledger.db")
    ledger.set_gpus(GPUS)
    ledger.close()
    raw = sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True, timeout=PATIENCE)
    seen: Counter[str] = Counter()
    end = time.monotonic() + seconds
    with workers(folder, seed, recovery) as running:
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
    seen["held"] = (folder / "held.log").read_text().count("held")
    return seen


def left_over(folder: Path) -> list[str]:
    """What is still in the ledger after everybody died and the dead were swept."""
    ledger = Ledger(folder / "ledger.db")
    ledger.sweep()
    rows = [claim.kernel_id for claim in ledger.claims()]
    ledger.close()
    return rows


def test_capacity_holds_in_a_short_storm(tmp_path: Path) -> None:
    seen = storm(tmp_path, 5.0, seed=1)
    assert seen["killed"] > 5
    assert seen["held"] > 50
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_capacity_holds_in_a_long_storm(tmp_path: Path) -> None:
    seconds = float(os.environ.get("JUPYTER_GPU_SHARE_STRESS_SECONDS", "60"))
    seen = storm(tmp_path, seconds, seed=2)
    print(f"{seconds:g} s: {dict(seen)}")
    assert seen["killed"] > seconds
    assert seen["held"] > 10 * seconds
    assert left_over(tmp_path) == []


def test_without_the_recovery_the_dead_keep_everything(tmp_path: Path) -> None:
    """What the storms above assert is due to the sweep of the dead."""
    storm(tmp_path, 5.0, seed=1, recovery="without-recovery")
    raw = sqlite3.connect(tmp_path / "ledger.db")
    dead = raw.execute("SELECT count(*) FROM claims").fetchone()[0]
    raw.close()
    assert dead > 0
    recovered = (tmp_path / "held.log").read_text().count("held")
    other = tmp_path / "other"
    other.mkdir()
    assert storm(other, 5.0, seed=1)["held"] > 2 * recovered, "the dead starve the living"
