"""Readings of what kernels use."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ._inventory import Inventory, ProcessUse, certain_use, real_use
from ._simulated import SimulatedUse, simulated_use

__all__ = ["Reader", "Reading", "process_trees"]

_PROC = Path("/proc")


@dataclass(frozen=True)
class Reading:
    """Bytes in use over all devices, and by uuid; utilisation 0 to 1. None where not known."""

    used_bytes: int | None
    utilization: float | None
    by_gpu: Mapping[str, int] | None = None

    def most_of(self, uuids: Collection[str]) -> int | None:
        """Bytes in use of the one of these GPUs that has most."""
        if self.by_gpu is None:
            return None
        return max((self.by_gpu.get(uuid, 0) for uuid in uuids), default=0)

    def beside(self, uuids: Collection[str]) -> list[str]:
        """Uuids of other GPUs that are in use."""
        used = (self.by_gpu or {}).items()
        return sorted(uuid for uuid, amount in used if amount and uuid not in uuids)


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
            result[name] = _sum_real([real[p] for p in trees[pid] if p in real])
        return result

    def certain(self, roots: Collection[int]) -> Mapping[str, int] | None:
        """Bytes by uuid that processes use with all that belong to them; None where it is not
        known of each of them. Blocks on the driver or the disk.

        Raises
        ------
        NoGpuError: the driver is gone.
        """
        everyone = {pid for tree in process_trees(roots).values() for pid in tree}
        if self._found.simulation:
            return _by_gpu(
                use.used for use in simulated_use(self._simulated_dir, everyone).values()
            )
        return certain_use(self._found.gpus, everyone)


def _sum_real(uses: Collection[ProcessUse]) -> Reading:
    if not uses:
        return Reading(None, None)
    known = [use.utilization for use in uses if use.utilization is not None]
    by_gpu = _by_gpu(use.used for use in uses)
    return Reading(sum(by_gpu.values()), min(1.0, sum(known)) if known else None, by_gpu)


def _sum_simulated(uses: Collection[SimulatedUse]) -> Reading:
    by_gpu = _by_gpu(use.used for use in uses)
    busy = any(use.busy for use in uses)
    return Reading(sum(by_gpu.values()), 1.0 if busy else 0.0, by_gpu)


def _by_gpu(rows: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for row in rows:
        for uuid, amount in row.items():
            total[uuid] = total.get(uuid, 0) + amount
    return total


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
