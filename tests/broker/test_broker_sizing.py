"""The commands with which docs/shared-machine.md has an administrator size a machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from broker_users import ANN, RunningBroker, User
from installed import ROOT
from servers import until
from waiting import PATIENCE

from jupyter_gpu_share.broker.client import BROKER

pytestmark = pytest.mark.slow


@pytest.fixture
def blocks() -> list[str]:
    text = (ROOT / "docs" / "shared-machine.md").read_text("utf-8")
    part = text.partition("\n## How many GPUs")[2].partition("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", part, re.DOTALL)


def run(script: str, folder: Path, **more: str) -> str:
    """What a script printed, as root without ``sudo``."""
    path = os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-e", "-c", script.replace("sudo ", "")],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **more},
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_account_says_how_much(
    blocks: list[str], broker: RunningBroker, ann: User, tmp_path: Path
) -> None:
    ann.claim("a", "1")
    until(lambda: ann.ok("GET", "/v1/usage")[0]["held"] > 0.1, "it is counted")
    *_, day, user = run(blocks[0], tmp_path, **{BROKER: str(broker.socket)}).splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d 0\.\d\d GPUs, 0 % idle", day)
    assert re.fullmatch(rf"0\.\d uid {ANN}", user)


def test_a_log_of_use_becomes_a_trace(
    blocks: list[str], tmp_path: Path, jupyter_dirs: Path
) -> None:
    """Users who follow each other within a day stay two, whatever the order of the lines."""
    begin = 1622505600 + 1_000_000_020
    hour = 3600
    spans = [("bob", 9, 10, 2), ("ann", 2, 3, 1), ("ann", 0, 1, 1), ("bob", 5, 6, 2)]
    lines = [f"{user},{begin + a * hour},{begin + b * hour},{n}" for user, a, b, n in spans]
    (tmp_path / "use.csv").write_text("\n".join(lines) + "\n")
    assert run(blocks[1], tmp_path).count("wait for a first share, 95th percentile") == 3
    start = (begin - 1622505600) / 60
    assert (tmp_path / "trace.csv").read_text().split() == [
        "submit_time,duration,num_gpu",
        *(
            f"{start + 60 * hours:.2f},60.00,{gpus}"
            for hours, gpus in ((5, 2), (9, 2), (0, 1), (2, 1))
        ),
    ]
    told = json.loads(run("jupyter gpu-share replay trace.csv --json", tmp_path))
    assert (told["sessions"], told["bursts"]) == (2, 4)
