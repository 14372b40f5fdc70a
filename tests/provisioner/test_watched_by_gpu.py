"""Which use counts against a share: that of each of its GPUs, of all processes of the kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from managers import Kernels, run

from jupyter_gpu_share.runtime import Runtime

pytestmark = pytest.mark.slow

_TAKE = (
    "from gpu_share_kernel import simulated; m = simulated.allocate({!r}, {}, beyond_share=True)"
)
_WAIT = "\nimport time; time.sleep(600)"


@pytest.fixture
async def two_gpus(jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kernels]:
    """Kernels on two simulated GPUs of 80 GiB, in a fresh runtime."""
    monkeypatch.setenv("JUPYTER_GPU_SHARE_SIMULATE", "2xA100-80GB")
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "gpu-share-provisioner")
    Runtime.clear_instance()
    own = Kernels()
    yield own
    await own.close()
    Runtime.clear_instance()


def stopped(printed: str) -> bool:
    return "(30 GiB of 20 GiB)" in printed and printed.endswith("KeyboardInterrupt")


async def test_each_gpu_of_a_share_is_watched_by_itself(two_gpus: Kernels) -> None:
    client = await two_gpus.client(await two_gpus.start("2x1/4"))
    # Less than both pieces together, and more than one.
    assert stopped(await run(client, _TAKE.format("30GiB", 1) + _WAIT))
    assert await run(client, "m.free(); print('goes on')") == "goes on"


async def test_processes_of_a_kernel_are_added_up(two_gpus: Kernels) -> None:
    """As those of torchrun, each of which has a cap as large as the share."""
    client = await two_gpus.client(await two_gpus.start("1/4"))
    child = _TAKE.format("15GiB", 0) + "; input()"
    cell = f"import subprocess, sys\nchild = [sys.executable, '-c', {child!r}]\n"
    cell += "both = [subprocess.Popen(child, stdin=subprocess.PIPE) for _ in range(2)]"
    assert stopped(await run(client, cell + _WAIT))
    await run(client, "[(one.kill(), one.wait()) for one in both]")
