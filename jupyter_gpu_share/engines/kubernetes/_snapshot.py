"""What a cluster's GPUs hold and who waits for them, at one moment."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import NoGpuError
from ...size import Size
from ..base import Capacity, Waiter
from .backends import Backend, Facts, Placement

__all__ = ["ClusterRoom", "ClusterSnapshot", "without"]


@dataclass(frozen=True)
class ClusterSnapshot:
    """See :class:`Snapshot <jupyter_gpu_share.engines.base.Snapshot>`.

    Which pod is placed where and when is the scheduler's decision. Here they are placed in the
    order of the queue, each where the least room is left that is enough, and one for which there
    is no room takes nothing from those behind it.

    Attributes
    ----------
    only: uuids of the only GPUs that will do, by the place in ``waiting``, where that is known.
    placements: where kernels of a size go, besides what holds for all.
    held: names of the pods and claims that hold shares, by kernel id.
    """

    waiting: tuple[Waiter, ...]
    backend: Backend
    facts: Facts
    namespace: str
    held: Mapping[str, frozenset[str]]
    only: Mapping[int, frozenset[str]] = field(default_factory=dict)
    placements: Mapping[Size, Placement] = field(default_factory=dict)
    _known: dict[frozenset[str], frozenset[int]] = field(default_factory=dict, compare=False)

    def served(self, freed: Collection[str]) -> frozenset[int]:
        """See :meth:`Snapshot.served <jupyter_gpu_share.engines.base.Snapshot.served>`."""
        if self.backend.reads & self.facts.missing:
            return frozenset()  # what is free is not known to this server
        names = frozenset().union(*(self.held.get(kernel, frozenset()) for kernel in freed))
        if names not in self._known:
            facts = without(self.facts, self.namespace, names)
            place = self.places(facts)
            # Once for each size: hundreds wait for a few sizes, and it takes all nodes and pods.
            can = {size: self.can(size, facts) for size in {each.size for each in self.waiting}}
            self._known[names] = frozenset(
                n
                for n, waiter in enumerate(self.waiting)
                if can[waiter.size] and place.take(n, waiter.size)
            )
        return self._known[names]

    def places(self, facts: Facts) -> _Parts | _Wholes:
        """The GPUs, of which shares are taken."""
        return _Wholes(facts, self) if self.backend.whole else _Parts(facts, self)

    def can(self, size: Size, facts: Facts) -> bool:
        """Whether any GPU of the cluster could hold a size."""
        try:
            self.backend.render(size, self.facts_for(size, facts))
        except NoGpuError:
            return False
        return True

    def facts_for(self, size: Size, facts: Facts) -> Facts:
        """What is known, for kernels of a size."""
        own = self.placements.get(size)
        return facts if own is None else replace(facts, placement=facts.placement + own)


class ClusterRoom:
    """What is free at the moment of a snapshot, shared out to those who wait in it.

    For one thread. Each that waits is named by its place in the snapshot.
    """

    def __init__(self, snapshot: ClusterSnapshot) -> None:
        self._snapshot = snapshot
        known = not snapshot.backend.reads & snapshot.facts.missing
        self._places = snapshot.places(snapshot.facts) if known else None
        self._can: dict[Size, bool] = {}

    def take(self, index: int) -> bool:
        """Put a share somewhere; False where there is no room, or that is not known."""
        size = self._snapshot.waiting[index].size
        return self._possible(size) and self._places is not None and self._places.take(index, size)

    def hold(self, index: int) -> None:
        """Leave GPUs to one for whom there is no room."""
        size = self._snapshot.waiting[index].size
        if self._places is not None and self._possible(size):
            self._places.hold(index, size)

    def _possible(self, size: Size) -> bool:
        if size not in self._can:
            self._can[size] = self._snapshot.can(size, self._snapshot.facts)
        return self._can[size]


class _Parts:
    """GPUs whose memory is parted, as their capacity tells."""

    def __init__(self, facts: Facts, snapshot: ClusterSnapshot) -> None:
        self._gpus: list[Capacity] = snapshot.backend.capacity(facts)
        self._free = [gpu.free_bytes for gpu in self._gpus]
        self._facts = facts
        self._snapshot = snapshot
        #: By size, and the only GPUs that will do: which may, with what the size needs of each.
        self._needs: dict[tuple[Size, frozenset[str] | None], list[tuple[int, int]]] = {}

    def take(self, index: int, size: Size) -> bool:
        which = size, self._snapshot.only.get(index)
        if which not in self._needs:
            self._needs[which] = self._needed(*which)
        room = [
            (self._free[n], n, need) for n, need in self._needs[which] if self._free[n] >= need > 0
        ]
        places = self._on_a_node(room, size.count)
        if places is None:
            self._needs[which] = []  # there is only less room for those who come later
            return False
        for _, n, need in places:
            self._free[n] -= need
        return True

    def _on_a_node(
        self, rows: list[tuple[int, int, int]], count: int
    ) -> list[tuple[int, int, int]] | None:
        """The least so many of these rows with the number of a GPU, which are on one node: a pod
        is. None: no node has so many.
        """
        if count == 1:
            return [min(rows)] if rows else None
        nodes: dict[str, list[tuple[int, int, int]]] = {}
        for row in sorted(rows):
            nodes.setdefault(self._gpus[row[1]].node, []).append(row)
        found = [each[:count] for each in nodes.values() if len(each) >= count]
        return min(found, key=lambda each: sum(row[0] for row in each), default=None)

    def hold(self, index: int, size: Size) -> None:
        """Leave the GPUs to a kernel on which the least has to be freed for it."""
        needs = self._needed(size, self._snapshot.only.get(index))
        rows = [
            (max(need - self._free[n], 0), n, need)
            for n, need in needs
            if 0 < need <= self._gpus[n].memory_bytes
        ]
        # Where no node has so many there will never be room.
        for _, n, _ in self._on_a_node(rows, size.count) or ():
            self._free[n] = 0

    def _needed(self, size: Size, only: frozenset[str] | None) -> list[tuple[int, int]]:
        backend = self._snapshot.backend
        if only is None and size in self._snapshot.placements:
            facts = self._snapshot.facts_for(size, self._facts)
            only = frozenset(gpu.uuid for gpu in backend.capacity(facts))
        return [
            (n, backend.need(size, gpu, self._facts))
            for n, gpu in enumerate(self._gpus)
            if gpu.profile == size.profile and (only is None or gpu.uuid in only)
        ]


class _Wholes:
    """GPUs, replicas or MIG instances that are taken as they are, counted by their resource."""

    def __init__(self, facts: Facts, snapshot: ClusterSnapshot) -> None:
        self._backend = snapshot.backend
        self._facts = facts
        self._snapshot = snapshot
        self._taken: dict[str, int] = {}
        #: By size: the resource that its kernels ask for, and how much of it there is.
        self._room: dict[Size, tuple[str, int]] = {}

    def take(self, index: int, size: Size) -> bool:
        resource, room = self._resource(size)
        taken = self._taken.get(resource, 0)
        if room - taken < size.count:
            return False
        self._taken[resource] = taken + size.count
        return True

    def hold(self, index: int, size: Size) -> None:
        """Leave what is free of its resource to a kernel: which GPU it is on is not known."""
        resource, room = self._resource(size)
        self._taken[resource] = max(room, self._taken.get(resource, 0))

    def _resource(self, size: Size) -> tuple[str, int]:
        if size not in self._room:
            # All that a kernel asks for here is a number of one resource.
            facts = self._snapshot.facts_for(size, self._facts)
            (resource,) = self._backend.render(size, facts).limits
            self._room[size] = resource, self._backend.room(size, facts)
        return self._room[size]


def without(facts: Facts, namespace: str, names: Collection[str]) -> Facts:
    """What is known, without what these pods and claims of a namespace hold."""

    def others(objects: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        return [
            each
            for each in objects
            if each["metadata"].get("namespace") != namespace
            or each["metadata"]["name"] not in names
        ]

    if not names:
        return facts
    return replace(facts, pods=others(facts.pods), claims=others(facts.claims))
