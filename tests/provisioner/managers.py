"""Kernels under real kernel managers of jupyter_client."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.kernels.kernel import Kernel
from jupyter_gpu_share.runtime import Runtime

GIB = 2**30


class Kernels:
    """Starts kernels and ends them with the test."""

    def __init__(self) -> None:
        self.managers: list[AsyncKernelManager] = []
        self.clients: list[AsyncKernelClient] = []

    def manager(self, **traits: Any) -> AsyncKernelManager:
        KernelProvisionerFactory.clear_instance()
        manager = AsyncKernelManager(kernel_name="python3", **traits)
        self.managers.append(manager)
        return manager

    async def start(self, size: str, **options: Any) -> AsyncKernelManager:
        traits = options.pop("traits", {})
        manager = self.manager(**traits)
        env = {**os.environ, "JUPYTER_GPU_SHARE_SIZE": size}
        await asyncio.wait_for(manager.start_kernel(env=env, **options), PATIENCE)
        return manager

    async def client(self, manager: AsyncKernelManager) -> AsyncKernelClient:
        client = manager.client()
        client.start_channels()
        self.clients.append(client)
        await asyncio.wait_for(client.wait_for_ready(timeout=PATIENCE), PATIENCE)
        return client

    async def computed(self, code: str) -> tuple[AsyncKernelManager, AsyncKernelClient]:
        """A kernel on three quarters of a GPU that has run a cell, and its client."""
        manager = await self.start("3/4")
        client = await self.client(manager)
        await run(client, code)
        return manager, client

    async def close(self) -> None:
        for client in self.clients:
            client.stop_channels()
        for manager in self.managers:
            if manager.has_kernel:
                await manager.shutdown_kernel(now=True)


async def run(client: AsyncKernelClient, code: str) -> str:
    """Run a cell; what it printed, or the name of its error."""
    printed: list[str] = []

    def note(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream":
            printed.append(content["text"])
        elif message["msg_type"] == "error":
            printed.append(content["ename"])

    await asyncio.wait_for(
        client.execute_interactive(code, output_hook=note, timeout=PATIENCE), PATIENCE
    )
    return "".join(printed).strip()


def controller(manager: AsyncKernelManager) -> Kernel:
    return Runtime.instance().kernels[manager.kernel_id]


def state(manager: AsyncKernelManager) -> State | None:
    row = Runtime.instance().table.get(manager.kernel_id)
    return row.state if row else None


async def active(manager: AsyncKernelManager) -> None:
    """A cell's output can be here a moment before the state is noted."""
    await eventually(lambda: state(manager) is State.ACTIVE, "the kernel counts as active")


async def running(client: AsyncKernelClient, folder: Path, code: str) -> asyncio.Future[str]:
    """A cell whose own code has begun: an interrupt that comes before that stops nothing of it."""
    mark = folder / "runs"
    cell = asyncio.ensure_future(run(client, f"open({str(mark)!r}, 'w').close()\n{code}"))
    await eventually(mark.exists, "the cell runs")
    return cell


async def interrupted(manager: AsyncKernelManager, cell: asyncio.Future[str]) -> str:
    """Interrupt a cell until it ends: one that comes before the cell's own code runs is lost."""
    end = time.monotonic() + PATIENCE
    while not cell.done():
        assert time.monotonic() < end, "the cell cannot be interrupted"
        await manager.interrupt_kernel()
        await asyncio.wait({cell}, timeout=0.5)
    return await cell


async def free() -> int:
    return (await Runtime.instance().capacity())[0].free_bytes


async def free_is(amount: int) -> None:
    """Wait for that much to be free: a state can be told before the share is given back."""

    async def holds() -> bool:
        return await free() == amount

    await eventually(holds, f"{amount / GIB:g} GiB are free")
