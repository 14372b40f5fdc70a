"""One user of the demonstration with several: kernels without a server, as papermill has them.

It runs as that user. Each line of its input is a request, and each line of its output an answer or
the state of a kernel.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any, TextIO

from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

from .._text import one_line
from .._threads import in_thread
from ..allocations import Allocation
from ..errors import GpuShareError
from ..runtime import Runtime

__all__ = ["DEMAND_AFTER", "WARN_BEFORE", "main"]

#: Seconds: by default minutes pass before a share goes to who waits.
DEMAND_AFTER, WARN_BEFORE = 4.0, 2.0
_KERNEL = "python3"
_PATIENCE = 60.0


class _User:
    """Does what it is asked, one after the other."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._kernels: dict[str, Any] = {}

    def tell(self, **data: Any) -> None:
        """Write a line."""
        self._output.write(f"{json.dumps(data)}\n")
        self._output.flush()

    def show(self, row: Allocation) -> None:
        """Tell how a kernel stands."""
        self.tell(row=row.to_json())

    async def answer(self, verb: str, name: str, text: str = "") -> None:
        """Answer one request."""
        try:
            told = await {"start": self._start, "run": self._run, "end": self._end}[verb](
                name, text
            )
        except (GpuShareError, RuntimeError, TimeoutError) as error:
            self.tell(failed=one_line(str(error) or type(error).__name__))
        else:
            self.tell(done=told)

    async def end(self) -> None:
        """End the kernels that are left."""
        for name in list(self._kernels):
            await self._end(name)

    async def _start(self, name: str, size: str) -> str:
        manager = AsyncKernelManager(kernel_name=_KERNEL)
        env = {**os.environ, "JUPYTER_GPU_SHARE_SIZE": size, "JPY_SESSION_NAME": f"{name}.ipynb"}
        await manager.start_kernel(env=env)
        self._kernels[name] = manager
        return ""

    async def _run(self, name: str, code: str) -> str:
        client = self._kernels[name].client()
        client.start_channels()
        told: list[str] = []
        try:
            await client.wait_for_ready(timeout=_PATIENCE)
            await client.execute_interactive(
                code,
                timeout=_PATIENCE,
                output_hook=lambda message: told.append(message["content"].get("text", "")),
            )
        finally:
            client.stop_channels()
        return "".join(told).strip()

    async def _end(self, name: str, _: str = "") -> str:
        await self._kernels.pop(name).shutdown_kernel()
        return ""


async def _serve(output: TextIO) -> None:
    config = Config()
    config.IdlePolicy.idle_after = WARN_BEFORE
    config.IdlePolicy.demand_after = DEMAND_AFTER
    config.IdlePolicy.warn_before = WARN_BEFORE
    runtime, own = Runtime.instance(config), _User(output)
    stop = runtime.table.listen(own.show)
    try:
        while line := await in_thread(sys.stdin.readline):
            await own.answer(*json.loads(line))
    finally:
        await own.end()
        stop()


def main() -> None:
    """Serve until there is nothing more to read."""
    # What anything else prints is no line of this.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        try:
            asyncio.run(_serve(output))
        finally:
            Runtime.clear_instance()


if __name__ == "__main__":
    main()
