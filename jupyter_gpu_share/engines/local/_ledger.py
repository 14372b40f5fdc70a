"""The ledger: who holds how much of which GPU, and who waits, for all servers of a machine.

It is a SQLite file. Each method is one transaction, so whoever dies at any instant leaves it whole.
What a dead process held is found by :meth:`Ledger.sweep` and is free again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

from ...errors import LedgerError, SizeError
from ...size import Size
from .._processes import Holder, boot_id, carriers
from ._gpu import Gpu
from ._ledger_file import connect, file_identity, in_words
from ._placement import Piece, Wish, grants, place, why_waiting

__all__ = ["Claim", "Ledger"]


@dataclass(frozen=True)
class Claim:
    """What a kernel holds or waits for.

    Attributes
    ----------
    pieces: empty while it waits.
    position, of: place in the queue from 1; 0 where it holds.
    reason: a sentence about what it waits for.
    holder: the server; ``kernel``: the kernel's process, once it is known.
    """

    token: str
    kernel_id: str
    size: Size
    holder: Holder
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


class Ledger:
    """One connection to the ledger, for one thread.

    Parameters
    ----------
    path: of the file. It and its folder are made, open to this user only, where they are not
        there; in a folder that a group may write, the group may write the file too.
    timeout: seconds to wait while other processes write.

    Raises
    ------
    LedgerError: from every method, where the file cannot be used.
    """

    def __init__(self, path: Path, *, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout
        self._gpus: tuple[Gpu, ...] = ()
        self._file: tuple[int, int] | None = None
        self._seen = -1
        with self._errors():
            self._open()

    def close(self) -> None:
        """Let go of the file. What is held stays held while its holders live."""
        self._db.close()

    # -- GPUs --------------------------------------------------------------------------------

    def set_gpus(self, gpus: Sequence[Gpu]) -> None:
        """Say what this machine has now. A GPU that is gone stays until its claims end."""
        self._gpus = tuple(gpus)
        with self._transaction():
            self._write_gpus()

    def gpus(self) -> list[Gpu]:
        """The GPUs that are present."""
        with self._reading():
            rows = self._db.execute(
                "SELECT uuid, model, position, memory_bytes, profile, parent, simulated "
                "FROM gpus WHERE present ORDER BY position, uuid"
            ).fetchall()
        return [
            Gpu(
                uuid=row["uuid"],
                model=row["model"],
                index=row["position"],
                memory_bytes=row["memory_bytes"],
                profile=row["profile"],
                parent=row["parent"],
                simulated=bool(row["simulated"]),
            )
            for row in rows
        ]

    def used(self) -> dict[str, int]:
        """Bytes held, by uuid."""
        with self._reading():
            rows = self._db.execute("SELECT uuid, sum(memory_bytes) FROM pieces GROUP BY uuid")
            return dict(rows.fetchall())

    # -- claims ------------------------------------------------------------------------------

    def claim(
        self,
        kernel_id: str,
        size: Size,
        holder: Holder,
        info: Mapping[str, Any],
        *,
        token: str = "",
        only: Collection[str] = (),
    ) -> Claim:
        """Ask for a share: held at once where it is the claim's turn, else waiting in the queue.

        A kernel that has asked for this size already keeps its pieces, or its place in the queue.
        One that holds another size swaps in one step where the new one fits, and otherwise waits
        without its old share.

        Parameters
        ----------
        token: that a running kernel has in its environment already; else a new one is made.
        only: uuids of the only GPUs that will do; empty: any.
        """
        with self._transaction():
            self._sweep()
            old = self._find(kernel_id)
            if old is not None and old["size"] == str(size) and self._all_present(old["token"]):
                self._db.execute(
                    "UPDATE claims SET boot = ?, pid = ?, start_time = ?, kernel_pid = NULL, "
                    "kernel_start_time = NULL, info = ? WHERE token = ?",
                    (
                        boot_id(),
                        holder.pid,
                        holder.start_time,
                        json.dumps(dict(info)),
                        old["token"],
                    ),
                )
                self._grant()
                return self._claim_of(kernel_id)
            swapped = old is not None and bool(old["held"])
            if old is not None:
                self._remove(old["token"])
            token = token or uuid4().hex
            self._db.execute(
                "INSERT INTO claims (token, kernel_id, size, held, boot, pid, start_time, "
                "info, since, only) VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?, ?)",
                (
                    token,
                    kernel_id,
                    str(size),
                    boot_id(),
                    holder.pid,
                    holder.start_time,
                    json.dumps(dict(info)),
                    _now(),
                    json.dumps(sorted(only)),
                ),
            )
            if size.is_none:
                self._hold(token, ())
            elif swapped and (pieces := place(size, self.gpus(), self.used())) is not None:
                self._hold(token, pieces)
            self._grant()
            return self._claim_of(kernel_id)

    def turn(self, kernel_id: str) -> Claim:
        """Look whether a waiting claim holds its share now."""
        with self._transaction():
            self._sweep()
            self._grant()
            return self._claim_of(kernel_id)

    def fits(self, kernel_id: str | None, size: Size) -> str | None:
        """None where the size could be held at once, else why not.

        What the kernel itself holds counts as free.
        """
        with self._transaction():
            self._sweep()
            gpus, used = self.gpus(), self.used()
            own = self._find(kernel_id) if kernel_id else None
            for piece in self._pieces(own["token"]) if own is not None else ():
                used[piece.uuid] -= piece.memory_bytes
            waiting = [_wish_of(row) for row in self._waiting() if row["kernel_id"] != kernel_id]
            if own is not None and own["held"]:
                free = place(size, gpus, used) is not None
            else:
                free = "?" in grants(gpus, used, [*waiting, Wish("?", size)])
            return None if free else why_waiting(size, gpus, used, len(waiting))

    def change(
        self,
        kernel_id: str,
        size: Size,
        info: Mapping[str, Any] | None = None,
        *,
        dry: bool = False,
    ) -> Claim | None:
        """Hold another size on the GPUs of a claim that is held; None where they have no room.

        Nothing is changed if ``dry``, or without room.

        Parameters
        ----------
        info: what others are told about the kernel then; None: what they are told now.
        """
        with self._transaction():
            self._sweep()
            row = self._find(kernel_id)
            if row is None or not row["held"]:
                raise _gone()
            pieces = self._pieces(row["token"])
            used = self.used()
            for piece in pieces:
                used[piece.uuid] -= piece.memory_bytes
            own = {piece.uuid for piece in pieces}
            new = place(size, [gpu for gpu in self.gpus() if gpu.uuid in own], used)
            if new is None or {piece.uuid for piece in new} != own:
                return None
            if dry:
                return self._claim_of(kernel_id)
            self._db.execute(
                "UPDATE claims SET size = ?, info = ? WHERE token = ?",
                (str(size), row["info"] if info is None else json.dumps(dict(info)), row["token"]),
            )
            # Made anew: pieces do not change. The kernel counts its GPUs in the order of the old.
            self._db.execute("DELETE FROM pieces WHERE token = ?", (row["token"],))
            by_uuid = {piece.uuid: piece for piece in new}
            self._hold(row["token"], [by_uuid[piece.uuid] for piece in pieces])
            self._grant()
            return self._claim_of(kernel_id)

    def record_kernel(self, kernel_id: str, process: Holder) -> None:
        """Note the process that uses the share, so that it outlives the server's."""
        with self._transaction():
            done = self._db.execute(
                "UPDATE claims SET kernel_pid = ?, kernel_start_time = ? WHERE kernel_id = ?",
                (process.pid, process.start_time, kernel_id),
            )
            if not done.rowcount:
                raise _gone()

    def set_info(self, kernel_id: str, info: Mapping[str, Any]) -> None:
        """Change what others are told about the kernel."""
        with self._transaction():
            self._db.execute(
                "UPDATE claims SET info = ? WHERE kernel_id = ?",
                (json.dumps(dict(info)), kernel_id),
            )

    def release(self, kernel_id: str) -> bool:
        """Give a share back, or leave the queue. False where there was neither."""
        with self._transaction():
            row = self._find(kernel_id)
            if row is None:
                return False
            self._remove(row["token"])
            self._grant()
            return True

    def sweep(self) -> list[str]:
        """Free what the dead held; the ids of their kernels."""
        with self._transaction():
            freed = self._sweep()
            if freed:
                self._grant()
            return freed

    def claims(self) -> list[Claim]:
        """All claims in the order of arrival."""
        with self._transaction():
            rows = self._db.execute("SELECT kernel_id FROM claims ORDER BY arrival").fetchall()
            return [self._claim_of(row["kernel_id"]) for row in rows]

    def changed(self) -> bool:
        """Whether another connection wrote since this was last asked. Cheap."""
        with self._reading():
            version = int(self._db.execute("PRAGMA data_version").fetchone()[0])
        changed, self._seen = version != self._seen, version
        return changed

    # -- inside a transaction ----------------------------------------------------------------

    def _write_gpus(self) -> None:
        self._db.execute("UPDATE gpus SET present = 0")
        self._db.executemany(
            "INSERT INTO gpus VALUES (?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT (uuid) DO UPDATE "
            "SET model = excluded.model, position = excluded.position, present = 1, "
            "memory_bytes = excluded.memory_bytes, profile = excluded.profile, "
            "parent = excluded.parent",
            [
                (g.uuid, g.model, g.index, g.memory_bytes, g.profile, g.parent, g.simulated)
                for g in self._gpus
            ],
        )

    def _sweep(self) -> list[str]:
        rows = self._db.execute("SELECT * FROM claims").fetchall()
        dead = [row for row in rows if not _alive(row)]
        for row in dead:
            self._remove(row["token"])
        return [row["kernel_id"] for row in dead]

    def _grant(self) -> None:
        waiting = [_wish_of(row) for row in self._waiting()]
        if waiting:
            for token, pieces in grants(self.gpus(), self.used(), waiting).items():
                self._hold(token, pieces)

    def _hold(self, token: str, pieces: Sequence[Piece]) -> None:
        self._db.execute("UPDATE claims SET held = 1 WHERE token = ?", (token,))
        self._db.executemany(
            "INSERT INTO pieces VALUES (?, ?, ?, ?)",
            [(token, n, piece.uuid, piece.memory_bytes) for n, piece in enumerate(pieces)],
        )

    def _remove(self, token: str) -> None:
        self._db.execute("DELETE FROM claims WHERE token = ?", (token,))

    def _find(self, kernel_id: str) -> sqlite3.Row | None:
        query = "SELECT * FROM claims WHERE kernel_id = ?"
        row: sqlite3.Row | None = self._db.execute(query, (kernel_id,)).fetchone()
        return row

    def _waiting(self) -> list[sqlite3.Row]:
        return self._db.execute("SELECT * FROM claims WHERE NOT held ORDER BY arrival").fetchall()

    def _all_present(self, token: str) -> bool:
        """False where a GPU that is held has left the machine, as by a change of MIG."""
        return {piece.uuid for piece in self._pieces(token)} <= {gpu.uuid for gpu in self.gpus()}

    def _pieces(self, token: str) -> tuple[Piece, ...]:
        rows = self._db.execute(
            "SELECT uuid, memory_bytes FROM pieces WHERE token = ? ORDER BY place", (token,)
        )
        return tuple(Piece(*row) for row in rows.fetchall())

    def _claim_of(self, kernel_id: str) -> Claim:
        row = self._find(kernel_id)
        if row is None:
            raise _gone()
        position = of = 0
        reason = ""
        size = _size_of(row)
        if not row["held"]:
            queue = [waiting["token"] for waiting in self._waiting()]
            position, of = queue.index(row["token"]) + 1, len(queue)
            gpus = _wish_of(row).among(self.gpus())
            reason = why_waiting(size, gpus, self.used(), position - 1)
        kernel = Holder(row["kernel_pid"], row["kernel_start_time"]) if row["kernel_pid"] else None
        return Claim(
            token=row["token"],
            kernel_id=kernel_id,
            size=size,
            holder=Holder(row["pid"], row["start_time"]),
            pieces=self._pieces(row["token"]),
            position=position,
            of=of,
            reason=reason,
            kernel=kernel,
            info=_info_of(row),
        )

    # -- the file ----------------------------------------------------------------------------

    def _open(self) -> None:
        # Looked up first, so that a file that takes its place in between is noticed later. One that
        # is only made now is opened once more at the first use.
        identity = file_identity(self._path)
        self._db = connect(self._path, self._timeout)
        if self._gpus:
            with self._atomic():
                self._write_gpus()
        self._file = identity

    def _follow(self) -> None:
        """Open the file anew where somebody removed or replaced it, as a damaged one has to be.

        Without this a server that runs would go on with the old file, and grant what others hold
        in the new one.
        """
        if self._file is None or file_identity(self._path) != self._file:
            self._db.close()
            self._file, self._seen = None, -1
            self._open()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._follow()
            with self._atomic():
                yield

    @contextmanager
    def _atomic(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._errors():
            if not self._db.in_transaction:
                self._follow()
            yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(in_words(error, self._path)) from error


def _alive(row: sqlite3.Row) -> bool:
    if row["boot"] != boot_id():
        return False  # process numbers and start times begin anew with each boot
    if Holder(row["pid"], row["start_time"]).alive:
        return True
    if not row["held"]:
        return False
    if row["kernel_pid"] and Holder(row["kernel_pid"], row["kernel_start_time"]).alive:
        return True
    # The server may have died between the start of the kernel and its record, and the kernel may
    # have left children that still use the GPU.
    return bool(carriers(row["token"]))


def _size_of(row: sqlite3.Row) -> Size:
    try:
        return Size.parse(row["size"])
    except SizeError as error:
        raise _damaged() from error


def _wish_of(row: sqlite3.Row) -> Wish:
    try:
        return Wish(row["token"], _size_of(row), frozenset(json.loads(row["only"])))
    except (ValueError, TypeError) as error:
        raise _damaged() from error


def _info_of(row: sqlite3.Row) -> dict[str, Any]:
    try:
        return dict(json.loads(row["info"]))
    except (ValueError, TypeError) as error:
        raise _damaged() from error


def _gone() -> LedgerError:
    return LedgerError(
        "The kernel's claim is gone from the ledger: somebody removed it. Start it again."
    )


def _damaged() -> sqlite3.DatabaseError:
    """Damage that SQLite cannot see, said like the damage that it sees."""
    return sqlite3.DatabaseError("malformed row")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
