"""Processes with shares, for tests of how they leave their GPUs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cuda_process import FAKE, Gpus, Process
from waiting import PATIENCE


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fake NVML."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the fake NVML library is C, and there is no C compiler (cc)")
    folder = tmp_path_factory.mktemp("nvml")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", FAKE / "nvml.c"],
        check=True,
        timeout=PATIENCE,
    )
    return folder


@pytest.fixture
def gpus(tmp_path: Path, library: Path) -> Gpus:
    return Gpus(tmp_path / "gpus", library)


@pytest.fixture
def start(gpus: Gpus) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def make(**env: str) -> Process:
        made.append(Process(gpus, **env))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def process(start: Callable[..., Process]) -> Process:
    return start()
