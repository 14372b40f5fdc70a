"""A demo that is interrupted says so in one line, and leaves no kernel behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import PATIENCE

DEMO = "import sys; from jupyter_gpu_share.cli import main; sys.exit(main(['demo', *sys.argv[1:]]))"


def kernels_of(mark: str) -> list[str]:
    """Processes of kernels that have this in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if b"ipykernel" in command and mark.encode() in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["starting", "active", "queued"])
def test_an_interrupted_demo_says_so_and_leaves_no_kernel(seen: str, jupyter_dirs: Path) -> None:
    mark = f"DEMO_OF_THIS_TEST={jupyter_dirs}"
    with subprocess.Popen(
        [sys.executable, "-c", DEMO, "--output", str(jupyter_dirs / "demo")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **dict([mark.split("=", 1)])},
        # Jobs in a shell's background ignore it, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        told, end = "", time.monotonic() + 2 * PATIENCE
        while f" {seen}" not in told:
            ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
            assert ready and time.monotonic() < end, told
            told += os.read(process.stdout.fileno(), 2**16).decode()
        if seen != "starting":  # it has a share, and is a process at once
            while not kernels_of(mark):
                assert time.monotonic() < end, told
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=2 * PATIENCE)
    assert (process.returncode, errors) == (130, b"gpu-share: interrupted\n")
    assert not kernels_of(mark)
