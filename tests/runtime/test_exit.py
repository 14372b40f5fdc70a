"""What is left when a process that runs kernels ends, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.local._ledger import Ledger

pytestmark = pytest.mark.slow

_SCRIPT = """
import os, sys
from jupyter_client.manager import KernelManager
manager = KernelManager(kernel_name="python3")
manager.start_kernel(env={**os.environ, "JUPYTER_GPU_SHARE_SIZE": "1/2"})
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=60)
client.execute("import os, sys; print(os.getpid(), file=open(sys.argv[-1] + '.pid', 'w'))")
client.get_shell_msg(timeout=60)
from jupyter_gpu_share.runtime import Runtime
kernel = next(iter(Runtime.instance().kernels.values()))
print(kernel.running.pid, flush=True)
if sys.argv[1] == "wait":
    input()
"""


_WORKER = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

def work():
    from jupyter_client.manager import KernelManager
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    from jupyter_gpu_share.runtime import Runtime
    return next(iter(Runtime.instance().kernels.values())).running.pid

with ProcessPoolExecutor(1, mp_context=get_context("fork")) as workers:
    print(workers.submit(work).result(), flush=True)
if sys.argv[1] == "wait":
    input()
"""


def run(how: str, script: str = _SCRIPT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def claims(folder: Path) -> int:
    (path,) = (folder / "data" / "gpu-share").glob("*/simulated-*.db")
    ledger = Ledger(path)
    found = len(ledger.claims())
    ledger.close()
    return found


async def test_a_script_that_just_ends_leaves_nothing(one_gpu: Path) -> None:
    process = run("end")
    said, complaints = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, complaints
    assert "Task was destroyed" not in complaints
    assert "Traceback" not in complaints, complaints
    await eventually(lambda: gone(int(said)), "the kernel ended with its script")
    assert claims(one_gpu) == 0


async def test_a_worker_that_ends_leaves_nothing(one_gpu: Path) -> None:
    process = run("wait", _WORKER)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    await eventually(lambda: gone(pid), "the kernel ended with its worker")
    await eventually(lambda: claims(one_gpu) == 0, "its share went back")
    assert process.poll() is None
    _, complaints = process.communicate("\n", timeout=PATIENCE)
    assert complaints == ""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
async def test_a_killed_server_leaves_nothing(one_gpu: Path, signum: int) -> None:
    process = run("wait")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert claims(one_gpu) == 1
    process.send_signal(signum)
    process.communicate(timeout=PATIENCE)
    await eventually(lambda: gone(pid), "the kernel ended after its server")
    # Whoever looks at the ledger next frees what the dead held.
    ledger_files = list((one_gpu / "data" / "gpu-share").glob("*/simulated-*.db"))
    ledger = Ledger(ledger_files[0])
    ledger.sweep()
    assert ledger.claims() == []
    ledger.close()
