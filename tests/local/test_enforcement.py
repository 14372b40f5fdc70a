"""What a kernel's environment says about its share, and what that is worth."""

from __future__ import annotations

import socket
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpu_share.allocations import Isolation
from jupyter_gpu_share.engines._caps import framework_caps
from jupyter_gpu_share.engines.local._enforcement import (
    MpsStatus,
    environment,
    mps_status,
    without_share,
)
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._simulated import parse_simulation

GIB = 2**30
REAL = Gpu("GPU-0", "A100", 0, 80 * GIB)
INSTANCE = Gpu("MIG-0", "A100", 0, 10 * GIB, profile="1g.10gb", parent="GPU-0")
NO_MPS = MpsStatus.absent()
MPS = MpsStatus(True, "/run/mps")


def make(
    *gpus: Gpu, memory: int = 20 * GIB, language: str = "python", **options: Any
) -> tuple[dict[str, str], Isolation]:
    fraction = Fraction(memory, gpus[0].memory_bytes) if gpus else Fraction(0)
    return environment(
        memory_bytes=memory,
        fraction=options.pop("fraction", fraction),
        gpus=gpus,
        language=language,
        mps=options.pop("mps", NO_MPS),
        numbered=options.pop("numbered", False),
        kernel_side=Path("/kernel-side"),
        token="claim",
        simulated_dir=Path("/simulated"),
        base=options.pop("base", {}),
    )


