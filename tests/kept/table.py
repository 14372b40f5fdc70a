"""The rows of the table of what is kept, and how many of them are run at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from waiting import PATIENCE

from jupyter_gpu_share.kernel_side import PATH, cloudpickle

#: Comes back as it was, and nothing is said of it.
SAME = "same"
#: Is said to be lost before anything is freed.
TOLD = "told"
#: Loads differently in a new process: the proof finds it, before anything is freed.
PROVEN = "proven"
#: Changes without a word: docs/keeping.md says so, and why.
UNSEEN = "not looked at"


@dataclass(frozen=True)
class Row:
    """A notebook state.

    Parameters
    ----------
    group: rows of one group are made in one process.
    title: unique in its group.
    cells: what makes it. In it, in ``check`` and in ``name`` ``§`` begins the names of the row.
    check: an expression whose ``repr`` is compared.
    verdict: what becomes of the state.
    name: of what is told; else a variable of the row.
    reason: of a row that is not looked at, a part of its line in docs/keeping.md.
    """

    group: str
    title: str
    cells: str
    check: str
    verdict: str = SAME
    name: str = ""
    reason: str = ""


@dataclass
class Group:
    """Rows that are made in one process, one after the other.

    ``first`` is a cell before those of the rows, ``modules`` has the text of files by name,
    ``needs`` names what the rows import that a machine may not have.
    """

    name: str
    first: str = ""
    modules: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    needs: tuple[str, ...] = ()
    #: Checks change nothing, and run in the process itself: its threads would hang in a copy.
    pure: bool = False

    @property
    def python(self) -> str | None:
        """The interpreter that has what the rows import; None: there is none here."""
        if all(find_spec(name) for name in self.needs):
            return sys.executable
        made = _libraries()
        return str(made / "bin" / "python") if (made / "done").exists() else None

    def same(self, title: str, cells: str, check: str) -> None:
        """Add a state that comes back as it was."""
        self.rows.append(Row(self.name, title, cells, check))

    def told(self, title: str, cells: str, check: str = "0", name: str = "") -> None:
        """Add a state that is told as lost."""
        self.rows.append(Row(self.name, title, cells, check, TOLD, name))

    def proven(self, title: str, cells: str, check: str = "0", name: str = "") -> None:
        """Add a state that only a load shows to be lost."""
        self.rows.append(Row(self.name, title, cells, check, PROVEN, name))

    def unseen(self, title: str, cells: str, check: str, reason: str) -> None:
        """Add a state that changes, as the docs say."""
        self.rows.append(Row(self.name, title, cells, check, UNSEEN, reason=reason))


@dataclass
class Outcome:
    """What became of a row: its check before, after a look, after a save, in the next kernel.

    ``told`` is what the look said to be lost, ``disproved`` what the proof did, ``failed`` what was
    not restored, all with why.
    """

    error: str
    before: str
    between: str
    afterwards: str
    after: str
    told: dict[str, str]
    disproved: dict[str, str]
    failed: dict[str, str]


def _libraries() -> Path:
    """Where ``scripts/make-libraries`` makes its environment."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = sha256(Path(__file__).with_name("libraries.txt").read_bytes()).hexdigest()[:12]
    return cache / "jupyter-gpu-share" / f"libraries-{version}"


def prefix(number: int) -> str:
    """What the names of the row with this number begin with."""
    return f"v{number}_"


def run(group: Group, folder: Path) -> list[Outcome]:
    """Make, look at, save and load the states of a group; two processes, some seconds."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    cells = [group.first, *(row.cells for row in group.rows)]
    names = [prefix(n) for n in range(-1, len(group.rows))]
    task = {
        "modules": group.modules,
        "aside": not group.pure,
        "cells": [cell.replace("§", name) for cell, name in zip(cells, names, strict=True)],
        "checks": [
            row.check.replace("§", name) for row, name in zip(group.rows, names[1:], strict=True)
        ],
    }
    python = group.python
    assert python is not None
    saved = _process(python, "save", folder, task)
    assert not saved["errors"][0], f"{group.name}: {saved['errors'][0]}"
    assert not saved["why"], saved["why"]
    loaded = _process(python, "load", folder, task)
    told = {row["name"]: row["why"] for row in saved["told"]}
    disproved = {row["name"]: row["why"] for row in saved["disproved"] if row["missed"]}
    both = {row["name"]: row["why"] for row in saved["saved"]}
    assert both == {**told, **disproved}
    failed = {row["name"]: row["why"] for row in loaded["failed"]}
    columns = (saved["errors"][1:], saved["before"], saved["between"], saved["afterwards"])
    rows = zip(*columns, loaded["after"], strict=True)
    return [Outcome(*row, told, disproved, failed) for row in rows]


def _process(python: str, what: str, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    done = subprocess.run(
        [python, str(Path(__file__).with_name("inside.py")), what, str(folder / "kept")],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
        cwd=work,
        env={
            **os.environ,
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_GPU_SHARE_CLOUDPICKLE": str(cloudpickle()),
            "MPLBACKEND": "agg",
            # Checks run in a copy of the process, which threads of OpenMP do not survive.
            "OMP_NUM_THREADS": "1",
            "PYTHONHASHSEED": "1",
            "PYTHONPATH": str(PATH),
        },
    )
    assert done.returncode == 0 and done.stdout, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found
