"""Other projects' own suites, with our provisioner and kernels on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from running import HERE, LIMIT, deselected, environment, run, sources

pytestmark = [pytest.mark.slow, pytest.mark.suite]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Eight simulated GPUs."""
    return environment(
        tmp_path, JUPYTER_GPU_SHARE_SIMULATE="8xA100-80GB", JUPYTER_GPU_SHARE_SIZE="1/8"
    )


@pytest.mark.timeout(LIMIT + 60)
def test_jupyter_client(env: dict[str, str]) -> None:
    left_out = [f"--deselect={name}" for name in deselected("jupyter_client")]
    where = sources("jupyter_client")
    passed, launches, end = run(env, where, "-p", "no:asyncio", *left_out, "tests")
    assert f"{len(left_out)} deselected" in end, "a name in the list of deselected tests is stale"
    assert passed > 200
    assert launches > 50


@pytest.mark.timeout(LIMIT + 60)
def test_nbclient(env: dict[str, str]) -> None:
    left_out = [f"--deselect={name}" for name in deselected("nbclient")]
    scope = "asyncio_default_fixture_loop_scope=function"
    passed, launches, _ = run(env, sources("nbclient"), "-o", scope, *left_out, "tests")
    assert passed > 80
    assert launches > 50


def test_jupyter_kernel_test(env: dict[str, str], tmp_path: Path) -> None:
    shutil.copy(HERE / "ipykernel_cases.py", tmp_path / "test_ipykernel.py")
    _, launches, _ = run(env, tmp_path, "-p", "no:asyncio", "test_ipykernel.py")
    assert launches >= 1
