"""GPUs that are simulated on demand: what they are, and what kernels use of them.

::

    spec   = entry { "," entry }
    entry  = [ number "x" ] model "-" memory "GB" [ "/mig-" profile [ "*" number ] ]

``2xA100-80GB`` are two GPUs of 80 GiB. ``A100-40GB/mig-1g.5gb*7`` is one that is split into seven
instances. Memory is meant as on a product's label: GB there are GiB here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from time import time

from ...errors import NoGpuError
from ...size import format_bytes
from .._processes import Holder
from ._gpu import Gpu

__all__ = ["SIMULATE", "SimulatedUse", "parse_simulation", "simulated_use", "slug"]

#: Describes GPUs that are simulated, in the environment.
SIMULATE = "JUPYTER_GPU_SHARE_SIMULATE"
_GIB = 2**30
_ENTRY = re.compile(
    r"(?:(\d{1,3})x)?([A-Za-z][\w.]{0,30}(?:-[A-Za-z]\w{0,15})*)-(\d{1,4})GB"
    r"(?:/mig-((?:\d+c\.)?\d+g\.(\d+)gb)(?:\*(\d{1,2}))?)?",
    re.ASCII,
)
_MAX_GPUS = 256


@dataclass(frozen=True)
class SimulatedUse:
    """What one process uses: bytes by uuid, and whether it is working on them."""

    used: dict[str, int]
    busy: bool


def parse_simulation(text: str) -> tuple[Gpu, ...]:
    """The GPUs that ``JUPYTER_GPU_SHARE_SIMULATE`` describes.

    Raises
    ------
    NoGpuError: the text describes none; says how to write it.
    """
    gpus: list[Gpu] = []
    index = 0
    for entry in text.split(","):
        match = _ENTRY.fullmatch(entry.strip())
        number = int(match[1] or 1) if match else 0
        memory = int(match[3]) * _GIB if match else 0
        instances = int(match[6] or 1) if match and match[4] else 0
        if match is None or number < 1 or memory < 1 or index + number > _MAX_GPUS:
            raise NoGpuError(
                f"{entry.strip()[:40]!r} is no GPU to simulate; write JUPYTER_GPU_SHARE_SIMULATE "
                "like 2xA100-80GB, or A100-40GB/mig-1g.5gb*7 for MIG instances."
            )
        for _ in range(number):
            gpus += _gpus_of(match, index, memory, instances)
            index += 1
    return tuple(gpus)


def _gpus_of(match: re.Match[str], index: int, memory: int, instances: int) -> list[Gpu]:
    model = f"{match[2]}-{match[3]}GB (simulated)"
    uuid = f"SIM-{match[2]}-{match[3]}GB-{index}"
    if not instances:
        return [Gpu(uuid, model, index, memory, simulated=True)]
    each = int(match[5]) * _GIB
    if each * instances > memory:
        raise NoGpuError(
            f"{instances} instances of {format_bytes(each)} are more than the simulated GPU's "
            f"{format_bytes(memory)}."
        )
    return [
        Gpu(f"{uuid}-mig{n}", model, index, each, profile=match[4], parent=uuid, simulated=True)
        for n in range(instances)
    ]


def slug(text: str) -> str:
    """A simulation's text as part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", text.strip())[:60]


def simulated_use(folder: Path, pids: Collection[int]) -> dict[int, SimulatedUse]:
    """What living processes among ``pids`` use. Blocks on the disk; what cannot be read is none."""
    found = {}
    for pid in pids:
        try:
            row = json.loads((folder / f"{pid}.json").read_bytes())
            if row["start_time"] in ("", Holder.of(pid).start_time):
                used = {str(uuid): int(amount) for uuid, amount in row["used"].items()}
                found[pid] = SimulatedUse(used, float(row["busy_until"]) > time())
        except Exception:  # noqa: S112 - gone, or written by something else
            continue
    return found
