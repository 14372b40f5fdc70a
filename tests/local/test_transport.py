"""Real kernels of this machine: how the relay reaches them, and what they are told."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from traitlets.config import Config
from waiting import PATIENCE

from jupyter_gpu_share.errors import KernelStartError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_gpu")]


@pytest.fixture
def long_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder with the path that some clusters give to a job."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
async def managers() -> AsyncIterator[list[AsyncKernelManager]]:
    made: list[AsyncKernelManager] = []
    yield made
    for manager in made:
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)


async def start(
    managers: list[AsyncKernelManager], size: str = "1/4", transport: str = "auto", **env: str
) -> AsyncKernelManager:
    KernelProvisionerFactory.clear_instance()
    config = Config({"LocalEngine": {"transport": transport}})
    manager = AsyncKernelManager(kernel_name="python3", config=config)
    managers.append(manager)
    whole = {**os.environ, **env, "JUPYTER_GPU_SHARE_SIZE": size}
    await asyncio.wait_for(manager.start_kernel(env=whole), PATIENCE)
    return manager


async def run(manager: AsyncKernelManager, code: str) -> str:
    client = manager.client()
    client.start_channels()
    said: list[str] = []

    def note(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            said.append(message["content"]["text"])

    try:
        await client.wait_for_ready(timeout=PATIENCE)
        await client.execute_interactive(code, output_hook=note, timeout=PATIENCE)
    finally:
        client.stop_channels()
    return "".join(said).strip()


async def test_a_kernel_starts_where_the_path_of_its_folder_is_too_long(
    managers: list[AsyncKernelManager], long_folder: Path
) -> None:
    manager = await start(managers)
    assert await run(manager, "print(6 * 7)") == "42"


async def test_a_start_that_is_refused_for_its_path_leaves_no_folder(
    managers: list[AsyncKernelManager], long_folder: Path
) -> None:
    with pytest.raises(KernelStartError, match=r"c\.LocalEngine\.transport"):
        await start(managers, transport="ipc")
    made = list(long_folder.glob("gpu-share-*/*/*"))
    assert made == []


async def test_a_kernel_without_a_share_is_told_of_none(
    managers: list[AsyncKernelManager],
) -> None:
    """The server may itself run in a kernel that has one."""
    names = ("UUID", "FRACTION", "ISOLATION", "CLAIM", "SIMULATED_DIR", "SIMULATED_BYTES")
    outer = {f"JUPYTER_GPU_SHARE_{name}": "outer" for name in names}
    manager = await start(managers, size="0", **outer)
    code = (
        "import os; print(sorted(n for n in os.environ if n.startswith('JUPYTER_GPU_SHARE_')"
        " and (os.environ[n] == 'outer' or n.endswith('BYTES'))))"
    )
    assert await run(manager, code) == "['JUPYTER_GPU_SHARE_MEMORY_BYTES']"
