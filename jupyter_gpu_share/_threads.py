"""Blocking work beside the event loop, up to the last moment of the interpreter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(
    work: Callable[..., T], *arguments: Any, executor: Executor | None = None, **options: Any
) -> T:
    """Run blocking ``work`` in a thread of ``executor``, the loop's own if there is none.

    While the interpreter ends there are no more threads to be had. What is left to do then, ending
    kernels and giving shares back, is done in place: nothing else runs on the loop any more.
    """
    bound = partial(work, *arguments, **options)
    try:
        future = asyncio.get_running_loop().run_in_executor(executor, bound)
    except RuntimeError:
        return bound()
    return await future
