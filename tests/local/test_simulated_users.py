"""Simulated GPUs of several users, in a folder that they have in common."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from users import ANN, BOB, GROUP
from waiting import PATIENCE

from jupyter_gpu_share.engines.local._folders import make_as_open
from jupyter_gpu_share.kernel_side import PATH

GIB = 2**30

_USER = """
import os, sys
from gpu_share_kernel import simulated
os.umask(0o077)
os.setgroups([int(sys.argv[1])])
os.setresgid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
os.setresuid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
for line in sys.stdin:
    try:
        kept = simulated.allocate(line.strip())
        print("has it", flush=True)
    except simulated.OutOfMemoryError:
        print("no room", flush=True)
"""


def user(number: int, folder: Path) -> subprocess.Popen[str]:
    """A process of a user, which allocates what it is told, with a share of 60 of 80 GiB."""
    env = {
        **os.environ,
        "PYTHONPATH": str(PATH),
        "JUPYTER_GPU_SHARE_UUID": "SIM-0",
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(60 * GIB),
        "JUPYTER_GPU_SHARE_SIMULATED_BYTES": str(80 * GIB),
        "JUPYTER_GPU_SHARE_SIMULATED_DIR": str(folder),
    }
    command = [sys.executable, "-c", _USER, str(GROUP), str(number)]
    return subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def tell(process: subprocess.Popen[str], amount: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{amount}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.mark.timeout(2 * PATIENCE)
def test_users_have_one_gpu_in_common(folder: Path) -> None:
    make_as_open(folder / "simulated")
    make_as_open(folder / "simulated")  # the next user's server
    with user(ANN, folder / "simulated") as ann, user(BOB, folder / "simulated") as bob:
        try:
            assert tell(ann, "50GiB") == "has it"
            assert tell(bob, "50GiB") == "no room"
            assert tell(bob, "30GiB") == "has it"
            assert tell(ann, "1GiB") == "no room"
        finally:
            ann.kill()
            bob.kill()


def test_a_folder_of_ones_own_stays_ones_own(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_as_open(tmp_path / "simulated")
    assert (tmp_path / "simulated").stat().st_mode & 0o777 == 0o700
