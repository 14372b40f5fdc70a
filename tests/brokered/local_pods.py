"""Pods of a fake broker: real agents with real kernels, each on a loopback address of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from fake_cluster_broker import FakeClusterBroker, Kernel

from jupyter_gpu_share.engines.kubernetes._objects import Keys
from jupyter_gpu_share.engines.kubernetes._pods import Labels, secret_body
from jupyter_gpu_share.kernel_side import PATH

_numbers = count(2)


@dataclass
class _Pod:
    process: subprocess.Popen[bytes]
    address: str


class LocalPods:
    """Runs an agent for each kernel that the broker has, and ends it with the kernel."""

    def __init__(self, broker: FakeClusterBroker, folder: Path) -> None:
        self._broker = broker
        self._folder = folder
        self._pods: dict[str, _Pod] = {}
        self._watching = asyncio.create_task(self._watch())

    def running(self) -> int:
        """How many agents run."""
        return sum(pod.process.poll() is None for pod in self._pods.values())

    async def _watch(self) -> None:
        while True:
            there = {_name(kernel): kernel for kernel in self._broker.kernels.values()}
            for name in self._pods.keys() - there.keys():
                self._end(self._pods.pop(name))
            for name, kernel in there.items():
                if name not in self._pods and kernel.state == "starting":
                    pod = self._pods[name] = self._boot(name, kernel)
                    kernel.fields["address"] = pod.address
                    self._broker.set(kernel.kernel_id, state="ready")
            await asyncio.sleep(0.02)

    def _boot(self, name: str, kernel: Kernel) -> _Pod:
        told = kernel.keys
        keys = Keys(
            told["key"].encode(),
            told["signature_scheme"],
            told["curve_publickey"],
            told["curve_secretkey"],
        )
        number = next(_numbers)
        address = f"127.0.{os.getpid() % 200 + 1}.{number}"
        secret = secret_body(
            name,
            Labels("server", kernel.kernel_id, kernel.attempt),
            keys.connection(address),
            watchdog=60.0,
            grace=0.0,
            owned_by=None,
        )
        folder = self._folder / name
        mounted = folder / "secret"
        mounted.mkdir(parents=True)
        for file, text in secret["stringData"].items():
            (mounted / file).write_text(json.dumps({**json.loads(text), "ip": address}))
        env = {**os.environ, "PYTHONPATH": str(PATH), "TMPDIR": str(folder), "HOME": str(folder)}
        env |= {"IPYTHONDIR": str(folder), "SECRET_FOLDER": str(mounted)}
        for hidden in ("JUPYTER_GPU_SHARE_BROKER", "JUPYTERHUB_API_TOKEN"):
            env.pop(hidden, None)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "gpu_share_kernel.agent", str(mounted)],
                env=env,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return _Pod(process, address)

    def _end(self, pod: _Pod) -> None:
        """As a node does: SIGTERM to the agent, and the end for what is left."""
        mine = {pod.process.pid, *_below(pod.process.pid)}
        for pid in mine:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pod.process.wait(10)

    async def close(self) -> None:
        self._watching.cancel()
        await asyncio.wait({self._watching})
        for pod in self._pods.values():
            self._end(pod)


def _name(kernel: Kernel) -> str:
    return f"{kernel.kernel_id}-{kernel.pod}"


def _below(pid: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found |= {int(child), *_below(int(child))}
    return found
