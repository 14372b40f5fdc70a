"""A real ipykernel of 2024, which cannot encrypt its connections."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from traitlets.config import Config
from waiting import PATIENCE

from jupyter_gpu_share.errors import KernelStartError
from jupyter_gpu_share.runtime import Runtime

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def old_ipykernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ipykernel 6.29.5 alone; what it needs is taken from the tests' environment."""
    folder = tmp_path_factory.mktemp("old")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*command, str(folder), "ipykernel==6.29.5"], check=True, timeout=300)
    return folder


@pytest.fixture
def managers(one_gpu: Path) -> Iterator[list[KernelManager]]:
    made: list[KernelManager] = []
    yield made
    for manager in made:
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)


def start(managers: list[KernelManager], old: Path, **engine: Any) -> KernelManager:
    Runtime.clear_instance()
    KernelProvisionerFactory.clear_instance()
    config = Config({"GpuShareProvisioner": {"start_timeout": 6.0}, "LocalEngine": engine})
    manager = KernelManager(kernel_name="python3", config=config)
    managers.append(manager)
    env = {**os.environ, "PYTHONPATH": str(old), "JUPYTER_GPU_SHARE_SIZE": "1/4"}
    manager.start_kernel(env=env)
    return manager


def test_it_works_where_nothing_needs_to_be_encrypted(
    managers: list[KernelManager], old_ipykernel: Path
) -> None:
    manager = start(managers, old_ipykernel)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE)
    said: list[str] = []
    client.execute_interactive(
        "import ipykernel; print(ipykernel.__version__)",
        output_hook=lambda m: said.append(m["content"].get("text", "")),
        timeout=PATIENCE,
    )
    client.stop_channels()
    assert "6.29.5" in "".join(said)


def test_over_tcp_the_start_says_what_is_wrong(
    managers: list[KernelManager], old_ipykernel: Path
) -> None:
    with pytest.raises(KernelStartError, match=r"ipykernel older than 7\.3 cannot answer"):
        start(managers, old_ipykernel, transport="tcp")
    assert Runtime.instance().kernels == {}
