"""The GPUs of a machine where no driver is asked; tests/driver has those where one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_gpu_share.engines.local._inventory import inventory
from jupyter_gpu_share.errors import NoGpuError


@pytest.mark.skipif(
    any(Path("/").glob("usr/lib*/**/libnvidia-ml.so.1")), reason="NVIDIA's library is installed"
)
def test_no_library() -> None:
    with pytest.raises(NoGpuError, match=r"libnvidia-ml\.so\.1 is not installed") as caught:
        inventory()
    assert caught.value.__cause__ is not None


def test_a_simulation_hides_real_gpus() -> None:
    found = inventory("1xA100-80GB")
    assert [gpu.simulated for gpu in found.gpus] == [True]
