"""What is left to a kernel whose server does not give back a share that is asked back. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ..allocations import Isolation
from ..engines.local._contents import Claim
from ..size import Size

__all__ = ["left_of"]

_NOTHING = Size(count=0)
_MIB = 2**20


def left_of(claim: Claim, used: Mapping[str, int] | None) -> Size | None:
    """What an idle kernel is left of its share: what it has in use; None: all, nothing is taken.

    Parameters
    ----------
    used: bytes by uuid that the kernel has in use; None where that is not known for certain.
    """
    # The driver does not list the clients of MPS beside other processes.
    if used is None or not claim.pieces or claim.info.get("isolation") == Isolation.MPS.value:
        return None
    most = max(used.get(piece.uuid, 0) for piece in claim.pieces)
    if most <= 0:
        return _NOTHING
    # Of a MIG instance nothing can be split off. Programs are told one amount for all devices.
    rest = -(-most // _MIB) * _MIB
    if claim.size.profile is not None or rest >= min(each.memory_bytes for each in claim.pieces):
        return None
    return Size(memory=rest, count=len(claim.pieces))
