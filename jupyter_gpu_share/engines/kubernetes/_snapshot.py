"""What a cluster's GPUs hold and who waits for them, at one moment."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import NoGpuError
from ...size import Size
from ..base import Capacity, Waiter
from .backends import Backend, Facts, Placement

__all__ = ["ClusterSnapshot", "without"]


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
            place = _Wholes(facts, self) if self.backend.whole else _Parts(facts, self)
            self._known[names] = frozenset(
                n
                for n, waiter in enumerate(self.waiting)
                if self._can(waiter.size, facts) and place.take(n, waiter.size)
            )
        return self._known[names]

    def _can(self, size: Size, facts: Facts) -> bool:
        try:
            self.backend.render(size, self.facts_for(size, facts))
        except NoGpuError:
            return False
        return True

    def facts_for(self, size: Size, facts: Facts) -> Facts:
        """What is known, for kernels of a size."""
        own = self.placements.get(size)
        return facts if own is None else replace(facts, placement=facts.placement + own)


class _Parts:
    """GPUs whose memory is parted, as their capacity tells."""

    def __init__(self, facts: Facts, snapshot: ClusterSnapshot) -> None:
        self._gpus: list[Capacity] = snapshot.backend.capacity(facts)
        self._free = [gpu.free_bytes for gpu in self._gpus]
        self._only = snapshot.only
        self._facts = facts
        self._snapshot = snapshot

    def take(self, index: int, size: Size) -> bool:
        only = self._only.get(index)
        if only is None and size in self._snapshot.placements:
            facts = self._snapshot.facts_for(size, self._facts)
            only = frozenset(gpu.uuid for gpu in self._snapshot.backend.capacity(facts))
        room = sorted(
            (self._free[n], n, need)
            for n, gpu in enumerate(self._gpus)
            if gpu.profile == size.profile
            and (only is None or gpu.uuid in only)
            and self._free[n] >= (need := self._snapshot.backend.need(size, gpu, self._facts)) > 0
        )
        if len(room) < size.count:
            return False
        for _, n, need in room[: size.count]:
            self._free[n] -= need
        return True


class _Wholes:
    """GPUs, replicas or MIG instances that are taken as they are, counted by their resource."""

    def __init__(self, facts: Facts, snapshot: ClusterSnapshot) -> None:
        self._backend = snapshot.backend
        self._facts = facts
        self._snapshot = snapshot
        self._taken: dict[str, int] = {}

    def take(self, index: int, size: Size) -> bool:
        # All that a kernel asks for here is a number of one resource.
        facts = self._snapshot.facts_for(size, self._facts)
        (resource,) = self._backend.render(size, facts).limits
        taken = self._taken.get(resource, 0)
        if self._backend.room(size, facts) - taken < size.count:
            return False
        self._taken[resource] = taken + size.count
        return True


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
