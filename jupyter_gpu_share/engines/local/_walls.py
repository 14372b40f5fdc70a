"""Isolation ``driver``: a kernel's GPU memory is limited by the driver, through root's service."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..._threads import in_thread
from ...allocations import Isolation, Share
from ...errors import CommandNotFoundError, EngineError, KernelStartError
from ...limiter import client
from .._processes import carriers
from ..base import Exit, Finding
from ._enforcement import MpsStatus

__all__ = ["Wall", "about_limiter"]

#: Programs that have somebody else start what they are told to.
_DAEMONS = frozenset({"ctr", "docker", "nerdctl", "podman", "systemd-run"})


class Wall:
    """The limit of one kernel; of a kernel without one its methods do nothing.

    Parameters
    ----------
    limiter: path of the service's socket.
    token: of the kernel's claim, which the control group is named after.
    share: what the kernel holds.
    """

    def __init__(self, limiter: str, token: str, share: Share) -> None:
        self._limiter = limiter if share.isolation is Isolation.DRIVER else ""
        self._token = token

    async def build(self, share: Share, mps: MpsStatus) -> None:
        """Have the limit kept, before the kernel's process is there.

        Raises
        ------
        EngineError: it cannot be. The kernel must not start.
        """
        if self._limiter and mps.running:
            raise EngineError(
                "GPU memory cannot be limited by the driver while MPS runs, which has it in a "
                "process of its own: end its daemon (echo quit | nvidia-cuda-mps-control), or set "
                'c.LocalEngine.mps = "off".'
            )
        await self._ask(partial(client.make, limits=_limits(share)))

    def command(self, argv: Sequence[str], env: Mapping[str, str]) -> Sequence[str]:
        """A kernel's command, as it is run under the limit.

        Raises
        ------
        CommandNotFoundError: there is no such program.
        KernelStartError: what it starts would not be under the limit.
        """
        if not self._limiter or not argv:
            return argv
        if Path(argv[0]).name in _DAEMONS:
            raise KernelStartError(
                f"{Path(argv[0]).name} starts the kernel through a service of its own, where the "
                "driver's memory limit does not reach it. Start it without, or unset "
                "c.LocalEngine.limiter."
            )
        if shutil.which(argv[0], path=env.get("PATH")) is None:
            raise CommandNotFoundError(
                f"The kernel's command {argv[0]!r} cannot be run: there is no such program. Check "
                "argv of its kernelspec."
            )
        return client.command(self._limiter, self._token, argv)

    def explain(self, end: Exit) -> Exit:
        """The end of a process, where that was for want of the limit."""
        if not self._limiter or end.code != client.NOT_JOINED:
            return end
        return Exit(
            end.code,
            "The kernel was not started, since the driver's memory limit could not be set for it. "
            "The server's log says why.",
        )

    async def move(self, share: Share) -> None:
        """Have the limit of another size kept.

        Raises
        ------
        EngineError: it cannot be.
        """
        await self._ask(partial(client.set_limits, limits=_limits(share)))

    async def close(self, share: Share) -> None:
        """Let the kernel have nothing, while its share is somebody else's.

        Raises
        ------
        EngineError: it cannot be.
        """
        none = dict.fromkeys(_limits(share), 0)
        await self._ask(partial(client.set_limits, limits=none))

    async def tear_down(self) -> None:
        """Kill what is left behind it; once that is gone, the memory is.

        Raises
        ------
        EngineError: processes are left. Their memory is still used.
        """
        try:
            await self._ask(client.end)
        except EngineError:
            # Without the service, too, what is gone holds nothing; the service sweeps the group.
            if await in_thread(carriers, self._token):
                raise

    async def _ask(self, what: Callable[[str, str], None]) -> None:
        if self._limiter:
            await in_thread(what, self._limiter, self._token)


def about_limiter(path: str) -> Finding:
    """Whether the service answers. Blocks."""
    try:
        client.end(path, "0" * 32)  # there is none of that name
    except EngineError as error:
        return Finding("error", str(error), "systemctl status jupyter-gpu-share-limiter")
    return Finding("ok", f"NVIDIA's driver limits the memory of kernels (through {path}).")


def _limits(share: Share) -> dict[str, int]:
    return {device.uuid: share.memory_bytes for device in share.devices}
