"""The cluster as the administrator's rules see it, by what the broker watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..._threads import in_thread
from ...engines.base import Capacity, Waiter
from ...engines.kubernetes._cluster import Cluster
from ...engines.kubernetes._snapshot import ClusterRoom, ClusterSnapshot, without
from ...engines.kubernetes.backends import Facts, Placement
from ...size import Size
from ..claim import Claim
from ..order import Room
from .seeing import Sight

__all__ = ["ClusterSight", "Part"]


@dataclass(frozen=True)
class Part:
    """What one kernel has in the cluster.

    Attributes
    ----------
    names: of the pods and claims that hold its share.
    only: uuids of the only GPUs that it can use, as its process is on them; None: any will do.
    resting: names of what it holds meanwhile of the share that it waits for.
    """

    names: frozenset[str]
    only: frozenset[str] | None = None
    resting: frozenset[str] = frozenset()


class ClusterSight(Sight):
    """For one event loop; what takes long is done in threads.

    Parameters
    ----------
    cluster: opened for all servers of the namespace.
    parts: what each kernel has, by :attr:`Key.text <.ruling.Key.text>`.
    placements: where kernels of a size go, besides what holds for all.
    """

    def __init__(
        self,
        cluster: Cluster,
        parts: Callable[[], Mapping[str, Part]],
        placements: Mapping[Size, Placement],
    ) -> None:
        self._cluster = cluster
        self._parts = parts
        self._placements = placements

    def to_come(self) -> list[Capacity]:
        """See :meth:`Sight.to_come`: those that the administrator has declared."""
        kinds = [kind.told for kind in self._cluster.settings.declared]
        return [
            Capacity("", told.model, "", told.memory, told.memory, told.profile) for told in kinds
        ]

    async def gpus(self) -> list[Capacity]:
        """See :meth:`Sight.gpus`."""
        facts = await self._cluster.shown()
        return await in_thread(self._cluster.backend.capacity, facts)

    async def room(self, waiting: Sequence[Claim]) -> Room:
        """See :meth:`Sight.room`."""
        facts = await self._cluster.shown(now_and_then=False)
        parts = dict(self._parts())
        return await in_thread(lambda: _Room(self._seen(facts, waiting, parts), waiting))

    async def snapshot(self, waiting: Sequence[Claim]) -> ClusterSnapshot:
        """See :meth:`Sight.snapshot`.

        Shares are given back by it: where some would help it goes by what is there now, not by
        what was shown.
        """
        facts = await self._cluster.shown(now_and_then=False)
        seen = await self._needless(facts, waiting)
        if seen is not None:
            return seen
        facts = await self._cluster.refresh()
        return await in_thread(self._seen, facts, waiting, dict(self._parts()))

    async def _needless(self, facts: Facts, waiting: Sequence[Claim]) -> ClusterSnapshot | None:
        """What was shown, where nothing that anybody could give back would help; else None."""
        parts = dict(self._parts())

        def look() -> ClusterSnapshot | None:
            seen = self._seen(facts, waiting, parts)
            return seen if seen.served(seen.held) == seen.served(()) else None

        return await in_thread(look)

    def _seen(
        self, facts: Facts, waiting: Sequence[Claim], parts: Mapping[str, Part]
    ) -> ClusterSnapshot:
        cluster = self._cluster
        only: dict[int, frozenset[str]] = {}
        resting: set[str] = set()
        for index, claim in enumerate(waiting):
            part = parts.get(claim.kernel_id)
            if part is not None and part.only is not None:
                only[index] = part.only
                resting |= part.resting
        return ClusterSnapshot(
            waiting=tuple(Waiter(claim.kernel_id, claim.size) for claim in waiting),
            backend=cluster.backend,
            facts=without(facts, cluster.namespace, resting),
            namespace=cluster.namespace,
            held={name: part.names for name, part in parts.items()},
            only=only,
            placements=self._placements,
        )


class _Room:
    """A cluster's room, for those who waited when it was looked at."""

    def __init__(self, snapshot: ClusterSnapshot, waiting: Sequence[Claim]) -> None:
        self._room = ClusterRoom(snapshot)
        self._place = {claim.kernel_id: index for index, claim in enumerate(waiting)}

    def take(self, claim: Claim) -> bool:
        """See :meth:`Room.take <jupyter_gpu_share.broker.order.Room.take>`."""
        index = self._place.get(claim.kernel_id)
        return not claim.gpus or (index is not None and self._room.take(index))

    def hold(self, claim: Claim) -> None:
        """See :meth:`Room.hold <jupyter_gpu_share.broker.order.Room.hold>`."""
        if (index := self._place.get(claim.kernel_id)) is not None:
            self._room.hold(index)
