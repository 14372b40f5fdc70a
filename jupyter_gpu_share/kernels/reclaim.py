"""Whose idle share goes back when somebody waits. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..engines.base import Snapshot

__all__ = ["chosen", "whose_turn"]


def chosen(snapshot: Snapshot, idle: Sequence[str]) -> frozenset[str]:
    """The kernels whose shares have to go so that those who wait get in, in their order.

    For each that waits, and would get nothing as things are, the least recently used go, as many
    as it takes. Where even all of them would not serve it, none goes for it. What goes for one
    counts as free for those behind it, and none of those behind takes from it what it was to get.
    In the end those are left out that the others made needless: without any one of the kernels
    that are returned, somebody would not be served.

    For the kernels that go and those who are served the snapshot is asked a few times each, with
    a factor of ``log2(len(idle))``; for those who cannot be served, not at all.

    Parameters
    ----------
    idle: ids of kernels whose share may go for others, the least recently used first.
    """
    candidates = list(dict.fromkeys(idle))
    if not candidates or not snapshot.waiting:
        return frozenset()
    served, with_all = snapshot.served(()), snapshot.served(candidates)
    promised: set[int] = set()
    freed: list[str] = []
    for index in range(len(snapshot.waiting)):
        if index not in served and index in with_all and candidates:
            more = _fewest(snapshot, freed, candidates, promised | {index})
            if more:
                freed += more
                candidates = [kernel for kernel in candidates if kernel not in more]
                served = snapshot.served(freed)
        if index in served:
            promised.add(index)
    return frozenset(_needed(snapshot, freed, idle, promised))


def whose_turn(snapshot: Snapshot, going: Collection[str]) -> dict[str, frozenset[str]]:
    """For whom each of the kernels goes: ids of those who wait, and get nothing without it.

    Parameters
    ----------
    going: ids of all kernels whose shares go.
    """
    served = snapshot.served(going)
    return {
        kernel: frozenset(
            name
            for index in served - snapshot.served([each for each in going if each != kernel])
            if (name := snapshot.waiting[index].kernel_id) is not None
        )
        for kernel in going
    }


def _needed(
    snapshot: Snapshot, freed: Sequence[str], idle: Sequence[str], promised: set[int]
) -> list[str]:
    """Those of ``freed`` that cannot be spared; the most recently used are spared first."""
    left = sorted(freed, key=idle.index, reverse=True)
    spared = True
    while spared:
        spared = False
        for kernel in list(left):
            others = [other for other in left if other != kernel]
            if promised <= snapshot.served(others):
                left, spared = others, True
    return left


def _fewest(
    snapshot: Snapshot, freed: Sequence[str], candidates: Sequence[str], wanted: set[int]
) -> list[str]:
    """Which of the candidates have to go beside ``freed`` so that all of ``wanted`` are served.

    Found from the most recently used one that cannot be spared to the least: the smallest number
    of candidates, from the first on, that is enough shows the next of them. Empty where all
    candidates are not enough.
    """

    def enough(number: int) -> bool:
        return wanted <= snapshot.served([*freed, *found, *candidates[:number]])

    found: list[str] = []
    if not enough(len(candidates)):
        return []
    last = len(candidates)
    while not enough(0):
        low, high = 0, last  # `low` is not enough, `high` is
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        found.append(candidates[high - 1])
        last = high - 1
    return found
