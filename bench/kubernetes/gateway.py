"""gateway_provisioners as a contender; runs under its own Python."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from . import child


class Contender(child.Contender):
    """Option: ``kernelspecs``, the folder with its kernelspec ``peer``."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self._folder = tempfile.TemporaryDirectory(prefix="gpu-share-bench-")

    def make_manager(self) -> AsyncKernelManager:
        """A manager of one of its kernels."""
        # By arguments: the folders that Jupyter is told by the environment, its pods are told too.
        return AsyncKernelManager(
            kernel_name="peer",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[self.options["kernelspecs"]]),
            connection_file=str(Path(self._folder.name) / f"kernel-{uuid4()}.json"),
        )

    async def client_after_restart(self) -> AsyncKernelClient:
        """Another one: the kernel has other addresses."""
        assert self.manager is not None
        assert self.client is not None
        self.client.stop_channels()
        return child.connected(self.manager.client())
