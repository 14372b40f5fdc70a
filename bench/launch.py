"""How soon a kernel answers."""

from __future__ import annotations

from statistics import median
from time import perf_counter

from .kernels import OURS, PATIENCE, PEER, isolate, make_manager
from .rows import Row, plus

ROUNDS = 15


def rows() -> list[Row]:
    """Time from the start of a kernel to its first ``kernel_info_reply``."""
    isolate()
    taken: dict[str, list[float]] = {OURS: [], PEER: []}
    for provisioner in (OURS, PEER):
        _start(provisioner)  # imports, ledger, caches of the system
    for _ in range(ROUNDS):
        for provisioner, times in taken.items():
            times.append(_start(provisioner))
    ours, peer = median(taken[OURS]) * 1000, median(taken[PEER]) * 1000
    limit, goal = plus(60, peer, "ms")
    return [Row("start to first kernel_info_reply", "ms", ours, peer, limit, goal)]


def _start(provisioner: str) -> float:
    manager = make_manager(provisioner)
    begun = perf_counter()
    manager.start_kernel()
    client = manager.client()
    client.start_channels(iopub=False, stdin=False, hb=False, control=False)
    try:
        client.kernel_info()
        client.get_shell_msg(timeout=PATIENCE)
        return perf_counter() - begun
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
