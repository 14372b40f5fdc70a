"""The process of one contender: ``python -m bench.kubernetes.child NAME OPTIONS``.

It reads an order from each line of its input, works until that is done, and answers with a line
of JSON. Between two orders its event loop stands still. gateway_provisioners runs it under its own
Python, so nothing but jupyter_client is imported here.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from importlib import import_module
from statistics import median
from time import perf_counter
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from ..load import watch_lag

PATIENCE = 120.0
#: Milliseconds between two attempts to connect to a pod: it shall be seen how soon it is there.
_RECONNECT = 10


class Contender:
    """Starts kernels. Orders are methods, which return what is answered.

    Parameters
    ----------
    options: from the command line; each contender says what it needs.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.manager: AsyncKernelManager | None = None
        self.client: AsyncKernelClient | None = None

    def make_manager(self) -> AsyncKernelManager:
        """A manager whose kernel is not started yet."""
        raise NotImplementedError

    async def start(self) -> float:
        """Start a kernel; seconds until it answered."""
        begun = perf_counter()
        self.manager, self.client = await self._started()
        return perf_counter() - begun

    async def round_trips(self, count: int) -> list[float]:
        """Seconds of so many requests for ``kernel_info``, one after the other."""
        assert self.client is not None
        return await round_trips(self.client, count)

    async def restart(self) -> float:
        """Restart the kernel at once; seconds until the fresh one answered."""
        assert self.manager is not None
        begun = perf_counter()
        await self.manager.restart_kernel(now=True)
        self.client = await self.client_after_restart()
        await answered(self.client)
        return perf_counter() - begun

    async def client_after_restart(self) -> AsyncKernelClient:
        """The one that was there before, if it stays connected."""
        assert self.client is not None
        return self.client

    async def end(self) -> None:
        """End the kernel."""
        manager, client = self.manager, self.client
        self.manager = self.client = None
        if client is not None:
            client.stop_channels()
        if manager is not None:
            await manager.shutdown_kernel(now=True)

    async def launch(self, count: int) -> dict[str, float]:
        """Start so many kernels at once; seconds by which the event loop was late meanwhile."""
        lags: list[float] = []
        watching = asyncio.create_task(watch_lag(lags))
        started = await asyncio.gather(*(self._started() for _ in range(count)))
        watching.cancel()
        for _, client in started:
            client.stop_channels()
        await asyncio.gather(*(manager.shutdown_kernel(now=True) for manager, _ in started))
        lags.sort()
        return {"median": median(lags), "p99": lags[int(len(lags) * 0.99)]}

    async def _started(self) -> tuple[AsyncKernelManager, AsyncKernelClient]:
        manager = self.make_manager()
        await manager.start_kernel()
        client = connected(manager.client())
        await answered(client)
        return manager, client


def connected(client: AsyncKernelClient) -> AsyncKernelClient:
    """The client, with the channels that a request for ``kernel_info`` needs."""
    client.start_channels(iopub=False, stdin=False, hb=False, control=False)
    return client


def directly(connection: dict[str, Any]) -> AsyncKernelClient:
    """A client of a pod itself, by the content of a connection file."""
    context = zmq.asyncio.Context()
    context.reconnect_ivl = _RECONNECT
    client = AsyncKernelClient(context=context)
    client.load_connection_info(connection)
    return connected(client)


async def answered(client: AsyncKernelClient) -> None:
    """Ask for ``kernel_info`` and wait for the answer."""
    sent = client.kernel_info()
    while True:
        reply = await client.get_shell_msg(timeout=PATIENCE)
        if reply["parent_header"].get("msg_id") == sent:
            return


async def round_trips(client: AsyncKernelClient, count: int) -> list[float]:
    """Seconds of so many requests, one after the other."""
    taken = []
    for _ in range(count):
        begun = perf_counter()
        await answered(client)
        taken.append(perf_counter() - begun)
    return taken


def main() -> None:
    """Work until there are no more orders."""
    # Whatever prints something else does not disturb the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, options = sys.argv[1:]
    contender = import_module(f"{__package__}.{name}").Contender(json.loads(options))
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    for line in sys.stdin:
        order, *arguments = json.loads(line)
        answer = loop.run_until_complete(getattr(contender, order)(*arguments))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
