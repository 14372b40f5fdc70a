"""Programs that run as a kernel does, on the FAKE driver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from driver.fake_driver import FakeDriver
from waiting import PATIENCE

from jupyter_gpu_share.kernel_side import PATH

__all__ = ["run_on"]


def run_on(
    driver: FakeDriver, code: str, *path: Path, uuid: str, memory: int, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run Python whose share is ``memory`` bytes of one GPU; it has to end well.

    ``path`` is where modules are found before this package's own.
    """
    share = {
        "JUPYTER_GPU_SHARE_UUID": uuid,
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(memory),
        "PYTHONPATH": os.pathsep.join(map(str, [*path, PATH])),
    }
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, **driver.env, **share, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done
