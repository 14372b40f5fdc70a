"""Mounts that only one process sees, for disks and systems that a test cannot have otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from waiting import PATIENCE


def in_own_mounts(script: str, folder: Path) -> str:
    """Run Python with mounts that nobody else sees; what it printed."""
    needs_mounts()
    code = textwrap.dedent(script)
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs_mounts() -> None:
    """Skip the test where mounting is not allowed."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("this is made by mounting, which needs root and unshare")
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"mounting is not allowed here: {tried.stderr.strip()}")
