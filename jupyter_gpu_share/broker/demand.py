"""How much of the machine a size may come to, for limits that hold whichever GPU it gets. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

from ..size import Size

__all__ = ["Device", "demand", "whole"]


class Device(Protocol):
    """A GPU or an instance of MIG, of this machine or of a cluster."""

    @property
    def memory_bytes(self) -> int: ...

    @property
    def profile(self) -> str | None: ...


#: Parts of the compute of a GPU that NVIDIA's MIG has.
_MIG_PARTS = 7
#: How many of them an instance has: the 2 of ``2g.20gb``, and of ``1c.2g.20gb``, a part of it.
_GPU_PARTS = re.compile(r"(?:\d+c\.)?(\d+)g\.")


def demand(size: Size, gpus: Sequence[Device]) -> tuple[Fraction, int]:
    """The most GPUs and bytes, all devices together, that a size comes to on any of the GPUs.

    A part of a GPU in bytes counts by the smallest GPU that has the room; a MIG instance by its
    part of the compute. Where no GPU is known that has the room, each device counts as a whole one.
    """
    if size.is_none:
        return Fraction(0), 0
    fitting = [gpu for gpu in gpus if _may_hold(size, gpu)]
    each = max((_part(size, gpu) for gpu in fitting), default=Fraction(1))
    memory = max((size.bytes_of(gpu.memory_bytes) for gpu in fitting), default=size.memory or 0)
    return each * size.count, memory * size.count


def _may_hold(size: Size, gpu: Device) -> bool:
    if size.profile is not None:
        return gpu.profile == size.profile
    if size.memory is not None:
        return gpu.memory_bytes >= size.memory
    return gpu.profile is None


def whole(gpu: Device) -> Fraction:
    """A device in GPUs: an instance of MIG by its part of the compute."""
    parts = _GPU_PARTS.match(gpu.profile or "")
    return min(Fraction(1), Fraction(int(parts[1]), _MIG_PARTS)) if parts else Fraction(1)


def _part(size: Size, gpu: Device) -> Fraction:
    if gpu.profile is not None:
        return whole(gpu)
    return size.fraction or Fraction(size.bytes_of(gpu.memory_bytes), gpu.memory_bytes)
