"""Kernels in style ``annotation``, as tests get at them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from notebooks import LONG, Notebook

from jupyter_gpu_share.engines.kubernetes._annotation import Annotation
from jupyter_gpu_share.runtime import Runtime

Make = Callable[..., Notebook]
Objects = Callable[[str], list[dict[str, Any]]]


async def the_engine() -> Any:
    """The engine that the notebooks run on."""
    runtime = Runtime.instance()
    return await runtime.call(runtime.engine("kubernetes"))


async def call(work: Any) -> Any:
    """Run something of the engine where it belongs, and not for ever."""
    return await Runtime.instance().call(asyncio.wait_for(work, LONG))


async def holder(one: Notebook) -> Annotation:
    """What holds the share of a kernel."""
    found = (await the_engine())._kernels[one.kernel_id].objects.holder
    assert isinstance(found, Annotation)
    return found


def pod_of(objects: Objects, one: Notebook) -> dict[str, Any]:
    """The pod of a kernel."""
    (found,) = (
        pod
        for pod in objects("pods")
        if pod["metadata"]["annotations"].get("gpu-share.jupyter.org/kernel-id") == one.kernel_id
    )
    return found
