"""Which engine a kernel runs on."""

from __future__ import annotations

from pathlib import Path

import pytest
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.runtime import Runtime


@pytest.fixture
def elsewhere(one_gpu: Path) -> None:
    """A process that is configured for an engine which does not exist."""
    config = Config()
    config.GpuShareProvisioner.engine = "elsewhere"
    Runtime.clear_instance()
    Runtime.instance(config)


async def test_a_manager_without_configuration_uses_that_of_the_process(elsewhere: None) -> None:
    # nbclient and papermill make such managers.
    manager = AsyncKernelManager(kernel_name="python3")
    with pytest.raises(EngineError, match="no engine called 'elsewhere'"):
        await manager.start_kernel()


async def test_a_program_without_configuration_goes_by_the_files(one_gpu: Path) -> None:
    file = one_gpu / "config" / "jupyter_server_config.py"
    file.write_text('c.GpuShareProvisioner.engine = "elsewhere"\n')
    with pytest.raises(EngineError, match="no engine called 'elsewhere'"):
        await AsyncKernelManager(kernel_name="python3").start_kernel()


async def test_a_program_with_configuration_of_its_own_keeps_it(one_gpu: Path) -> None:
    file = one_gpu / "config" / "jupyter_server_config.py"
    file.write_text('c.GpuShareProvisioner.engine = "elsewhere"\n')
    config = Config()
    config.GpuShareProvisioner.engine = "local"
    manager = AsyncKernelManager(kernel_name="python3", config=config)
    await manager.start_kernel()
    assert [row.engine for row in Runtime.instance().table.all()] == ["local"]
    await manager.shutdown_kernel(now=True)


async def test_a_kernelspec_may_name_another(elsewhere: None) -> None:
    manager = AsyncKernelManager(kernel_name="python3")
    spec = manager.kernel_spec
    assert spec is not None
    spec.metadata["kernel_provisioner"] = {
        "provisioner_name": "gpu-share-provisioner",
        "config": {"engine": "local", "size": "1/4"},
    }
    await manager.start_kernel()
    assert [row.engine for row in Runtime.instance().table.all()] == ["local"]
    await manager.shutdown_kernel(now=True)


def test_an_engine_without_a_name_is_the_local_one(one_gpu: Path) -> None:
    config = Config()
    config.GpuShareProvisioner.engine = ""
    Runtime.clear_instance()
    assert Runtime.instance(config).engine_name == "local"
