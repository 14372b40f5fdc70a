"""What true libraries leave running is known to wait: ``make test-libraries`` has them."""

from __future__ import annotations

import os
import subprocess

import pytest
from table import Group

from jupyter_gpu_share.kernel_side import PATH

pytestmark = pytest.mark.slow

#: Each begins its helpers and gives them something to do, which they have done when it ends.
USED = {
    "torch.compile": """
from torch._inductor import config
config.worker_start_method, config.compile_threads = "subprocess", 2
from torch._inductor.async_compile import AsyncCompile
AsyncCompile.process_pool().submit(int, "3").result(60)
""",
    "joblib": """
from joblib import Parallel, delayed
Parallel(2)(delayed(abs)(number) for number in range(4))
""",
    "fsspec": "import fsspec.asyn; fsspec.asyn.get_loop()",
    "threads of PyTorch": """
import torch
(torch.ones(400, 400, requires_grad=True) @ torch.ones(400, 400)).sum().backward()
""",
    "shared memory": """
import torch
from multiprocessing import shared_memory
kept = torch.ones(3).share_memory_(), shared_memory.SharedMemory(create=True, size=9)
kept[1].close(); kept[1].unlink()
""",
}
#: Prints what still counts as work, as soon as that is nothing, or after a while.
_LOOK = """
import time
from gpu_share_kernel import background
end = time.monotonic() + 20
while (found := background._processes() + background._threads()) and time.monotonic() < end:
    time.sleep(0.1)
print("counts:", found)
"""


@pytest.mark.parametrize("what", USED)
def test_idle_helpers_are_no_work(what: str) -> None:
    python = Group(what, needs=("torch", "joblib", "fsspec")).python
    if python is None:
        pytest.skip("PyTorch and scikit-learn are not installed here: make test-libraries")
    done = subprocess.run(
        [python, "-c", USED[what] + _LOOK],
        env={**os.environ, "PYTHONPATH": str(PATH)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "counts: []", done.stdout
