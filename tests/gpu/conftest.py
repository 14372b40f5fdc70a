"""Where the tests of real GPUs run: on a machine with an NVIDIA GPU, its driver, and PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gpu_process import OUT_OF_REACH, PYTHON, Device, GpuProcess, missing

# `test_gpu_machine.py` says the one sentence then.
collect_ignore = ["test_gpu_checkpoint.py", "test_gpu_notebook.py"] if missing() else []


@pytest.fixture
def device() -> Iterator[Device]:
    found = Device()
    yield found
    found.close()


@pytest.fixture
def start(device: Device, tmp_path: Path) -> Iterator[Callable[..., GpuProcess]]:
    """Starts processes that have a share of half the GPU; nothing of them is on it yet."""
    made: list[GpuProcess] = []

    def make(*, path: str = "", **env: str) -> GpuProcess:
        share = {
            "CUDA_VISIBLE_DEVICES": device.uuid,
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "JUPYTER_GPU_SHARE_UUID": device.uuid,
            "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(device.memory.total // 2),
            "JUPYTER_GPU_SHARE_ISOLATION": "none",
        }
        made.append(GpuProcess(PYTHON, tmp_path, path=path, **{**share, **env}))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def able(start: Callable[..., GpuProcess]) -> None:
    """Skips a test where this machine cannot do what it is about, and says why."""
    process = start()
    process.do("torch.zeros(1, device='cuda')")
    why = process.get("cuda.hindrance()")
    process.close()
    if any(part in why for part in OUT_OF_REACH):
        pytest.skip(why)
    assert why == ""
