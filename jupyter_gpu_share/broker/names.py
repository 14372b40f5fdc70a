"""Names of kernels in the broker's ledger: their user, and the id that the user knows.

So nobody can name, and nobody can guess at, a kernel of somebody else.
"""

from __future__ import annotations

from ..engines.local._contents import Claim

__all__ = ["kernel_of", "key_of", "uid_of", "uid_of_claim"]


def key_of(uid: int, kernel_id: str) -> str:
    """The name of a user's kernel in the ledger."""
    return f"{uid}/{kernel_id}"


def uid_of(key: str) -> int:
    """Whose kernel has this name."""
    return int(key.partition("/")[0])


def uid_of_claim(claim: Claim) -> int:
    """Whose it is."""
    return uid_of(claim.kernel_id)


def kernel_of(claim: Claim) -> str:
    """The kernel's id as its user knows it."""
    return claim.kernel_id.partition("/")[2]
