"""Readings of what kernels use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ._inventory import Inventory, real_use
from ._simulated import SimulatedUse, simulated_use

__all__ = ["Reader", "Reading", "process_trees"]

_PROC = Path("/proc")


@dataclass(frozen=True)
class Reading:
    """Bytes in use over all devices of a share, and utilisation 0 to 1; None where not known."""

    used_bytes: int | None
    utilization: float | None


class Reader:
    """Reads what kernels use, their child processes included."""

    def __init__(self, found: Inventory, simulated_dir: Path) -> None:
        self._found = found
        self._simulated_dir = simulated_dir

    def read(self, kernels: Mapping[str, int]) -> dict[str, Reading]:
        """Readings by kernel id, for pids by kernel id. Blocks on the driver or the disk.

        Raises
        ------
        NoGpuError: the driver is gone.
        """
        trees = process_trees(kernels.values())
        everyone = {pid for tree in trees.values() for pid in tree}
        if self._found.simulation:
            use = simulated_use(self._simulated_dir, everyone)
            return {
                name: _sum_simulated([use[p] for p in trees[pid] if p in use])
                for name, pid in kernels.items()
            }
        real = real_use(self._found.gpus, everyone)
        result = {}
        for name, pid in kernels.items():
            rows = [real[p] for p in trees[pid] if p in real]
            known = [row.utilization for row in rows if row.utilization is not None]
            result[name] = Reading(
                used_bytes=sum(sum(row.used.values()) for row in rows) if rows else None,
                utilization=min(1.0, sum(known)) if known else None,
            )
        return result


def _sum_simulated(uses: Collection[SimulatedUse]) -> Reading:
    used = sum(sum(use.used.values()) for use in uses)
    return Reading(used, 1.0 if any(use.busy for use in uses) else 0.0)


def process_trees(roots: Collection[int]) -> dict[int, set[int]]:
    """Each root with its descendants and what else is in its session, by root."""
    children: dict[int, set[int]] = {}
    members: dict[int, set[int]] = {}
    for entry in _PROC.glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(entry.name)
        children.setdefault(int(fields[1]), set()).add(pid)
        members.setdefault(int(fields[3]), set()).add(pid)
    trees = {}
    for root in roots:
        tree, new = set(), {root} | members.get(root, set())
        while new:
            tree |= new
            new = set().union(*(children.get(pid, set()) for pid in new)) - tree
        trees[root] = tree
    return trees
