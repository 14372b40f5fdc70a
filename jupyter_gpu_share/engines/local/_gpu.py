"""A GPU, or MIG instance, that this machine offers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """What can be shared out.

    Attributes
    ----------
    uuid: as the driver names it (``GPU-…``, ``MIG-…``), or ``SIM-…`` for a simulated one.
    model: product name, such as ``NVIDIA A100-SXM4-80GB``; a MIG instance has its GPU's.
    index: of the GPU in the driver's order, from 0.
    memory_bytes: what kernels can use, the driver's reserve taken off.
    profile: MIG profile such as ``1g.10gb``; None for a whole GPU.
    parent: uuid of the GPU that a MIG instance is part of.
    simulated: True where no hardware is behind it.
    """

    uuid: str
    model: str
    index: int
    memory_bytes: int
    profile: str | None = None
    parent: str | None = None
    simulated: bool = False

    @property
    def little_bytes(self) -> int:
        """Bytes in use that nobody is asked about: the screen of a workstation, contexts."""
        return max(2**30, self.memory_bytes // 16)
