"""What a broker tells an administrator, as the contract shows it."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from ...allocations import Allocation
from ..base import Capacity
from ._contents import Holding
from ._gpu import Gpu
from ._rows import allocation_of
from ._wire import claim_from_json, gpu_from_json, holding_from_json

__all__ = ["capacity_of", "everybody"]


def everybody(
    claims: Sequence[Mapping[str, Any]], gpus: Sequence[Mapping[str, Any]]
) -> tuple[list[Allocation], list[Capacity]]:
    """The kernels of all users, and the GPUs with what is free of each."""
    found = [gpu_from_json(row) for row in gpus]
    allocations = [allocation_of(claim_from_json(row), found, None) for row in claims]
    return allocations, [
        capacity_of(gpu, holding_from_json(row)) for gpu, row in zip(found, gpus, strict=True)
    ]


def capacity_of(gpu: Gpu, held: Holding) -> Capacity:
    """A GPU as a whole, with what is free of it."""
    return Capacity(
        uuid=gpu.uuid,
        model=gpu.model,
        node=socket.gethostname(),
        memory_bytes=gpu.memory_bytes,
        free_bytes=held.free_bytes,
        profile=gpu.profile,
        simulated=gpu.simulated,
        kernels=held.kernels,
        index=gpu.index,
    )
