"""What is told of isolation is what the kernel has: it is asked after its start."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from managers import Kernels, run

from jupyter_gpu_share.allocations import Isolation, State
from jupyter_gpu_share.runtime import Runtime

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_gpu")]


def share_of(manager: Any) -> Any:
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert row.state is State.ACTIVE
    return row.share


@pytest.mark.parametrize(
    ("argv", "isolation"),
    [
        ([sys.executable, "-m"], Isolation.FRAMEWORK),
        ([sys.executable, "-I", "-m"], Isolation.NONE),
        (
            ["env", "-i", f"HOME={os.environ.get('HOME', '/')}", sys.executable, "-m"],
            Isolation.NONE,
        ),
    ],
    ids=["as usual", "python -I", "env -i"],
)
async def test_isolation_is_what_the_kernel_has(
    argv: list[str], isolation: Isolation, kernels: Kernels
) -> None:
    manager = kernels.manager()
    spec = manager.kernel_spec
    assert spec is not None
    spec.argv = [*argv, "ipykernel_launcher", "-f", "{connection_file}"]
    await manager.start_kernel(env={**os.environ, "JUPYTER_GPU_SHARE_SIZE": "1/2"})
    assert share_of(manager).isolation is isolation
    client = await kernels.client(manager)
    told = await run(client, "print('runs')")
    assert told.splitlines()[-1] == "runs"
    assert told.startswith("Nothing limits this kernel") is (isolation is Isolation.NONE)
    assert share_of(manager).isolation is isolation
