"""The whole ledger at one moment, as plain data. Pure but for the look at who is alive."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from ...errors import SizeError
from ...size import Size
from .._places import Place, here
from .._processes import Holder, carriers_of
from ..base import Waiter
from ._gpu import Gpu
from ._placement import Piece, Queue, Served, Wish, count, place_anew, room_of, why_waiting

__all__ = [
    "Claim",
    "Contents",
    "Holding",
    "LedgerSnapshot",
    "Views",
    "dead_of",
    "place_of",
    "size_of",
    "wish_of",
]

#: Uuids of the GPUs that each server sees, by the name under which it writes to the ledger.
Views = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Claim:
    """What a kernel holds or waits for.

    Attributes
    ----------
    pieces: empty while it waits.
    position, of: place in the queue from 1; 0 where it holds.
    reason: a sentence about what it waits for.
    holder: the server; ``kernel``: the kernel's process, once it is known.
    place: whose process numbers these are.
    """

    token: str
    kernel_id: str
    size: Size
    holder: Holder
    place: Place
    pieces: tuple[Piece, ...] = ()
    position: int = 0
    of: int = 0
    reason: str = ""
    kernel: Holder | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """True where it holds its share."""
        return self.position == 0

    @property
    def unknown(self) -> bool:
        """True where nobody here can tell whether its processes live."""
        return not (self.place.is_here or self.place.has_ended)


@dataclass(frozen=True)
class Holding:
    """What is taken of a GPU: bytes held, by how many kernels, and bytes without a share.

    ``free_bytes`` are those that can be held: of an instance none where its GPU is held as a whole.
    """

    held_bytes: int = 0
    kernels: int = 0
    other_bytes: int = 0
    free_bytes: int = 0


@dataclass(frozen=True)
class LedgerSnapshot:
    """See :class:`Snapshot <jupyter_gpu_share.engines.base.Snapshot>`.

    Attributes
    ----------
    held: pieces by kernel id, of those that hold a share.
    parents: uuid of the GPU that a MIG instance is part of, by its own.
    gpus, only, holds, others: what the queue is made of: the GPUs, for each that waits those that
        will do (None: any) and whether room is held for it, and bytes by uuid that are used without
        a share.
    """

    waiting: tuple[Waiter, ...]
    queue: Queue
    used: Mapping[str, int]
    held: Mapping[str, tuple[Piece, ...]]
    parents: Mapping[str, str | None] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    only: tuple[frozenset[str] | None, ...] = ()
    holds: tuple[bool, ...] = ()
    others: Mapping[str, int] = field(default_factory=dict)

    def served(self, freed: Collection[str]) -> frozenset[int]:
        """See :meth:`Snapshot.served <jupyter_gpu_share.engines.base.Snapshot.served>`."""
        used = dict(self.used)
        for kernel_id in set(freed):
            count(used, self.held.get(kernel_id, ()), self.parents, take=False)
        return frozenset(int(name) for name in self.queue.serve(used).granted)


class Contents:
    """All claims in the order of arrival, with the GPUs that are present.

    Parameters
    ----------
    rows: of the table of claims, in the order of arrival.
    pieces: by the claims' token.
    views: servers that are not in it see all GPUs.
    viewer: the server that asks.
    others: bytes by uuid that are used without a share.
    parents: uuid of the GPU that a MIG instance is part of, by its own, of all that ever were here.
    line: tokens of those that wait in the order in which they are served, and whether room is held
        for each while there is none; None: in the order of arrival, and for all.

    Attributes
    ----------
    waiting: the rows of those that wait, in the order in which they are served.

    Raises
    ------
    sqlite3.DatabaseError: from every method, where a row makes no sense.
    """

    def __init__(
        self,
        gpus: Sequence[Gpu],
        rows: Sequence[sqlite3.Row],
        pieces: Mapping[str, tuple[Piece, ...]],
        views: Views,
        viewer: str,
        others: Mapping[str, int],
        parents: Mapping[str, str | None],
        line: Mapping[str, bool] | None = None,
    ) -> None:
        self.rows = rows
        self._holds = line or {}
        self._gpus = gpus
        self._views = views
        self._viewer = viewer
        self._pieces = pieces
        self._others = others
        self._parents = parents
        self._used: dict[str, int] = dict(others)
        for held in pieces.values():
            count(self._used, held, parents)
        self.waiting = [row for row in rows if not row["held"]]
        if line is not None:
            place = {token: number for number, token in enumerate(line)}
            self.waiting.sort(key=lambda row: place[row["token"]])
        self._reasons: dict[tuple[str, frozenset[str] | None, bool], str] = {}

    def claims(self, of: Collection[str] | None = None) -> list[Claim]:
        """All claims in the order of arrival, or those of some kernels."""
        places = {row["token"]: n for n, row in enumerate(self.waiting, start=1)}
        return [
            self._claim(row, places.get(row["token"], 0))
            for row in self.rows
            if of is None or row["kernel_id"] in of
        ]

    def holdings(self) -> dict[str, Holding]:
        """What is taken of each GPU that is present, by uuid."""
        held: dict[str, list[int]] = {}
        for piece in (piece for pieces in self._pieces.values() for piece in pieces):
            held.setdefault(piece.uuid, []).append(piece.memory_bytes)
        return {
            gpu.uuid: Holding(
                held_bytes=sum(held.get(gpu.uuid, ())),
                kernels=len(held.get(gpu.uuid, ())),
                other_bytes=self._others.get(gpu.uuid, 0),
                free_bytes=max(0, room_of(gpu, self._used)),
            )
            for gpu in self._gpus
        }

    def fits(self, kernel_id: str | None, sizes: Iterable[Size]) -> list[str | None]:
        """For each size: None where it could be held at once, else why not.

        What the kernel itself holds counts as free for it; more comes after those who wait.
        """
        row = next((row for row in self.rows if row["kernel_id"] == kernel_id), None)
        own = self._pieces.get(row["token"], ()) if row is not None else ()
        used = dict(self._used)
        count(used, own, self._parents, take=False)
        waiting = [row for row in self.waiting if row["kernel_id"] != kernel_id]
        served = self.serve(waiting, hold=bool(own))
        view = self._views.get(self._viewer)
        seen = [gpu for gpu in self._gpus if view is None or gpu.uuid in view]
        return [
            None
            if place_anew(size, seen, own, served) is not None
            else why_waiting(size, seen, used, len(waiting))
            for size in sizes
        ]

    def serve(self, waiting: Iterable[sqlite3.Row] | None = None, *, hold: bool = False) -> Served:
        """What comes of the queue now, or of some that wait.

        Parameters
        ----------
        hold: room is held for all of them, as from who wants more than a share that it has.
        """
        rows = self.waiting if waiting is None else waiting
        wishes = [self._wish(row) for row in rows]
        if hold:
            wishes = [replace(wish, holds=True) for wish in wishes]
        return Queue(self._gpus, wishes, self._others).serve(self._used)

    def snapshot(self) -> LedgerSnapshot | None:
        """What is held and who waits; None where nobody does."""
        if not self.waiting:
            return None
        wishes = [self._wish(row) for row in self.waiting]
        return LedgerSnapshot(
            waiting=tuple(
                Waiter(row["kernel_id"], wish.size)
                for row, wish in zip(self.waiting, wishes, strict=True)
            ),
            queue=Queue(
                self._gpus,
                [replace(wish, name=str(n)) for n, wish in enumerate(wishes)],
                self._others,
            ),
            used=self._used,
            held={
                row["kernel_id"]: self._pieces.get(row["token"], ())
                for row in self.rows
                if row["held"]
            },
            parents=self._parents,
            gpus=tuple(self._gpus),
            only=tuple(wish.only for wish in wishes),
            holds=tuple(wish.holds for wish in wishes),
            others=self._others,
        )

    def _claim(self, row: sqlite3.Row, position: int) -> Claim:
        pieces = self._pieces.get(row["token"], ())
        # Of a version before, it has to be looked up each time where its numbers mean something.
        claim = _read_again(row, pieces) if row["namespace"] else _read(row, pieces)
        if not position:
            return claim
        reason = self._reason(row, position)
        return replace(claim, position=position, of=len(self.waiting), reason=reason)

    def _reason(self, row: sqlite3.Row, position: int) -> str:
        wish = self._wish(row)
        kind = row["size"], wish.only, position > 1
        if kind not in self._reasons:
            self._reasons[kind] = why_waiting(
                wish.size, wish.among(self._gpus), self._used, position - 1
            )
        return self._reasons[kind]

    def _wish(self, row: sqlite3.Row) -> Wish:
        wish = wish_of(row, self._views)
        return wish if self._holds.get(row["token"], True) else replace(wish, holds=False)


def _read(row: sqlite3.Row, pieces: tuple[Piece, ...]) -> Claim:
    """A claim without its place in the queue."""
    kernel = Holder(row["kernel_pid"], row["kernel_start_time"]) if row["kernel_pid"] else None
    return Claim(
        token=row["token"],
        kernel_id=row["kernel_id"],
        size=size_of(row),
        holder=Holder(row["pid"], row["start_time"]),
        place=place_of(row),
        pieces=pieces,
        kernel=kernel,
        info=MappingProxyType(_info_of(row)),
    )


#: Every claim is read again and again, by one who asks for another, and few have changed since.
_read_again = lru_cache(maxsize=4096)(_read)


def dead_of(rows: Iterable[sqlite3.Row]) -> list[sqlite3.Row]:
    """Those of the claims whose processes are gone for certain.

    Of another container or machine nothing can be looked up here: its claims count as living.
    Each process and place is looked up once, and all processes of the machine are looked through
    at most once, however many claims there are.
    """
    known: dict[tuple[int, str], bool] = {}

    def alive(pid: int, start_time: str) -> bool:
        process = pid, start_time
        if process not in known:
            known[process] = Holder(pid, start_time).alive
        return known[process]

    places: dict[Any, tuple[bool, bool]] = {}
    dead, doubtful = [], []
    for row in rows:
        where = row["boot"], row["namespace"], row["host"], row["machine"]
        if where not in places or not row["namespace"]:
            place = place_of(row)
            places[where] = place.has_ended, place.is_here
        has_ended, is_here = places[where]
        if has_ended:
            dead.append(row)  # process numbers and start times begin anew with each boot
        elif not is_here or alive(row["pid"], row["start_time"]):
            continue
        elif not row["held"]:
            dead.append(row)
        elif not (row["kernel_pid"] and alive(row["kernel_pid"], row["kernel_start_time"])):
            doubtful.append(row)
    # The server may have died between the start of the kernel and its record, and the kernel may
    # have left children that still use the GPU.
    carriers = carriers_of({row["token"] for row in doubtful})
    dead += [row for row in doubtful if not carriers[row["token"]]]
    return sorted(dead, key=lambda row: int(row["arrival"]))


def place_of(row: sqlite3.Row) -> Place:
    """Where the process numbers of a row mean something.

    Servers of the version before did not note the namespace. A process that is found under such a
    number is taken for the one that is meant.
    """
    place = Place(row["boot"], row["namespace"], row["host"], row["machine"])
    if not place.namespace and place.boot == here().boot:
        processes = [(row["pid"], row["start_time"])]
        if "kernel_pid" in row.keys() and row["kernel_pid"]:  # noqa: SIM118 - not a dict
            processes.append((row["kernel_pid"], row["kernel_start_time"]))
        if any(Holder(*process).alive for process in processes):
            return here()
    return place


def size_of(row: sqlite3.Row) -> Size:
    """The size that a claim is for."""
    try:
        return _parsed(row["size"])
    except SizeError as error:
        raise _damaged() from error


def wish_of(row: sqlite3.Row, views: Views) -> Wish:
    """What a claim that waits asks for, named by its token: of the GPUs that its server sees."""
    try:
        only = frozenset(json.loads(row["only"]))
    except (ValueError, TypeError) as error:
        raise _damaged() from error
    view = views.get(row["viewer"])
    if only:
        return Wish(row["token"], size_of(row), only if view is None else only & view)
    return Wish(row["token"], size_of(row), view)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Size:
    return Size.parse(text)


def _info_of(row: sqlite3.Row) -> dict[str, Any]:
    try:
        return dict(json.loads(row["info"]))
    except (ValueError, TypeError) as error:
        raise _damaged() from error


def _damaged() -> sqlite3.DatabaseError:
    """Damage that SQLite cannot see, said like the damage that it sees."""
    return sqlite3.DatabaseError("malformed row")
