"""How the process of a kernel comes to be on this machine: its environment, transport and start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from shutil import rmtree

from ..._threads import in_thread, to_the_end
from ...allocations import Isolation, Share
from ...errors import EngineError, NoGpuError
from ...kernel_side import PATH as KERNEL_SIDE
from ...sentences import say
from .._processes import Holder
from ..base import KernelRequest
from . import _doctor
from ._contexts import context_files
from ._enforcement import MpsStatus, mps_status, without_share
from ._enforcement import environment as environment_of
from ._folders import kernel_folder
from ._inventory import Inventory
from ._machine import Machine
from ._process import KernelProcess, choose_transport, make_connection
from ._settings import LocalSettings
from ._walls import Wall

__all__ = ["Launcher"]


class Launcher:
    """Starts kernels of one engine. All methods are for one event loop.

    Parameters
    ----------
    settings: read at each use.
    holder: this process, which owns the kernels' folders.
    machine: what is seen of the GPUs.
    simulated_dir: of what kernels note down of simulated memory; asked before each use.
    common: whether several users share the GPUs.
    """

    def __init__(
        self,
        settings: LocalSettings,
        holder: Holder,
        machine: Machine,
        simulated_dir: Callable[[], Path],
        common: Callable[[], Awaitable[bool]],
    ) -> None:
        self._settings = settings
        self._holder = holder
        self._machine = machine
        self._simulated_dir = simulated_dir
        self._common = common

    async def mps(self, share: Share) -> MpsStatus:
        """Whether MPS runs now: without its daemon CUDA runs on without its limits.

        Raises
        ------
        EngineError: it does, and several users share the GPUs.
        """
        if share.simulated or not share.devices:
            return MpsStatus.absent()
        found = await in_thread(mps_status)
        if self._settings.mps == "off":
            return MpsStatus.absent(avoided=found.running)
        if found.running and await self._common():
            raise EngineError(_doctor.MPS_OF_SEVERAL)
        return found

    async def environment(
        self, request: KernelRequest, share: Share, token: str, mps: MpsStatus
    ) -> tuple[dict[str, str], Isolation]:
        """What is added to a kernel's environment for its share, and the isolation of that.

        Raises
        ------
        NoGpuError: a GPU of the share is gone.
        """
        found = self._machine.known or Inventory(())
        gpus = {gpu.uuid: gpu for gpu in found.gpus}
        if not share.devices:
            own = []
        elif lacking := [device for device in share.devices if device.uuid not in gpus]:
            raise NoGpuError(say("gpu-gone", gpu=lacking[0].uuid))
        else:
            own = [gpus[device.uuid] for device in share.devices]
        files = await in_thread(context_files, own, found.driver)
        return environment_of(
            memory_bytes=share.memory_bytes,
            fraction=share.fraction,
            gpus=own,
            language=request.language,
            mps=mps,
            numbered=found.numbered,
            contexts=found.contexts,
            context_files=files,
            limited=bool(self._settings.limiter),
            kernel_side=KERNEL_SIDE,
            token=token,
            simulated_dir=self._simulated_dir(),
            base=request.env,
        )

    async def spawn(
        self, request: KernelRequest, additions: Mapping[str, str], wall: Wall
    ) -> KernelProcess:
        """Start a kernel's process, behind its wall.

        Raises
        ------
        KernelStartError: it cannot be started. Nothing of it is left.
        """
        env = {**without_share(request.env), **additions}
        argv = await in_thread(wall.command, request.argv, env)
        folder = await in_thread(kernel_folder, self._holder)
        transport = self._settings.transport
        if transport == "auto":
            transport = choose_transport(request.argv, folder)
        try:
            connection = await in_thread(
                partial(
                    make_connection,
                    folder,
                    transport,
                    key=request.key,
                    signature_scheme=request.signature_scheme,
                    encrypt=request.can_encrypt,
                )
            )
        except BaseException:
            await to_the_end(in_thread(partial(rmtree, folder, ignore_errors=True)))
            raise
        return await KernelProcess.start(
            argv,
            env,
            request.options,
            connection=connection,
            folder=folder,
        )
