"""How fast variables are saved and brought back, beside cloudpickle and a copy of the file.

Each step runs in a process of its own, ours and the peer's in turn.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from jupyter_gpu_share.kernel_side import CLOUDPICKLE, PATH, cloudpickle

from .rows import Row, times

_ROUNDS = 3
_PATIENCE = 600.0
#: Case, what it is called, and how it is judged: by a copy of the file, or by cloudpickle.
_CASES = (
    ("arrays", "2 GiB of arrays", "copy", 1.2),
    ("dicts", "1.5 million dicts", "cloudpickle", 1.5),
    ("many", "10,000 variables", "cloudpickle", 1.5),
    ("text", "500 MB of text in a data frame", "cloudpickle", 1.5),
)
#: Save and proof together, beside cloudpickle's dump.
_PROVEN = 2.5


def rows() -> list[Row]:
    """Seconds and peak memory of each step."""
    with tempfile.TemporaryDirectory(prefix="bench-keep-", dir=Path.cwd() / "build") as folder:
        return [row for case in _CASES for row in _of(Path(folder), *case)]


def _of(folder: Path, case: str, name: str, peer: str, factor: float) -> list[Row]:
    found: dict[str, list[dict[str, float]]] = {}
    ours, theirs, copied = (folder / f"{case}.{end}" for end in ("ours", "peer", "copy"))
    for _ in range(_ROUNDS):
        steps = (("save", ours), ("dump", theirs), ("restore", ours), ("load", theirs))
        for step, path in (*steps, ("proven", ours)):
            for what, figures in _run(case, step, path).items():
                found.setdefault(what, []).append(figures)
        found.setdefault("copy", []).append({"seconds": _copy(ours, copied)})
        for path in (ours, theirs, copied):
            path.unlink()
    seconds = {what: median(each["seconds"] for each in all_) for what, all_ in found.items()}
    judge = {"copy": "copy", "cloudpickle": "dump"}[peer]
    again = {"copy": "copy", "cloudpickle": "load"}[peer]
    table = [
        Row(f"{name}: look", "s", seconds["survey"], None),
        Row(f"{name}: save", "s", seconds["save"], seconds[judge], *times(factor, seconds[judge])),
        Row(
            f"{name}: load", "s", seconds["restore"], seconds[again], *times(factor, seconds[again])
        ),
    ]
    limit = times(_PROVEN, seconds["dump"])
    table.append(Row(f"{name}: save and proof", "s", seconds["proven"], seconds["dump"], *limit))
    size = max(each["state"] for each in found["save"])
    for what, other in (("save", "dump"), ("restore", "load")):
        most = max(each["peak"] for each in found[what])
        beside = max(each["peak"] for each in found[other])
        bound = 0.1 * size if what == "save" else 1.1 * size
        rule = "at most 10 % of the state" if what == "save" else "at most the state and 10 %"
        table.append(
            Row(f"{name}: memory of the {'save' if what == 'save' else 'load'}", "MiB",
                most / 2**20, beside / 2**20, bound / 2**20, rule)
        )  # fmt: skip
    return table


def _run(case: str, step: str, path: Path) -> dict[str, dict[str, float]]:
    env = {**os.environ, "PYTHONPATH": str(PATH), CLOUDPICKLE: str(cloudpickle())}
    done = subprocess.run(
        [sys.executable, "-m", "bench.keep_inside", case, step, str(path)],
        cwd=Path(__file__).parent.parent,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_PATIENCE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _copy(source: Path, target: Path) -> float:
    """Seconds of a plain copy that is on the disk, too."""
    begun = perf_counter()
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return perf_counter() - begun
