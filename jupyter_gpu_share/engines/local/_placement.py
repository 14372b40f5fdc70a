"""Which GPUs a size is put on, and who gets room first. Pure: nothing here does I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...size import Size, format_bytes
from ._gpu import Gpu

__all__ = ["Piece", "Wish", "grants", "never_fits", "place", "why_waiting"]


@dataclass(frozen=True)
class Piece:
    """Memory of one GPU."""

    uuid: str
    memory_bytes: int


@dataclass(frozen=True)
class Wish:
    """What one that waits asks for. ``only`` names the GPUs that will do; empty: any."""

    name: str
    size: Size
    only: frozenset[str] = frozenset()

    def among(self, gpus: Iterable[Gpu]) -> list[Gpu]:
        """Those of the GPUs that will do."""
        return [gpu for gpu in gpus if not self.only or gpu.uuid in self.only]


def place(size: Size, gpus: Sequence[Gpu], used: Mapping[str, int]) -> tuple[Piece, ...] | None:
    """The GPUs that ``size`` goes to now, or None where there is no room.

    A share goes to a GPU that is shared already before one that is empty, and among those to the
    one with the least room that is enough. Small shares so pack together and whole GPUs stay
    whole. Several devices of one kernel are different GPUs. A MIG instance is
    given to one kernel, entire: to who asks for its profile or, on a machine that has only
    instances, to who asks for memory that it covers.

    Parameters
    ----------
    used: bytes held, by uuid.
    """
    if size.is_none:
        return ()
    fitting = []
    for gpu in _candidates(size, gpus):
        need = _need(size, gpu)
        room = gpu.memory_bytes - used.get(gpu.uuid, 0)
        if 0 < need <= room:
            fitting.append((room == gpu.memory_bytes, room, gpu.index, gpu.uuid, need))
    if len(fitting) < size.count:
        return None
    return tuple(Piece(uuid, need) for *_, uuid, need in sorted(fitting)[: size.count])


def grants(
    gpus: Sequence[Gpu], used: Mapping[str, int], waiting: Iterable[Wish]
) -> dict[str, tuple[Piece, ...]]:
    """Who of those that wait gets room now: pieces by the name given in ``waiting``.

    They are served in the order of arrival. One for whom there is no room reserves the GPUs on
    which the least has to be freed for it: who came later gets nothing there, so that a large
    request is not starved by a stream of small ones. GPUs that nobody before them waits for are
    open to those who came later.
    """
    taken = dict(used)
    reserved: set[str] = set()
    granted: dict[str, tuple[Piece, ...]] = {}
    for wish in waiting:
        open_gpus = wish.among(gpu for gpu in gpus if gpu.uuid not in reserved)
        pieces = place(wish.size, open_gpus, taken)
        if pieces is None:
            reserved |= _reservation(wish.size, open_gpus, taken)
            continue
        granted[wish.name] = pieces
        for piece in pieces:
            taken[piece.uuid] = taken.get(piece.uuid, 0) + piece.memory_bytes
    return granted


def never_fits(size: Size, gpus: Sequence[Gpu]) -> str | None:
    """Why the size can never be had on these GPUs, and what can; None if it can."""
    if size.is_none:
        return None
    candidates = _candidates(size, gpus)
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
        return f"{sentence} Whoever came before gets that room first."
    return sentence


def _candidates(size: Size, gpus: Sequence[Gpu]) -> list[Gpu]:
    """The GPUs, or instances, that the size may be put on at all."""
    if size.profile:
        return [gpu for gpu in gpus if gpu.profile == size.profile]
    whole = [gpu for gpu in gpus if gpu.profile is None]
    if whole or size.memory is None:
        return whole
    return [gpu for gpu in gpus if gpu.memory_bytes >= size.memory]


def _need(size: Size, gpu: Gpu) -> int:
    return gpu.memory_bytes if gpu.profile else size.bytes_of(gpu.memory_bytes)


def _reservation(size: Size, gpus: Sequence[Gpu], used: Mapping[str, int]) -> set[str]:
    missing = sorted(
        (_need(size, gpu) - gpu.memory_bytes + used.get(gpu.uuid, 0), gpu.index, gpu.uuid)
        for gpu in _candidates(size, gpus)
        if 0 < _need(size, gpu) <= gpu.memory_bytes
    )
    return {uuid for _, _, uuid in missing[: size.count]}
