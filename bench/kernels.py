"""Kernels to measure: the same kernelspec, under our provisioner and under jupyter_client's own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory

OURS, PEER = "gpu-share-provisioner", "local-provisioner"
PATIENCE = 60.0
_SIZE = "1/32"


def isolate() -> None:
    """Folders of our own and simulated GPUs: nothing of the user is touched or waited for."""
    folder = Path(tempfile.mkdtemp(prefix="gpu-share-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in ("CONFIG", "DATA", "RUNTIME"):
        os.environ[f"JUPYTER_{name}_DIR"] = str(folder / name.lower())
    os.environ["IPYTHONDIR"] = str(folder / "ipython")
    os.environ["JUPYTER_GPU_SHARE_SIMULATE"] = "2xA100-80GB"
    os.environ["JUPYTER_GPU_SHARE_SIZE"] = _SIZE


def choose(provisioner: str) -> None:
    """Make the provisioner the one of kernels that are started from now on."""
    KernelProvisionerFactory.clear_instance()
    KernelProvisionerFactory.instance().default_provisioner_name = provisioner


def make_manager(provisioner: str) -> KernelManager:
    """A manager whose kernel the provisioner will start."""
    choose(provisioner)
    return KernelManager(kernel_name="python3")


def make_async_manager(provisioner: str) -> AsyncKernelManager:
    """The same for asyncio."""
    choose(provisioner)
    return AsyncKernelManager(kernel_name="python3")


@contextmanager
def kernel(provisioner: str) -> Iterator[BlockingKernelClient]:
    """A running kernel with a client."""
    manager = make_manager(provisioner)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    begun = perf_counter()
    work()
    return perf_counter() - begun
