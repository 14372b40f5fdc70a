"""The GPUs of a machine. NVIDIA's own binding is real, its library here is a fake (fake_nvml.c)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.engines.local._inventory import inventory
from jupyter_gpu_share.errors import NoGpuError

GIB = 2**30
_ASK = """
import dataclasses, json, os, sys
from jupyter_gpu_share.engines.local._inventory import inventory, real_use
from jupyter_gpu_share.errors import NoGpuError
try:
    found = inventory()
except NoGpuError as error:
    print(json.dumps({"error": str(error), "cause": type(error.__cause__).__name__}))
else:
    use = real_use(found.gpus, [int(pid) for pid in sys.argv[1:]])
    print(json.dumps({
        "gpus": [dataclasses.asdict(gpu) for gpu in found.gpus], "driver": found.driver,
        "use": {pid: [dict(row.used), row.utilization] for pid, row in use.items()},
    }))
"""


@pytest.fixture(scope="session")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fake library."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the fake NVML library is C, and there is no C compiler (cc)")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(source)],
        check=True,
        timeout=PATIENCE,
    )
    return folder


def ask(folder: Path, scenario: str, *pids: int, running: str = "") -> Any:
    """What a process sees that finds the fake library."""
    env = {
        **os.environ,
        "LD_LIBRARY_PATH": str(folder),
        "FAKE_NVML": scenario,
        "FAKE_NVML_PIDS": running,
    }
    done = subprocess.run(
        [sys.executable, "-c", _ASK, *map(str, pids)],
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_whole_gpus(fake_nvml: Path) -> None:
    found = ask(fake_nvml, "two")
    assert found["driver"] == "999.1-fake"
    assert [gpu["uuid"] for gpu in found["gpus"]] == ["GPU-0", "GPU-1"]
    assert found["gpus"][0]["memory_bytes"] == 79 * GIB
    assert found["gpus"][0]["model"] == "NVIDIA A100-SXM4-80GB"
    assert not found["gpus"][0]["simulated"]


def test_an_old_driver_tells_no_reserve(fake_nvml: Path) -> None:
    assert ask(fake_nvml, "old")["gpus"][0]["memory_bytes"] == 80 * GIB


def test_mig_instances_stand_for_their_gpu(fake_nvml: Path) -> None:
    gpus = ask(fake_nvml, "mig")["gpus"]
    assert [gpu["uuid"] for gpu in gpus] == [*(f"MIG-0-{n}" for n in range(7)), "GPU-1"]
    assert {gpu["profile"] for gpu in gpus} == {"1g.10gb", None}
    assert gpus[0]["parent"] == "GPU-0"
    assert gpus[0]["memory_bytes"] == 39 * GIB // 4


def test_what_processes_use(fake_nvml: Path) -> None:
    use = ask(fake_nvml, "two", 101, 102, 103, running="101:2048,102:?,999:5")["use"]
    assert use == {"101": [{"GPU-0": 2 * GIB}, 0.4]}, "unknown is left out, and is not zero"


@pytest.mark.parametrize(
    ("scenario", "says", "cause"),
    [
        ("noload", "driver is not loaded", "NVMLError_DriverNotLoaded"),
        ("none", "sees no GPU", "NoneType"),
    ],
)
def test_no_gpu(fake_nvml: Path, scenario: str, says: str, cause: str) -> None:
    found = ask(fake_nvml, scenario)
    assert says in found["error"]
    assert "Choose size 0" in found["error"]
    assert found["cause"] == cause


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
