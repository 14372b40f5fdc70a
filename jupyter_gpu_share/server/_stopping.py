"""The parts of an orderly stop that Jupyter leaves undone. See ``docs/upstream.md``."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["settle_restarts", "settle_starts", "stop_on_interrupt", "stop_restarters"]

#: Seconds between two looks whether a restart is over.
_LOOK = 0.02


def stop_on_interrupt(stop: Callable[[], None]) -> None:
    """Have a server that runs without a terminal stop on SIGINT as it does on SIGTERM.

    jupyter_server does nothing about it there: its loop breaks off, and neither extensions nor
    kernels are stopped. A Hub sends SIGINT first. A second one breaks off as before. Where somebody
    has a handler of their own, or the server is not on the main thread, nothing changes.
    """
    on_main_thread = threading.current_thread() is threading.main_thread()
    if not on_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return

    def once(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    signal.signal(signal.SIGINT, once)


def stop_restarters(manager: Any) -> None:
    """Have no kernel of a manager of several started again that ends from now on.

    A Jupyter server stops looking for kernels that died only when it ends them itself. One that an
    extension has ended before would be started again beside that.
    """
    for kernel in _kernels(manager).values():
        kernel.shutting_down = True  # a look that is under way sees it
        if hasattr(kernel, "stop_restarter"):
            kernel.stop_restarter()


async def settle_restarts(manager: Any, patience: float) -> None:
    """Have no kernel of a manager of several be in the middle of a restart.

    A Jupyter server that is to shut such a kernel down ends with an error, and never stops.

    Parameters
    ----------
    patience: seconds that a restart has to end by itself.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    for kernel in _kernels(manager).values():
        ready = getattr(kernel, "ready", None)
        if ready is None:
            continue
        # It may be a future of asyncio, or of no loop.
        while not ready.done() and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)
        ready.cancel()


def _kernels(manager: Any) -> dict[str, Any]:
    ids = manager.list_kernel_ids() if hasattr(manager, "list_kernel_ids") else ()
    return {kernel_id: manager.get_kernel(kernel_id) for kernel_id in ids}


async def settle_starts(manager: Any, patience: float) -> None:
    """Have a manager of several kernels forget the starts that gave it no kernel.

    jupyter_client keeps a start that failed among the pending ones, and a Jupyter server knows no
    kernel with such an id: it then ends with an error, and leaves its other kernels running. A
    start that is still under way is the same to it.

    Parameters
    ----------
    patience: seconds that starts under way have to end by themselves, and then, cancelled, to undo
        what they did.
    """
    pending = getattr(manager, "_pending_kernels", None)
    if not pending:
        return
    starts = {key: task for key, task in pending.items() if key not in manager}
    for cancel in (False, True):
        tasks = {task for task in starts.values() if not task.done()}
        if cancel:
            for task in tasks:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=patience)
    for kernel_id, task in starts.items():
        if kernel_id not in manager and pending.get(kernel_id) is task:
            del pending[kernel_id]
