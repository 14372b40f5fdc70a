"""Which leases make up a size. Pure.

An allocated claim cannot be changed. So a kernel holds one lease or several on its GPU, which add
up to its share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

__all__ = ["LeaseChange", "exactly", "least_change"]

#: So many leases may make up a share; each is a pod.
_MOST = 4


@dataclass(frozen=True)
class LeaseChange:
    """From some leases to others.

    Attributes
    ----------
    keep: names of those that stay.
    add: bytes of one more; 0: none.
    """

    keep: frozenset[str]
    add: int = 0


def least_change(
    held: Mapping[str, int], wanted: int, free: int | None, gives: Callable[[int], bool]
) -> LeaseChange | None:
    """How to hold an amount with at no moment less than the smaller of before and after.

    The way that takes least of what is free; of several the one that keeps most leases. None where
    all have to go first.

    Parameters
    ----------
    held: bytes of each lease.
    free: bytes that nobody holds; None: that is not known.
    gives: whether the GPU gives out exactly so many bytes.
    """
    found: list[tuple[int, int, LeaseChange]] = []
    for number in range(len(held) + 1):
        for names in combinations(sorted(held), number):
            rest = wanted - sum(held[name] for name in names)
            fits = rest > 0 and number < _MOST and gives(rest) and (free is None or rest <= free)
            if rest == 0 or fits:
                found.append((rest, -number, LeaseChange(frozenset(names), rest)))
    return min(found, key=lambda each: each[:2])[2] if found else None


def exactly(held: Mapping[str, int], wanted: int) -> frozenset[str] | None:
    """Leases that add up to an amount; None where none do."""
    change = least_change(held, wanted, 0, lambda _: False)
    return change.keep if change is not None else None
