"""GPU memory that is used without a share: by other programs, and beyond what was granted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ._contents import Claim
from ._gpu import Gpu
from ._usage import Reading

__all__ = ["used_by_others"]


def used_by_others(
    gpus: Iterable[Gpu],
    in_use: Mapping[str, int],
    claims: Sequence[Claim],
    readings: Mapping[str, Reading],
) -> dict[str, int]:
    """Bytes by uuid of GPUs that somebody uses without a share.

    Little of it is left out, up to ``Gpu.little_bytes``. Where it is not known what a kernel uses,
    it may be all that it holds.

    Parameters
    ----------
    in_use: of each GPU, by whomever.
    readings: by kernel id, where they are known.
    """
    left = dict(in_use)
    for claim in claims:
        reading = readings.get(claim.kernel_id)
        by_gpu = reading.by_gpu if reading is not None else None
        for piece in claim.pieces:
            held = piece.memory_bytes
            own = held if by_gpu is None else min(held, by_gpu.get(piece.uuid, 0))
            left[piece.uuid] = left.get(piece.uuid, 0) - own
    return {gpu.uuid: left[gpu.uuid] for gpu in gpus if left.get(gpu.uuid, 0) > gpu.little_bytes}
