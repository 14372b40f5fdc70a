"""How soon a cell prints that is run after its kernel's share has gone back.

In style ``lease`` the process is there, and nothing but simulated memory has to come back. In style
``pod`` the variables are saved, the pod ends, and a new one gets them: beside a cold start in the
same namespace, and beside copying as many bytes on this machine's disk.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from jupyter_gpu_share.runtime import Runtime

from ..rows import Row, plus
from . import child, ours, testbed
from .pods import options
from .room import answered
from .worker import worker

ROUNDS = 7
_MIB = 2**20
_DATA = 64 * _MIB
_SAVE = f"import os; data = os.urandom({_DATA})"


def rows() -> list[Row]:
    """Both styles of holding a share; nothing where no cluster can run."""
    cluster = testbed.cluster()
    if cluster is None:
        return []
    medians: dict[str, dict[str, float]] = {}
    for style in ("lease", "pod"):
        with testbed.namespace(cluster) as namespace:
            given = options(cluster, namespace, style=style)
            with worker(child.__name__, "wake", given) as process:
                rounds = [process("round") for _ in range(ROUNDS)]
        keys = rounds[0]
        medians[style] = {
            key: statistics.median(each[key] for each in rounds) * 1000 for key in keys
        }
    lease, pod = medians["lease"], medians["pod"]
    what = f"a cell after a release to what it prints, style %s, median of {ROUNDS}"
    saved = pod["cold"] + pod["copy"]
    return [
        Row(what % "lease", "ms", lease["wake"], None, *plus(400, 0, "ms")),
        Row(
            f"{what % 'pod'}, {_DATA // _MIB} MiB saved; peer: cold start and a copy of the file",
            "ms",
            pod["wake"],
            saved,
            *plus(500, saved, "ms"),
        ),
    ]


class Contender:
    """The process of the server. Options: as of :func:`.ours.configuration`."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._style = given["style"]
        self._config = ours.configuration(given)

    async def round(self) -> dict[str, float]:
        """Seconds: ``cold``, a start to the first output; ``wake``; ``copy``, of the saved file."""
        begun = perf_counter()
        manager = ours.make_manager(self._config, "1/2")
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        try:
            await answered(client, client.execute("print(1)"))
            cold = perf_counter() - begun
            if self._style == "pod":
                await answered(client, client.execute(_SAVE))
            runtime = Runtime.instance()
            await runtime.release(manager.kernel_id, lose_variables=False)
            copy = await asyncio.to_thread(_copied, runtime.kept_folder)
            begun = perf_counter()
            await answered(client, client.execute("print(1)"))
            return {"cold": cold, "wake": perf_counter() - begun, "copy": copy}
        finally:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)

    async def close(self) -> None:
        """End what runs."""
        await asyncio.to_thread(Runtime.clear_instance)


def _copied(folder: Path) -> float:
    """Seconds that a copy of the saved variables takes, to the disk."""
    files = list(folder.glob("*.kept"))
    if not files:
        return 0.0
    with tempfile.TemporaryDirectory(dir=folder) as target:
        begun = perf_counter()
        copy = Path(shutil.copy(files[0], target))
        with copy.open("rb") as file:
            os.fsync(file.fileno())
        return perf_counter() - begun
