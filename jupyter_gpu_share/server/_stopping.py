"""The part of an orderly stop that jupyter_client leaves undone. See ``docs/upstream.md``."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["settle_starts"]


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
