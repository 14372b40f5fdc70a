"""Which GPUs a size is put on, and who gets room first. Pure: nothing here does I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...sentences import paragraph, say
from ...size import Size
from ._gpu import Gpu

__all__ = [
    "Piece",
    "Queue",
    "Served",
    "Wish",
    "count",
    "never_fits",
    "place",
    "place_anew",
    "room_of",
    "why_waiting",
]


@dataclass(frozen=True)
class Piece:
    """Memory of one GPU."""

    uuid: str
    memory_bytes: int


@dataclass(frozen=True)
class Wish:
    """What one that waits asks for. ``only`` names the GPUs that will do; None: any.

    Attributes
    ----------
    holds: whether GPUs are reserved for it while there is no room; else others may pass it.
    """

    name: str
    size: Size
    only: frozenset[str] | None = None
    holds: bool = True

    def among(self, gpus: Iterable[Gpu]) -> list[Gpu]:
        """Those of the GPUs that will do."""
        return [gpu for gpu in gpus if self.only is None or gpu.uuid in self.only]


@dataclass(frozen=True)
class Served:
    """What came of a queue.

    Attributes
    ----------
    granted: pieces by name, of those that got room.
    used: bytes held then, by uuid.
    reserved: uuids of the GPUs that those wait for who got none; nobody after them gets room there.
    """

    granted: Mapping[str, tuple[Piece, ...]]
    used: Mapping[str, int]
    reserved: frozenset[str]


@dataclass(frozen=True)
class _Offer:
    """A GPU that could hold a piece of a size: all of its bytes, and those of the piece."""

    uuid: str
    index: int
    memory_bytes: int
    need: int
    parent: str | None

    def room(self, used: Mapping[str, int]) -> int:
        """Bytes that are free; below nothing where more is used than there is."""
        return room_of(self, used)


def room_of(gpu: Gpu | _Offer, used: Mapping[str, int]) -> int:
    """Bytes of a GPU that are free, where so much is used as :func:`count` counts it.

    The memory of an instance is memory of its GPU too. What is shown as free and what is given out
    both come from here.
    """
    if gpu.parent is not None and used.get(gpu.parent, 0):
        return 0
    return gpu.memory_bytes - used.get(gpu.uuid, 0) - used.get(_within(gpu.uuid), 0)


def place(size: Size, gpus: Sequence[Gpu], used: Mapping[str, int]) -> tuple[Piece, ...] | None:
    """The GPUs that ``size`` goes to now, or None where there is no room.

    A share goes to a GPU that is shared already before one that is empty, and among those to the
    one with the least room that is enough. Small shares so pack together and whole GPUs stay
    whole. Several devices of one kernel are different GPUs, with the same memory of each. A MIG
    instance is given to one kernel, entire: to who asks for its profile or, on a machine that has
    only instances, to who asks for memory that it covers. CUDA uses one instance at a time.

    Parameters
    ----------
    used: bytes held, as :func:`count` counts them.
    """
    return _put(size, _offers(size, gpus), used)


def place_anew(
    size: Size, gpus: Sequence[Gpu], own: Iterable[Piece], served: Served
) -> tuple[Piece, ...] | None:
    """The same for one that holds ``own``, or nothing, where others wait: it comes last.

    What it holds is free for it. More it gets only where nobody waits.
    """
    used = dict(served.used)
    keeps = {piece.uuid: piece.memory_bytes for piece in own}
    count(used, own, {gpu.uuid: gpu.parent for gpu in gpus}, take=False)
    for gpu in gpus:
        taken = gpu.memory_bytes if gpu.uuid in served.reserved else used.get(gpu.uuid, 0)
        used[gpu.uuid] = max(0, min(taken, gpu.memory_bytes - keeps.get(gpu.uuid, 0)))
    return place(size, gpus, used)


def count(
    used: dict[str, int],
    pieces: Iterable[Piece],
    parents: Mapping[str, str | None],
    *,
    take: bool = True,
) -> None:
    """Count pieces as taken, or as given back, in the bytes by uuid that are ``used``.

    What is held of instances is counted for their GPU as well, under a name of its own. Servers
    may see a GPU that was split, or is whole again, at different moments.
    """
    for piece in pieces:
        amount = piece.memory_bytes if take else -piece.memory_bytes
        used[piece.uuid] = used.get(piece.uuid, 0) + amount
        if parent := parents.get(piece.uuid):
            used[_within(parent)] = used.get(_within(parent), 0) + amount


def _within(uuid: str) -> str:
    return f"within {uuid}"


class Queue:
    """Those that wait, in the order of arrival, worked out once and served as often as needed.

    They are served in their order. One for whom there is no room, and who lets nobody pass,
    reserves the GPUs on which the least has to be freed for it: who came later gets nothing there,
    so that a large request is not starved by a stream of small ones. GPUs that nobody before them
    waits for are open to those who came later. One that could not be had if all shares were given
    back, as where a GPU is lost or others use it, reserves nothing.

    Parameters
    ----------
    others: bytes by uuid that are used without a share.
    """

    def __init__(
        self, gpus: Sequence[Gpu], waiting: Iterable[Wish], others: Mapping[str, int] | None = None
    ) -> None:
        self._gpus = len({gpu.uuid for gpu in gpus})
        self._others = others or {}
        self._parents = {gpu.uuid: gpu.parent for gpu in gpus}
        self._queue: list[tuple[Wish, Sequence[_Offer]]] = []
        offers: dict[tuple[str, frozenset[str] | None], Sequence[_Offer]] = {}
        for wish in waiting:
            kind = str(wish.size), wish.only
            if kind not in offers:
                offers[kind] = _offers(wish.size, wish.among(gpus))
            self._queue.append((wish, offers[kind]))

    def serve(self, used: Mapping[str, int]) -> Served:
        """Who gets room where so much is used; ``used`` is bytes by uuid, and stays as it is."""
        taken = dict(used)
        reserved: set[str] = set()
        granted: dict[str, tuple[Piece, ...]] = {}
        for wish, offers in self._queue:
            if len(reserved) == self._gpus and not wish.size.is_none:
                continue
            free = [offer for offer in offers if offer.uuid not in reserved] if reserved else offers
            pieces = _put(wish.size, free, taken)
            if pieces is None and not wish.holds:
                continue
            if pieces is None:
                open_to_shares = [row for row in offers if row.need <= row.room(self._others)]
                if len(open_to_shares) >= wish.size.count:
                    free = [offer for offer in open_to_shares if offer.uuid not in reserved]
                    reserved |= _reservation(wish.size, free, taken)
                continue
            granted[wish.name] = pieces
            count(taken, pieces, self._parents)
        return Served(granted, taken, frozenset(reserved))


def never_fits(size: Size, gpus: Sequence[Gpu]) -> str | None:
    """Why the size can never be had on these GPUs, and what can; None if it can."""
    if size.is_none:
        return None
    candidates = _candidates(size, gpus)
    if size.count > 1 and gpus and (size.profile or all(gpu.profile for gpu in gpus)):
        return say("one-instance-only", size=size)
    if size.profile and not candidates:
        profiles = sorted({gpu.profile for gpu in gpus if gpu.profile})
        if profiles:
            return say("no-such-profile", profile=size.profile, profiles=profiles)
        return say("no-mig", profile=size.profile)
    largest = max((gpu.memory_bytes for gpu in candidates), default=0)
    enough = [gpu for gpu in candidates if 0 < _need(size, gpu) <= gpu.memory_bytes]
    if not enough and size.memory is not None:
        return say("more-than-largest", need=size.memory, largest=largest)
    if not enough and candidates:
        return say("less-than-a-byte", size=size, largest=largest)
    if not enough:
        return say("all-split", size=size)
    if len(enough) < size.count:
        if len(enough) == 1:
            return say("one-such-gpu", size=size, count=size.count)
        return say("few-such-gpus", size=size, count=size.count, number=len(enough))
    return None


def why_waiting(size: Size, gpus: Sequence[Gpu], used: Mapping[str, int], ahead: int) -> str:
    """A sentence for the user about what their kernel waits for."""
    if not gpus:
        return "No GPU that it can have is there now."
    candidates = _candidates(size, gpus)
    if not candidates:
        return never_fits(size, gpus) or say("gpus-changed")
    if size.profile:
        busy = sum(1 for gpu in candidates if room_of(gpu, used) < gpu.memory_bytes)
        return say("instances-in-use", busy=busy, all=len(candidates), profile=size.profile)
    emptiest = max(candidates, key=lambda gpu: room_of(gpu, used))
    amounts = {
        "need": _need(size, emptiest),
        "room": max(room_of(emptiest, used), 0),
        "whole": emptiest.memory_bytes,
    }
    if size.count == 1:
        sentence = say("needs-room", **amounts)
    else:
        sentence = say("needs-room-of-each", count=size.count, **amounts)
    if ahead and place(size, gpus, used) is not None:
        return paragraph(sentence, say("earlier-first"))
    return sentence


def _candidates(size: Size, gpus: Sequence[Gpu]) -> list[Gpu]:
    """The GPUs, or instances, that the size may be put on at all."""
    if size.profile:
        return [gpu for gpu in gpus if gpu.profile == size.profile and size.count == 1]
    whole = [gpu for gpu in gpus if gpu.profile is None]
    if whole or size.memory is None or size.count > 1:
        return whole
    return [gpu for gpu in gpus if gpu.memory_bytes >= size.memory]


def _need(size: Size, gpu: Gpu) -> int:
    return gpu.memory_bytes if gpu.profile else size.bytes_of(gpu.memory_bytes)


def _offers(size: Size, gpus: Sequence[Gpu]) -> list[_Offer]:
    found = []
    for gpu in () if size.is_none else _candidates(size, gpus):
        need = _need(size, gpu)
        if 0 < need <= gpu.memory_bytes:
            found.append(_Offer(gpu.uuid, gpu.index, gpu.memory_bytes, need, gpu.parent))
    return found


def _put(size: Size, offers: Sequence[_Offer], used: Mapping[str, int]) -> tuple[Piece, ...] | None:
    if size.is_none:
        return ()
    fitting = []
    for offer in offers:
        room = offer.room(used)
        if offer.need <= room:
            empty = room == offer.memory_bytes
            fitting.append((empty, room, offer.index, offer.uuid, offer.need))
    if len(fitting) < size.count:
        return None
    chosen = sorted(fitting)[: size.count]
    # Of unequal GPUs the same from each: programs are told one amount for all.
    need = min((need for *_, need in chosen), default=0)
    return tuple(Piece(uuid, need) for *_, uuid, _ in chosen)


def _reservation(size: Size, offers: Sequence[_Offer], used: Mapping[str, int]) -> set[str]:
    missing = sorted((offer.need - offer.room(used), offer.index, offer.uuid) for offer in offers)
    return {uuid for _, _, uuid in missing[: size.count]}
