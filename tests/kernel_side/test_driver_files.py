"""By which open files it is known that a process has NVIDIA's driver open."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.kernel_side import PATH

_ASK = """
import sys
from gpu_share_kernel import driver
driver._PROC = sys.argv[1]
print(sorted(driver.open_files()), driver.is_wsl(), driver.reached())
"""


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/dev/dxg", "['dxg'] True True"),
        ("/dev/nvidia0", "['nvidia0'] False True"),
        ("/dev/nvidia-uvm", "['nvidia-uvm'] False True"),
        ("/dev/null", "[] False False"),
    ],
)
def test_the_drivers_files_are_known_on_linux_and_under_wsl(
    tmp_path: Path, target: str, said: str
) -> None:
    """In a folder like ``/proc``, of a process that has loaded no library of NVIDIA's."""
    own = tmp_path / "self"
    (own / "fd").mkdir(parents=True)
    (own / "maps").write_text(
        "7f0000000000-7f0000001000 r-xp 00000000 08:01 1 /usr/lib/libc.so.6\n"
    )
    (own / "fd" / "3").symlink_to(target)
    done = subprocess.run(
        [sys.executable, "-c", _ASK, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(PATH)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.strip() == said
