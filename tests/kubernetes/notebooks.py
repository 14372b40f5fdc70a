"""Kernels in pods as a client sees them: a kernel manager, its client, and cells."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import Allocation
from jupyter_gpu_share.runtime import Runtime

#: A pod's start takes about a second; a machine that is busy needs more.
LONG = 90.0


class Notebook:
    """One kernel on a share of a GPU, started as Jupyter does it."""

    def __init__(self, config: Config, size: str, kernel_id: str | None = None) -> None:
        self.kernel_id = kernel_id or str(uuid4())
        self.config = config.copy()
        self.config.GpuShareProvisioner.size = size
        self.manager = AsyncKernelManager(kernel_name="python3", config=self.config)
        spec = KernelSpec(
            argv=["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            metadata={
                "kernel_provisioner": {
                    "provisioner_name": "gpu-share-provisioner",
                    "config": {"size": size},
                }
            },
        )
        self.manager._kernel_spec = spec
        self.client: AsyncKernelClient | None = None

    async def start(self, **env: str) -> Notebook:
        """Start the kernel and wait until it answers, or is queued."""
        import os

        await asyncio.wait_for(
            self.manager.start_kernel(kernel_id=self.kernel_id, env={**os.environ, **env}), LONG
        )
        self.connect()
        return self

    async def placed(self) -> Notebook:
        """Start the kernel and wait until it has its share."""
        await self.start()
        await eventually(lambda: self.allocation.share is not None, "it has its share", LONG)
        return self

    def connect(self) -> AsyncKernelClient:
        """A client of the relay."""
        client: AsyncKernelClient = self.manager.client()
        # Its thread may come to make its socket when the manager has closed the context already.
        client.start_channels(hb=False)
        self.client = client
        return client

    async def run(self, code: str, patience: float = LONG, told: list[str] | None = None) -> str:
        """Run a cell; what it printed, and the name and text of its error.

        ``told`` fills while the cell runs.
        """
        assert self.client is not None
        told = [] if told is None else told

        def hook(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                told.append(content["text"])
            elif message["msg_type"] == "error":
                told.append(f"{content['ename']}: {content['evalue']}")

        await self.client.execute_interactive(code, output_hook=hook, timeout=patience)
        return "".join(told).strip()

    @property
    def allocation(self) -> Allocation:
        """As the table has it now."""
        row = Runtime.instance().table.get(self.kernel_id)
        assert row is not None
        return row

    async def state(self, *wanted: str, patience: float = LONG) -> Allocation:
        """Wait until the allocation is in one of the states."""
        await eventually(
            lambda: self.allocation.state.value in wanted,
            f"{self.allocation} is {wanted}",
            patience,
        )
        return self.allocation

    async def close(self) -> None:
        """Shut the kernel down."""
        if self.client is not None:
            self.client.stop_channels()
        if self.manager.has_kernel:
            await asyncio.wait_for(self.manager.shutdown_kernel(now=True), PATIENCE)
