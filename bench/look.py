"""How long a cell waits that comes while the kernel is asked what a release would keep."""

from __future__ import annotations

import asyncio
import os
from statistics import median
from time import perf_counter
from typing import Any

from .kernels import OURS, isolate, make_async_manager
from .rows import Row

_CELLS = 7
_PATIENCE = 120.0
#: What takes seconds to look at, as it would have to be saved.
_STATE = "rows = [{'n': n} for n in range(1_500_000)]"


def rows() -> list[Row]:
    """From sending a cell to its answer, with and without a look at the kernel under way."""
    isolate()
    os.environ.setdefault("JUPYTER_GPU_SHARE_SIZE", "1/32")
    asked, alone, whole = asyncio.run(_measure())
    return [
        Row("a cell that comes during a look", "ms", asked, alone, 100.0, "below 100 ms"),
        Row("that look, if nobody comes", "ms", whole, None),
    ]


async def _measure() -> tuple[float, float, float]:
    from jupyter_gpu_share.errors import NotPossible
    from jupyter_gpu_share.runtime import Runtime

    runtime = Runtime.instance()
    runtime.idle_policy.set_trait("in_place", False)
    manager = make_async_manager(OURS)
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=_PATIENCE)
        await _cell(client, _STATE)
        begun = perf_counter()
        await runtime.kept_by_release(manager.kernel_id)
        whole = perf_counter() - begun
        alone, meanwhile = [], []
        for turn in range(_CELLS):
            alone.append(await _cell(client, f"{turn}"))
            looking = asyncio.ensure_future(runtime.kept_by_release(manager.kernel_id))
            await asyncio.sleep(whole / 2)  # it is in the middle of its variables by then
            assert not looking.done()
            meanwhile.append(await _cell(client, f"{turn}"))
            try:
                await looking
            except NotPossible:
                continue
            raise AssertionError("the look went on although a cell came")
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
        Runtime.clear_instance()
    return median(meanwhile), median(alone), 1000 * whole


async def _cell(client: Any, code: str) -> float:
    """Milliseconds from sending a cell to its reply."""
    begun = perf_counter()
    sent = client.execute(code)
    while True:
        reply = await asyncio.wait_for(client.get_shell_msg(), _PATIENCE)
        if reply["parent_header"].get("msg_id") == sent:
            return 1000 * (perf_counter() - begun)
