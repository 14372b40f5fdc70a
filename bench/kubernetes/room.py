"""How soon a kernel that waits for a GPU has it once there is room."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from jupyter_gpu_share.engines.kubernetes._names import KERNEL, PART, label, selector
from jupyter_gpu_share.engines.kubernetes.api import CLAIMS, PODS, Change, KubeApi, Watch
from jupyter_gpu_share.runtime import Runtime

from ..rows import Row
from . import child, ours, testbed
from .pods import options
from .worker import worker

ROUNDS = 5
#: GiB of the five kernels; no 40 GiB are left on either of two GPUs of 80.
_FIVE, _SIXTH = (20, 20, 20, 40, 40), 40
_PATIENCE = 60.0
#: The part of a kernel's objects that holds its share.
_HOLDERS = {"pod": ("kernel", "claim"), "lease": ("lease", "lease")}


def rows() -> list[Row]:
    """Both styles of holding a share; nothing where no cluster can run."""
    cluster = testbed.cluster()
    if cluster is None:
        return []
    found = []
    for style in _HOLDERS:
        with testbed.namespace(cluster) as namespace:
            given = options(cluster, namespace, style=style)
            with worker(child.__name__, "room", given) as process:
                process("fill")
                rounds = [process("free_room") for _ in range(ROUNDS)]
        name = f"a sixth kernel waits in style {style}, longest of {ROUNDS}"
        longest = {
            key: max(each[end] - each[begin] for each in rounds)
            for key, begin, end in (
                ("freed claim gone to share allocated and bound", "room", "bound"),
                ("shutdown of another called to the same", "called", "bound"),
                ("shutdown of another called to its cell answered", "called", "answered"),
            )
        }
        for key, seconds in longest.items():
            limited = key.startswith("freed")
            limit, goal = (1.0, "at most 1 s") if limited else (None, "")
            found.append(Row(f"{name}: {key}", "s", seconds, None, limit, goal))
    return found


class Contender:
    """The process of the server. Options: as of :func:`.ours.configuration`."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._style = given["style"]
        self._config = ours.configuration(given)
        self._config.GpuShareProvisioner.queue_patience = 0.1
        self._api = KubeApi(given["kubeconfig"])
        self._namespace = given["namespace"]
        self._running: list[AsyncKernelManager] = []

    async def fill(self) -> None:
        """Start five kernels, and wait until they run."""
        for size in _FIVE:
            self._running.append(await self._start(size))
        for manager in self._running:
            await _until(lambda manager=manager: _state(manager) == "active", "five run")

    async def free_room(self) -> dict[str, float]:
        """Let a sixth wait, end one of the smallest, and end the sixth when it has answered.

        Returns the moments of: ``called``, the shutdown; ``room``, the freed claim being gone or
        without an allocation; ``bound``, the sixth's claim allocated and the pod that holds it
        bound; ``answered``, the cell that waited for it.
        """
        sixth = await self._start(_SIXTH)
        await _until(lambda: _state(sixth) == "queued", "the sixth waits")
        client = sixth.client()
        client.start_channels()
        cell = asyncio.ensure_future(answered(client, client.execute("1")))
        leaving = self._on_the_emptier()
        moments: dict[str, float] = {}
        seen: dict[str, bool] = {}

        def changed(change: Change) -> None:
            obj = change.new or change.old or {}
            holder, claim = _HOLDERS[self._style]
            status = (change.new or {}).get("status") or {}
            whose, part = label(obj, KERNEL), label(obj, PART)
            if whose == leaving.kernel_id and part == claim and "devices" in obj["spec"]:
                if not status.get("allocation"):
                    moments.setdefault("room", monotonic())
            elif whose == sixth.kernel_id and part == claim and "devices" in obj["spec"]:
                seen["allocated"] = bool(status.get("allocation"))
            elif whose == sixth.kernel_id and part == holder:
                seen["bound"] = bool(obj["spec"].get("nodeName"))
            if seen.get("allocated") and seen.get("bound"):
                moments.setdefault("bound", monotonic())

        watches = [
            Watch(self._api, resource, self._namespace, changed, selector=selector())
            for resource in (PODS, CLAIMS)
        ]
        for watch in watches:
            await watch.synced()
        assert not moments
        moments["called"] = monotonic()
        await leaving.shutdown_kernel(now=True)
        moments["answered"] = await cell
        await _until(lambda: {"room", "bound"} <= set(moments), "both are seen")
        for watch in watches:
            await watch.close()
        client.stop_channels()
        await sixth.shutdown_kernel(now=True)
        # The next one comes where the last one was as soon as that is gone.
        self._running.remove(leaving)
        again = await self._start(_FIVE[0])
        await _until(lambda: _state(again) == "active", "five run again")
        self._running.append(again)
        return moments

    async def _start(self, gib: int) -> AsyncKernelManager:
        manager = ours.make_manager(self._config, f"{gib}GiB")
        await manager.start_kernel()
        return manager

    def _on_the_emptier(self) -> AsyncKernelManager:
        """A kernel of the smallest size, after which the sixth fits where it was."""
        held: dict[str, int] = {}
        for manager in self._running:
            share = _row(manager).share
            held[share.devices[0].uuid] = held.get(share.devices[0].uuid, 0) + share.memory_bytes
        emptier = min(held, key=lambda uuid: held[uuid])
        return next(
            manager
            for manager in self._running
            if _row(manager).share.devices[0].uuid == emptier
            and _row(manager).share.memory_bytes == _FIVE[0] * 2**30
        )


async def answered(client: AsyncKernelClient, sent: str) -> float:
    """Wait for the reply to a cell that has to succeed; the moment."""
    while True:
        reply = await client.get_shell_msg(timeout=_PATIENCE)
        if reply["parent_header"].get("msg_id") == sent:
            assert reply["content"]["status"] == "ok", reply["content"]
            return monotonic()


def _row(manager: AsyncKernelManager) -> Any:
    return Runtime.instance().table.get(str(manager.kernel_id))


def _state(manager: AsyncKernelManager) -> str:
    row = _row(manager)
    return "" if row is None else str(row.state.value)


async def _until(holds: Any, what: str) -> None:
    end = monotonic() + _PATIENCE
    while not holds():
        assert monotonic() < end, f"never happened: {what}; {Runtime.instance().table.all()}"
        await asyncio.sleep(0.01)
