"""The FAKE driver itself: that it is as the true bindings, and true processes, would have it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_driver import GIB, MIB, UUIDS, FakeDriver
from waiting import PATIENCE

from jupyter_gpu_share.kernel_side import PATH

HERE = Path(__file__).parent


def run(driver: FakeDriver, code: str, **env: str) -> list[str]:
    """What a program prints that sees the driver."""
    more = [env.pop("PYTHONPATH", None), os.environ.get("PYTHONPATH")]
    path = os.pathsep.join([str(HERE), *filter(None, more)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **driver.env, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_true_binding_of_nvml_sees_what_programs_of_cuda_use(driver: FakeDriver) -> None:
    code = f"""
import os, pynvml, fake_gpu_program as gpu
mine = gpu.Array({GIB}, 1)
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(1)
row, = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
print(pynvml.nvmlDeviceGetUUID(handle), row.pid == os.getpid(), row.usedGpuMemory)
"""
    assert run(driver, code) == [f"{UUIDS[1]} True {GIB + 256 * MIB}"]
    assert driver.used(1) == 0, "a process that has ended has nothing"


def test_the_true_binding_of_cuda_moves_a_process_off_and_back(driver: FakeDriver) -> None:
    pytest.importorskip("cuda.bindings.driver", reason="`cuda-bindings` is not installed")
    code = f"""
import os, fake_gpu_program as gpu
from cuda.bindings import driver
mine = gpu.Array({GIB}); mine.write("kept")
pid = os.getpid()
for name in ("Lock", "Checkpoint"): print(*getattr(driver, "cuCheckpointProcess" + name)(pid, None))
print(driver.cuCheckpointProcessGetState(pid)[1].name)
for name in ("Restore", "Unlock"): print(*getattr(driver, "cuCheckpointProcess" + name)(pid, None))
print(mine.read(4), driver.cuMemGetInfo()[1])
"""
    said = run(driver, code)
    assert said[2] == "CU_PROCESS_STATE_CHECKPOINTED"
    assert said[-1] == f"kept {15 * GIB - 256 * MIB}"
    assert driver.calls() == {"Lock": 1, "Checkpoint": 1, "Restore": 1, "Unlock": 1}


def test_calls_of_a_locked_process_wait(driver: FakeDriver) -> None:
    code = f"""
import ctypes, os, threading, fake_gpu_program as gpu
mine = gpu.Array({GIB}); mine.write("kept")
cuda, said = ctypes.CDLL("libcuda.so.1"), []
for name in ("Lock", "Checkpoint"): getattr(cuda, "cuCheckpointProcess" + name)(os.getpid(), None)
thread = threading.Thread(target=lambda: said.append(mine.read(4))); thread.start()
thread.join(0.2); print(said)
for name in ("Restore", "Unlock"): getattr(cuda, "cuCheckpointProcess" + name)(os.getpid(), None)
thread.join(); print(said)
"""
    assert run(driver, code) == ["[]", "['kept']"]


def test_nothing_is_asked_of_cuda_that_would_wait(driver: FakeDriver) -> None:
    """Of a process that is away, or that another tool has locked."""
    code = f"""
import ctypes, os, sys, types, fake_gpu_program as gpu
from gpu_share_kernel import caps, cuda_signs, driver
mine, said = gpu.Array({GIB}), []
def empty_cache(): said.append(gpu.Array(1))
cuda = types.SimpleNamespace(is_initialized=lambda: True, empty_cache=empty_cache)
sys.modules["torch"] = types.SimpleNamespace(cuda=cuda)
caps.empty_caches(); print(len(said), driver.contexts())
for name in ("Lock", "Checkpoint"):
    getattr(ctypes.CDLL("libcuda.so.1"), "cuCheckpointProcess" + name)(os.getpid(), None)
    caps.empty_caches()
    print(len(said), driver.contexts(), driver.reached(), cuda_signs.has_no_context())
"""
    share = {"JUPYTER_GPU_SHARE_UUID": UUIDS[0], "PYTHONPATH": str(PATH)}
    assert run(driver, code, **share) == [f"1 ['{UUIDS[0]}']", *["1 None True False"] * 2]


def test_devices_are_those_that_the_variable_names(driver: FakeDriver) -> None:
    code = f"import fake_gpu_program as gpu; mine = gpu.Array({GIB}); gpu.context(1)"
    with pytest.raises(AssertionError, match="cuDevicePrimaryCtxRetain answers 101"):
        run(driver, code, CUDA_VISIBLE_DEVICES=UUIDS[1])
    with pytest.raises(AssertionError, match="cuInit answers 100"):
        run(driver, code, CUDA_VISIBLE_DEVICES="")