def test_the_share_is_told() -> None:
    env, isolation = make(REAL)
    assert isolation is Isolation.FRAMEWORK
    assert env["JUPYTER_GPU_SHARE_UUID"] == env["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    assert env["JUPYTER_GPU_SHARE_MEMORY_BYTES"] == str(20 * GIB)
    assert env["JUPYTER_GPU_SHARE_FRACTION"] == "1/4"
    assert env["JUPYTER_GPU_SHARE_ISOLATION"] == "framework"
    assert env["JUPYTER_GPU_SHARE_CLAIM"] == "claim"


@pytest.mark.parametrize("gpus", [(), (REAL,), (REAL, REAL)], ids=["none", "one", "two"])
def test_of_another_share_around_the_server_nothing_is_told(gpus: tuple[Gpu, ...]) -> None:
    simulated = parse_simulation("A100-80GB")[0]
    outer, _ = make(simulated)
    base = {"PATH": "/bin", "JUPYTER_GPU_SHARE_SIZE": "1/2", **outer}
    alone, _ = make(*gpus, base={"PYTHONPATH": outer["PYTHONPATH"]})
    inner, _ = make(*gpus, base=base)
    assert inner == alone
    whole = {**without_share(base), **inner}
    told = {name for name in whole if name.startswith("JUPYTER_GPU_SHARE_")}
    assert told == {
        "JUPYTER_GPU_SHARE_SIZE",
        *(name for name in alone if name.startswith("JUPYTER_GPU_SHARE_")),
    }
    assert whole["PATH"] == "/bin"


def test_framework_caps() -> None:
    env, _ = make(REAL)
    assert env["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.237500"
    assert env["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert env["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert env["CUPY_GPU_MEMORY_LIMIT"] == env["JUPYTER_GPU_SHARE_CAP_BYTES"] == str(19 * GIB)


def test_without_known_bytes_only_what_goes_by_fractions_is_told() -> None:
    caps = framework_caps(0, Fraction(1, 4), {})
    assert caps["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.250000"
    assert not {"CUPY_GPU_MEMORY_LIMIT", "JUPYTER_GPU_SHARE_CAP_BYTES"} & caps.keys()


def test_a_third_is_never_rounded_up() -> None:
    env, _ = make(REAL, memory=80 * GIB // 3, fraction=Fraction(1, 3))
    assert env["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.320833"


@pytest.mark.parametrize(
    ("asked", "xla", "cupy"), [("0.1", "0.100000", "1000"), ("0.9", "0.237500", str(19 * GIB))]
)
def test_users_may_ask_for_less_but_not_for_more(asked: str, xla: str, cupy: str) -> None:
    limit = "1000" if asked == "0.1" else str(70 * GIB)
    base = {"XLA_PYTHON_CLIENT_MEM_FRACTION": asked, "CUPY_GPU_MEMORY_LIMIT": limit}
    env, _ = make(REAL, base=base)
    assert (env["XLA_PYTHON_CLIENT_MEM_FRACTION"], env["CUPY_GPU_MEMORY_LIMIT"]) == (xla, cupy)


@pytest.mark.parametrize("name", ["XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"])
def test_jax_is_told_under_the_name_that_the_user_has_used(name: str) -> None:
    """It does not start where both of its variables are set."""
    env, _ = make(REAL, base={name: "0.9"})
    told = {key: value for key, value in env.items() if key.endswith("CLIENT_MEM_FRACTION")}
    assert told == {name: "0.237500"}


def test_no_share_is_so_small_that_jax_takes_it_for_no_limit() -> None:
    env, _ = make(REAL, memory=2**14)
    assert float(env["XLA_PYTHON_CLIENT_MEM_FRACTION"]) > 0


@pytest.mark.parametrize("gib", [1, 4, 20, 79])
def test_what_frameworks_may_take_and_a_context_are_a_share(gib: int) -> None:
    env, _ = make(REAL, memory=gib * GIB)
    left = gib * GIB - int(env["JUPYTER_GPU_SHARE_CAP_BYTES"])
    assert min(gib * GIB // 2, GIB) <= left <= GIB


def test_of_unequal_gpus_a_part_is_that_of_the_largest() -> None:
    small = Gpu("GPU-1", "L4", 1, 24 * GIB)
    env, _ = make(small, REAL, memory=12 * GIB, fraction=Fraction(1, 2))
    part = float(env["XLA_PYTHON_CLIENT_MEM_FRACTION"])
    assert part * REAL.memory_bytes <= 12 * GIB


def test_a_whole_gpu_has_no_caps_and_is_not_called_hardware() -> None:
    env, isolation = make(REAL, memory=80 * GIB)
    assert "CUPY_GPU_MEMORY_LIMIT" not in env
    assert isolation is Isolation.NONE
    assert make(REAL, memory=80 * GIB, mps=MPS)[1] is Isolation.MPS


def test_other_languages_are_only_accounted_for() -> None:
    assert make(REAL, language="R")[1] is Isolation.NONE


def test_mig_is_hardware() -> None:
    env, isolation = make(INSTANCE, memory=10 * GIB)
    assert isolation is Isolation.HARDWARE
    assert env["CUDA_VISIBLE_DEVICES"] == "MIG-0"


def test_mps_limits_each_device_as_the_kernel_counts_them() -> None:
    other = Gpu("GPU-7", "A100", 7, 80 * GIB)
    env, isolation = make(REAL, other, mps=MPS)
    assert isolation is Isolation.MPS
    assert env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=20480M,1=20480M"
    assert env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
    assert env["CUDA_MPS_PIPE_DIRECTORY"] == "/run/mps"
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-0,GPU-7"


def test_gpus_are_named_by_number_where_cuda_counts_as_nvml_does() -> None:
    """vLLM and others read the variable as numbers, and know nothing else."""
    third = Gpu("GPU-7", "A100", 2, 80 * GIB)
    env, _ = make(REAL, third, numbered=True)
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("0,2", "PCI_BUS_ID")
    assert env["JUPYTER_GPU_SHARE_UUID"] == "GPU-0,GPU-7"
    assert make(REAL, numbered=True, mps=MPS)[0]["CUDA_VISIBLE_DEVICES"] == "GPU-0"


def test_without_a_share_no_gpu_is_visible() -> None:
    env, isolation = make(memory=0)
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert isolation is Isolation.NONE
    assert "JUPYTER_GPU_SHARE_UUID" not in env


def test_simulated_gpus_are_never_taken_for_real_ones() -> None:
    simulated = parse_simulation("1xA100-80GB")[0]
    env, isolation = make(simulated, mps=MPS)
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert env["JUPYTER_GPU_SHARE_UUID"].startswith("SIM-")
    assert isolation is Isolation.FRAMEWORK
    assert not [name for name in env if "MPS" in name]
    assert make(parse_simulation("A-40GB/mig-1g.5gb")[0], memory=5 * GIB)[1] is Isolation.FRAMEWORK


def test_the_users_python_path_is_kept() -> None:
    env, _ = make(REAL, base={"PYTHONPATH": "/mine"})
    assert env["PYTHONPATH"] == "/kernel-side:/mine"


def test_whether_mps_answers(tmp_path: Path) -> None:
    here = {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}
    assert not mps_status(here).running
    control = tmp_path / "control"
    # A stand-in for NVIDIA's daemon, which cannot be had without a GPU: it only listens.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
        daemon.bind(str(control))
        daemon.listen()
        assert mps_status(here).running
    dead = mps_status(here)
    assert not dead.running
    assert "does not answer" in dead.note
