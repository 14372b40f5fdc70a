"""Takes over the kernels of an earlier process of this server, with their variables."""

from __future__ import annotations

import asyncio
import logging
import os
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import GpuShareError

if TYPE_CHECKING:
    from ..engines.base import Adoptable
    from ..runtime import Runtime

__all__ = ["adopt_kernels"]

_log = logging.getLogger(__name__)

#: Seconds before each look; together longer than a server is given to renew its sign of life. The
#: last is repeated while the engine knows of more.
_PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0)


async def adopt_kernels(serverapp: Any, runtime: Runtime) -> None:
    """Have the server know its earlier kernels under their old ids, and their notebooks.

    A page that is still open finds its kernel again by itself; opening the notebook connects to
    it. First those whose variables are saved, then those that run in pods: whether their earlier
    server is gone may show only after a while, so this looks repeatedly. A kernel that cannot be
    taken over goes on until its pod misses the server.
    """
    try:
        saved = await runtime.inherit(str(Path(serverapp.root_dir)))
    except (OSError, GpuShareError) as error:
        _log.warning("Whether variables are saved from before is not known: %s", error)
    else:
        await _adopt_all(serverapp, runtime, saved)
    if runtime.engine_name == "local":
        return  # its kernels end with their server
    for number in count():
        if number >= len(_PAUSES) and not runtime.more_to_adopt:
            return
        await asyncio.sleep(_PAUSES[min(number, len(_PAUSES) - 1)])
        try:
            found = await runtime.adoptable()
        except GpuShareError as error:
            _log.warning("Whether kernels still run from before is not known: %s", error)
            continue
        await _adopt_all(serverapp, runtime, found)


async def _adopt_all(serverapp: Any, runtime: Runtime, found: list[Adoptable]) -> None:
    for kernel in found:
        try:
            await _adopt(serverapp, runtime, kernel)
        except Exception as error:
            runtime.adopted.pop(kernel.kernel_id, None)
            # What failed may have come after the kernel was there.
            there = kernel.kernel_id in serverapp.kernel_manager
            text = "is here, without its notebook" if there else "could not be taken over"
            _log.warning("Kernel %s %s: %s", kernel.kernel_id, text, error)
            if kernel.saved and not there:
                runtime.not_taken(kernel.kernel_id, str(error))
        else:
            where = kernel.path or "no notebook"
            _log.info("Took over kernel %s of %s", kernel.kernel_id, where)


async def _adopt(serverapp: Any, runtime: Runtime, kernel: Adoptable) -> None:
    manager = serverapp.kernel_manager
    if kernel.kernel_id in manager:
        return
    runtime.adopted[kernel.kernel_id] = kernel
    folder = PurePosixPath(kernel.path).parent.as_posix() if kernel.path else None
    env = {"JPY_SESSION_NAME": kernel.path} if kernel.path else {}
    await manager.start_kernel(
        kernel_id=kernel.kernel_id,
        kernel_name=kernel.kernel_name,
        path=folder if folder not in (None, ".") else None,
        env={**os.environ, **env},
    )
    if kernel.path:
        await serverapp.session_manager.create_session(
            path=kernel.path,
            name=PurePosixPath(kernel.path).name,
            type="notebook",
            kernel_name=kernel.kernel_name,
            kernel_id=kernel.kernel_id,
        )
