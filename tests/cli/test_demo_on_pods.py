"""The demo in pods of a real cluster, as ``make demo ENGINE=kubernetes`` runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster import KERNEL_IMAGE
from cluster.fixtures import CLUSTER_MARKS
from leftovers import nothing_left

pytestmark = CLUSTER_MARKS

_ROOT = Path(__file__).parents[2]
_STATES = {"starting", "active", "idle", "queued", "queued (1 of 1)"}


def test_the_demo_runs_in_pods(
    cluster: Any, namespace: str, jupyter_dirs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.cluster.demo"),
            *("--namespace", namespace, "--output", str(out)),
        ],
        cwd=_ROOT,
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stderr == ""
    text = done.stdout
    assert (
        f"Cluster: context 'tests' at {cluster.api_url}, namespace {namespace!r}. Kernels are pods "
        f"of the image {KERNEL_IMAGE}.\nThe 2 GPUs are SIMULATED"
    ) in text
    # The table, from the first kernel's start to the turn of the one that waited.
    states = [row.split("  ") for row in text.splitlines() if re.match(r"[0-9a-f]{8}  ", row)]
    told = {cells[1].removesuffix(".ipynb"): [] for cells in states}
    for cells in states:
        state = next(cell.strip() for cell in cells if cell.strip() in _STATES)
        told[cells[1].removesuffix(".ipynb")].append(state)
    assert {"starting", "active"} <= set(told["first"]) & set(told["second"])
    assert "queued (1 of 1)" in told["third"]
    assert told["third"][-1] in ("active", "idle")
    for part, size in (("first", 40), ("second", 20), ("third", 80)):
        assert f"  {part}: share: " in text
        assert f" {size} GiB, isolation: " in text
        assert f"  {part}: refused: OutOfMemoryError" in text
    assert "Three kernels shared 2 GPUs" in text
    assert "one that waited and got its turn. All shares are back." in text
    kept = {f"{part}.{kind}" for part in ("first", "second", "third") for kind in ("ipynb", "log")}
    assert {path.name for path in out.iterdir()} == kept
    nothing_left(cluster, namespace)
