"""Which GPUs a size is put on, and who gets room first. Pure: nothing here does I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...size import Size, format_bytes
from ._gpu import Gpu

__all__ = ["Piece", "Queue", "Served", "Wish", "grants", "never_fits", "place", "why_waiting"]


@dataclass(frozen=True)
class Piece:
    """Memory of one GPU."""

    uuid: str
    memory_bytes: int


@dataclass(frozen=True)
class Wish:
    """What one that waits asks for. ``only`` names the GPUs that will do; empty: any.

    Attributes
    ----------
    holds: whether GPUs are reserved for it while there is no room; else others may pass it.
    """

    name: str
    size: Size
    only: frozenset[str] = frozenset()
    holds: bool = True

    def among(self, gpus: Iterable[Gpu]) -> list[Gpu]:
        """Those of the GPUs that will do."""
        return [gpu for gpu in gpus if not self.only or gpu.uuid in self.only]


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


def place(size: Size, gpus: Sequence[Gpu], used: Mapping[str, int]) -> tuple[Piece, ...] | None:
    """The GPUs that ``size`` goes to now, or None where there is no room.

    A share goes to a GPU that is shared already before one that is empty, and among those to the
    one with the least room that is enough. Small shares so pack together and whole GPUs stay
    whole. Several devices of one kernel are different GPUs, with the same memory of each. A MIG
    instance is given to one kernel, entire: to who asks for its profile or, on a machine that has
    only instances, to who asks for memory that it covers. CUDA uses one instance at a time.

    Parameters
    ----------
    used: bytes held, by uuid.
    """
    return _put(size, _offers(size, gpus), used)


class Queue:
    """Those that wait, in the order of arrival, worked out once and served as often as needed.

    They are served in their order. One for whom there is no room, and who lets nobody pass,
    reserves the GPUs on which the least has to be freed for it: who came later gets nothing there,
    so that a large request is not starved by a stream of small ones. GPUs that nobody before them
    waits for are open to those who came later.
    """

    def __init__(self, gpus: Sequence[Gpu], waiting: Iterable[Wish]) -> None:
        self._gpus = len({gpu.uuid for gpu in gpus})
        self._queue: list[tuple[Wish, Sequence[_Offer]]] = []
        offers: dict[tuple[str, frozenset[str]], Sequence[_Offer]] = {}
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
                reserved |= _reservation(wish.size, free, taken)
                continue
            granted[wish.name] = pieces
            for piece in pieces:
                taken[piece.uuid] = taken.get(piece.uuid, 0) + piece.memory_bytes
        return Served(granted, taken, frozenset(reserved))


def grants(
    gpus: Sequence[Gpu], used: Mapping[str, int], waiting: Iterable[Wish]
) -> Mapping[str, tuple[Piece, ...]]:
    """Who of those that wait gets room now: pieces by the name given in ``waiting``."""
    return Queue(gpus, waiting).serve(used).granted


def never_fits(size: Size, gpus: Sequence[Gpu]) -> str | None:
    """Why the size can never be had on these GPUs, and what can; None if it can."""
    if size.is_none:
        return None
    candidates = _candidates(size, gpus)
    if size.count > 1 and gpus and (size.profile or all(gpu.profile for gpu in gpus)):
        return f"{size} cannot be had here: a program can use one MIG instance only."
    if size.profile and not candidates:
        profiles = sorted({gpu.profile for gpu in gpus if gpu.profile})
        there = f"there are {', '.join(profiles)}" if profiles else "none is in MIG mode"
        return f"No GPU here has a MIG profile {size.profile}; {there}."
    largest = max((gpu.memory_bytes for gpu in candidates), default=0)
    enough = [gpu for gpu in candidates if 0 < _need(size, gpu) <= gpu.memory_bytes]
    if not enough and size.memory is not None:
        return (
            f"{format_bytes(size.memory)} is more than the largest GPU here "
            f"({format_bytes(largest)})."
        )
    if not enough and candidates:
        return (
            f"{size} is less than one byte of a GPU here ({format_bytes(largest)}); ask for more."
        )
    if not enough:
        return f"{size} cannot be had here: all GPUs are split into MIG instances; ask for one."
    if len(enough) < size.count:
        number = f"{len(enough)} such GPU{'s' if len(enough) > 1 else ''}"
        return f"{size} needs {size.count} GPUs; this machine has {number}."
    return None


def why_waiting(size: Size, gpus: Sequence[Gpu], used: Mapping[str, int], ahead: int) -> str:
    """A sentence for the user about what their kernel waits for."""
    candidates = _candidates(size, gpus)
    if not candidates:
        return never_fits(size, gpus) or "The GPUs have changed."
    if size.profile:
        busy = sum(1 for gpu in candidates if used.get(gpu.uuid, 0))
        return f"{busy} of {len(candidates)} instances {size.profile} are in use."
    emptiest = max(candidates, key=lambda gpu: gpu.memory_bytes - used.get(gpu.uuid, 0))
    room = emptiest.memory_bytes - used.get(emptiest.uuid, 0)
    need = format_bytes(_need(size, emptiest))
    on = "one GPU" if size.count == 1 else f"each of {size.count} GPUs"
    sentence = (
        f"It needs {need} of {on}; the emptiest has {format_bytes(max(room, 0))} of "
        f"{format_bytes(emptiest.memory_bytes)} free."
    )
    if ahead and place(size, gpus, used) is not None:
        return f"{sentence} Kernels that came earlier get that room first."
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
            found.append(_Offer(gpu.uuid, gpu.index, gpu.memory_bytes, need))
    return found


def _put(size: Size, offers: Sequence[_Offer], used: Mapping[str, int]) -> tuple[Piece, ...] | None:
    if size.is_none:
        return ()
    fitting = []
    for offer in offers:
        room = offer.memory_bytes - used.get(offer.uuid, 0)
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
    missing = sorted(
        (offer.need - offer.memory_bytes + used.get(offer.uuid, 0), offer.index, offer.uuid)
        for offer in offers
    )
    return {uuid for _, _, uuid in missing[: size.count]}
