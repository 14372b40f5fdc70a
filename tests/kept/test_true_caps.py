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


#: A GPU of 80 GiB below the true PyTorch, whose own build has none.
TORCH = """
import types, torch
c, calls = torch.cuda, []
torch._C._cuda_setMemoryFraction = lambda part, device: calls.append((part, device))
torch._C._cuda_getMemoryFraction = lambda device: 1.0
c.device_count, c.current_device = (lambda: 1), (lambda: 0)
c.get_device_properties = lambda _: types.SimpleNamespace(total_memory=80 * 2**30, uuid="0")
def begin():
    if not c._initialized:
        c._initialized = True
        c._queued_calls[-1][0]()
c._lazy_init = c.memory._lazy_init = begin
def told():
    print(calls)
    calls.clear()
"""


def test_true_pytorch_keeps_a_lower_fraction() -> None:
    code = TORCH + "c.set_per_process_memory_fraction(0.125, torch.device('cuda:0')); told()\n"
    code += "c.memory.set_per_process_memory_fraction(0.5, 'cuda:0'); told()\n"
    code += "from gpu_share_kernel import caps; caps.renew_torch(); told()\n"
    code += "c.set_per_process_memory_fraction(0.125); caps.renew_torch(); told()"
    assert run("torch", code).split("\n") == [
        "[(0.25, 0), (0.125, 0)]",
        "[(0.5, 0), (0.25, 0)]",
        "[(0.25, 0)]",
        "[(0.125, 0), (0.125, 0)]",
    ]


@pytest.mark.parametrize(("asked", "taken"), [("0.1", 0.1), ("0.9", 0.2375), (None, 0.2375)])
def test_true_jax_takes_the_lower_of_both_names(asked: str | None, taken: float) -> None:
    """With both names set it would not start."""
    code = "from jaxlib import xla_client\n"
    code += "print(xla_client.generate_pjrt_gpu_plugin_options()['memory_fraction'])"
    env = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2375"}
    if asked is not None:
        env["XLA_CLIENT_MEM_FRACTION"] = asked
    assert float(run("jax", code, **env)) == taken
