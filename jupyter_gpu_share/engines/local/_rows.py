"""Shares and claims in the words of all engines. Pure."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from ...allocations import Allocation, Device, Isolation, QueuePosition, Share, State
from ...size import Size
from ..base import KernelRequest
from . import _doctor
from ._contents import Claim
from ._gpu import Gpu
from ._usage import Reading

__all__ = [
    "allocation_of",
    "fraction_of",
    "info_of",
    "share_of",
    "told_of",
    "with_isolation",
]


def info_of(request: KernelRequest) -> dict[str, Any]:
    """What others are told about a kernel."""
    return {"kernel_name": request.kernel_name, "path": request.path, "user": request.user}


def told_of(request: KernelRequest, share: Share) -> dict[str, Any]:
    """The same of one that has its share."""
    return {**info_of(request), "isolation": share.isolation.value}


def share_of(claim: Claim, gpus: Sequence[Gpu]) -> Share:
    """What a claim holds of these GPUs."""
    by_uuid = {gpu.uuid: gpu for gpu in gpus}
    node = socket.gethostname()
    held = [by_uuid.get(piece.uuid) for piece in claim.pieces]
    memory = min((piece.memory_bytes for piece in claim.pieces), default=0)
    whole = next((gpu.memory_bytes for gpu in held if gpu), memory)
    return Share(
        devices=tuple(
            Device(piece.uuid, gpu.model if gpu else "unknown", node)
            for piece, gpu in zip(claim.pieces, held, strict=True)
        ),
        memory_bytes=memory,
        fraction=fraction_of(claim.size, memory, whole),
        isolation=Isolation(claim.info.get("isolation", Isolation.NONE.value)),
        simulated=any(piece.uuid.startswith("SIM-") for piece in claim.pieces),
    )


def fraction_of(size: Size, memory: int, whole: int) -> Fraction:
    """Of a GPU, as it was asked for, else as it is."""
    return size.fraction or Fraction(memory, whole or 1)


def with_isolation(share: Share, isolation: Isolation) -> Share:
    """The share, held apart like that."""
    return replace(share, isolation=isolation)


def allocation_of(claim: Claim, gpus: Sequence[Gpu], reading: Reading | None) -> Allocation:
    """What is shown of a claim, whoever's it is."""
    held = bool(claim.pieces)
    running = State.ACTIVE if claim.kernel else State.STARTING
    return Allocation(
        kernel_id=claim.kernel_id,
        kernel_name=str(claim.info.get("kernel_name") or ""),
        path=claim.info.get("path"),
        user=claim.info.get("user"),
        size=str(claim.size),
        state=running if held else State.QUEUED,
        reason=claim.reason or (_doctor.unknown_holder(claim) if claim.unknown else ""),
        share=share_of(claim, gpus) if held else None,
        used_bytes=reading.used_bytes if reading else None,
        utilization=reading.utilization if reading else None,
        queue=None if held else QueuePosition(claim.position, claim.of),
        engine="local",
    )
