"""Caps in the true frameworks, without a GPU: ``make test-libraries`` has them."""

from __future__ import annotations

import os
import subprocess

import pytest
from table import Group

from jupyter_gpu_share.kernel_side import PATH

pytestmark = pytest.mark.slow


def run(needs: str, code: str, **env: str) -> str:
    """What a process prints that has a share of 20 GiB."""
    python = Group(needs, needs=(needs,)).python
    if python is None:
        pytest.skip(f"{needs} is not installed here: make test-libraries")
    share = {
        "PYTHONPATH": str(PATH),
        "JUPYTER_GPU_SHARE_UUID": "GPU-0",
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(20 * 2**30),
    }
    done = subprocess.run(
        [python, "-W", "error", "-c", code],
        env={**os.environ, **share, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_true_pytorch_queues_the_cap() -> None:
    """PyTorch does what is queued before its first use of CUDA."""
    code = "import torch; print([call.__module__ for call, _ in torch.cuda._queued_calls][-1])"
    assert run("torch", code) == "gpu_share_kernel.caps"
    assert "gpu_share_kernel" not in run("torch", code, JUPYTER_GPU_SHARE_UUID="")


@pytest.mark.parametrize(("asked", "taken"), [("0.1", 0.1), ("0.9", 0.2375), (None, 0.2375)])
def test_true_jax_takes_the_lower_of_both_names(asked: str | None, taken: float) -> None:
    """With both names set it would not start."""
    code = "from jaxlib import xla_client\n"
    code += "print(xla_client.generate_pjrt_gpu_plugin_options()['memory_fraction'])"
    env = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2375"}
    if asked is not None:
        env["XLA_CLIENT_MEM_FRACTION"] = asked
    assert float(run("jax", code, **env)) == taken
