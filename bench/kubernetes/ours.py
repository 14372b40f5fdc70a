"""This package as a contender."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from uuid import uuid4

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

from jupyter_gpu_share.runtime import Runtime

from ..kernels import OURS, isolate
from . import child


class Contender(child.Contender):
    """Options: those of :func:`configuration`."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self._config = configuration(options)
        self._direct: AsyncKernelClient | None = None

    def make_manager(self) -> AsyncKernelManager:
        """A manager whose kernel will have an eighth of a GPU."""
        return make_manager(self._config, "1/8")

    async def direct_round_trips(self, count: int) -> list[float]:
        """Round trips of a client of the pod itself, with the keys that the relay has."""
        if self._direct is None:
            assert self.manager is not None
            self._direct = child.directly(_connection_to_pod(str(self.manager.kernel_id)))
            await child.answered(self._direct)
        return await child.round_trips(self._direct, count)

    async def end(self) -> None:
        """End the kernel, and the pod with it."""
        if self._direct is not None:
            self._direct.stop_channels()
            self._direct = None
        await super().end()


def configuration(options: dict[str, Any]) -> Config:
    """What a server is told, which is as it comes otherwise; nothing of the user is touched.

    Options are ``kubeconfig``, ``namespace``, ``image``, ``lease_image`` and ``style``.
    """
    isolate()
    del os.environ["JUPYTER_GPU_SHARE_SIZE"]  # it would win over the size of each manager
    config = Config()
    config.GpuShareProvisioner.engine = "kubernetes"
    config.KubernetesEngine.update(options)
    config.KubernetesEngine.server_name = "bench"
    config.KubernetesEngine.image_pull_policy = "Never"
    return config


def make_manager(config: Config, size: str) -> AsyncKernelManager:
    """A manager whose kernel will have a share of that size."""
    own = config.copy()
    own.GpuShareProvisioner.size = size
    manager = AsyncKernelManager(kernel_name="python3", kernel_id=str(uuid4()), config=own)
    manager._kernel_spec = KernelSpec(
        argv=["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        display_name="Python 3",
        language="python",
        metadata={"kernel_provisioner": {"provisioner_name": OURS, "config": {"size": size}}},
    )
    return manager


def _connection_to_pod(kernel_id: str) -> dict[str, Any]:
    """What the relay knows of a pod, as the content of a connection file."""
    runtime = Runtime.instance()

    async def read() -> dict[str, Any]:
        engine: Any = await runtime.engine("kubernetes")
        back = engine._kernels[kernel_id].connection
        return {
            "transport": back.transport,
            "ip": back.ip,
            "key": back.key.decode(),
            "signature_scheme": back.signature_scheme,
            "curve_publickey": back.curve_publickey,
            "curve_secretkey": back.curve_secretkey,
            **{f"{channel}_port": port for channel, port in back.ports.items()},
        }

    return asyncio.run_coroutine_threadsafe(read(), runtime.loop).result(child.PATIENCE)
