"""The ledger: who holds how much of which GPU, and who waits, for all servers of a machine.

It is a SQLite file. Each method is one transaction, so whoever dies at any instant leaves it whole.
What a dead process held is found by :meth:`Ledger.sweep` and is free again.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from ...errors import LedgerError
from ...size import Size
from .._places import here
from .._processes import Holder
from ..idle_shares import AskedBack, IdleShare
from ..user_limits import UserLimit
from . import _views
from ._contents import Claim, Contents, Holding, LedgerSnapshot, dead_of, place_of
from ._gpu import Gpu
from ._ledger_file import connect, file_identity, in_words
from ._placement import Piece, place_anew
from ._tables import TablesReader, gpus_of

__all__ = ["Claim", "Ledger", "claim_is_gone"]

_log = logging.getLogger(__name__)

#: Columns of a claim that are written anew into a ledger that took the place of the old one.
_COLUMNS = (
    "token, kernel_id, size, held, boot, pid, start_time, kernel_pid, kernel_start_time, info, "
    "since, only, namespace, host, machine, viewer"
)


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
        self._gpus: tuple[Gpu, ...] | None = None
        self._others: Mapping[str, int] = {}
        #: Names what is written here: servers of one ledger may see different GPUs.
        self._viewer = uuid4().hex
        #: Claims that were made here, with their pieces, as they were when this last wrote, and the
        #: GPUs of these, of which some may be lost.
        self._own: list[tuple[sqlite3.Row, tuple[Piece, ...]]] = []
        self._own_gpus: list[Gpu] = []
        self._file: tuple[int, int] | None = None
        self._seen = -1
        with self._errors():
            self._open()

    def close(self) -> None:
        """Let go of the file. What is held stays held while its holders live."""
        with suppress(sqlite3.Error):  # else it is done once this process has ended
            self._db.execute("PRAGMA busy_timeout = 100")
            with self._atomic():
                _views.forget(self._db, self._viewer)
        self._db.close()

    # -- GPUs --------------------------------------------------------------------------------

    def set_gpus(self, gpus: Sequence[Gpu]) -> None:
        """Say which GPUs this server sees now.

        Others may see more, or fewer, as in a container: a GPU is present while a living server
        sees it. One that is gone stays until its claims end.
        """
        self._gpus = tuple(gpus)
        with self._transaction():
            _views.write(self._db, self._viewer, self._gpus, self._others)

    def set_others(self, others: Mapping[str, int]) -> None:
        """Say how many bytes of each GPU are used without a share: no server gives that out."""
        self._others = dict(others)
        if self._gpus is not None:
            with self._transaction():
                _views.write(self._db, self._viewer, self._gpus, self._others)

    def gpus(self) -> list[Gpu]:
        """The GPUs that are present."""
        with self._reading():
            return [gpu for gpu, present in gpus_of(self._db) if present]

    def used(self) -> dict[str, int]:
        """Bytes held, by uuid."""
        with self._reading():
            rows = self._db.execute("SELECT uuid, sum(memory_bytes) FROM pieces GROUP BY uuid")
            return dict(rows.fetchall())

    @property
    def counts_others(self) -> bool:
        """Whether it has to be told what is used without a share."""
        return True

    def holdings(self) -> dict[str, Holding]:
        """What is taken of each GPU that is present, by uuid; the dead hold nothing."""
        with self._errors():
            return self._living().holdings()

    def user_limits(self) -> Sequence[UserLimit]:
        """None: only a broker has limits of users."""
        return ()

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
                    "UPDATE claims SET boot = ?, namespace = ?, host = ?, machine = ?, pid = ?, "
                    "start_time = ?, viewer = ?, kernel_pid = NULL, kernel_start_time = NULL, "
                    "info = ? WHERE token = ?",
                    (*self._whose(holder), json.dumps(dict(info)), old["token"]),
                )
                self._grant()
                return self._only(self._claims_of({kernel_id}), kernel_id)
            pieces: tuple[Piece, ...] | None = () if size.is_none else None
            own = self._pieces(old["token"]) if old is not None else ()
            if old is not None and old["held"] and not size.is_none:
                seen = [gpu for gpu in self._seen_here() if not only or gpu.uuid in only]
                served = self._contents().serve(hold=True)
                pieces = place_anew(size, seen, own, served)
            if old is not None:
                self._remove(old["token"])
            token = token or uuid4().hex
            self._db.execute(
                "INSERT INTO claims (token, kernel_id, size, held, boot, namespace, host, machine, "
                "pid, start_time, viewer, info, since, only) "
                "VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    token,
                    kernel_id,
                    str(size),
                    *self._whose(holder),
                    json.dumps(dict(info)),
                    _now(),
                    json.dumps(sorted(only)),
                ),
            )
            if pieces is not None:
                self._hold(token, pieces)
            self._grant()
            if pieces is not None:
                self._grown(token, own, pieces)
            return self._only(self._claims_of({kernel_id}), kernel_id)

    def turn(self, kernel_id: str) -> Claim:
        """Look whether a waiting claim holds its share now."""
        return self._only(self.turns({kernel_id}), kernel_id)

    def turns(self, kernel_ids: Collection[str]) -> dict[str, Claim]:
        """Grant what can be granted, and say where these kernels stand now, by kernel id.

        One whose claim is gone is left out.
        """
        with self._transaction():
            self._sweep()
            self._grant()
            return self._claims_of(kernel_ids)

    def fits(self, kernel_id: str | None, size: Size) -> str | None:
        """None where the size could be held at once, else why not.

        What the kernel itself holds counts as free.
        """
        return self.fits_each(kernel_id, [size])[0]

    def fits_each(self, kernel_id: str | None, sizes: Sequence[Size]) -> list[str | None]:
        """The same for several sizes, seen at one moment."""
        with self._errors():
            return self._living().fits(kernel_id, sizes)

    def change(
        self,
        kernel_id: str,
        size: Size,
        info: Mapping[str, Any] | None = None,
        *,
        dry: bool = False,
    ) -> Claim | None:
        """Hold another size on the GPUs of a claim that is held; None where they have no room.

        Nothing is changed if ``dry``, or without room. Room that somebody waits for is theirs.

        Parameters
        ----------
        info: what others are told about the kernel then; None: what they are told now.
        """
        with self._transaction():
            self._sweep()
            row = self._find(kernel_id)
            if row is None or not row["held"]:
                raise claim_is_gone()
            pieces = self._pieces(row["token"])
            own = {piece.uuid for piece in pieces}
            there = [gpu for gpu in self.gpus() if gpu.uuid in own]
            new = place_anew(size, there, pieces, self._contents().serve(hold=True))
            if new is None or {piece.uuid for piece in new} != own:
                return None
            if dry:
                return self._only(self._claims_of({kernel_id}), kernel_id)
            self._db.execute(
                "UPDATE claims SET size = ?, info = ? WHERE token = ?",
                (str(size), row["info"] if info is None else json.dumps(dict(info)), row["token"]),
            )
            # Made anew: pieces do not change. The kernel counts its GPUs in the order of the old.
            self._db.execute("DELETE FROM pieces WHERE token = ?", (row["token"],))
            by_uuid = {piece.uuid: piece for piece in new}
            self._hold(row["token"], [by_uuid[piece.uuid] for piece in pieces])
            self._grant()
            self._grown(row["token"], pieces, new)
            return self._only(self._claims_of({kernel_id}), kernel_id)

    def record_kernel(self, kernel_id: str, process: Holder) -> None:
        """Note the process that uses the share, so that it outlives the server's."""
        with self._transaction():
            done = self._db.execute(
                "UPDATE claims SET kernel_pid = ?, kernel_start_time = ? WHERE kernel_id = ?",
                (process.pid, process.start_time, kernel_id),
            )
            if not done.rowcount:
                raise claim_is_gone()

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

    def give_back(self, kernel_id: str) -> bool:
        """Release the share of a kernel that lives on without it. Only a broker counts that."""
        return self.release(kernel_id)

    def sweep(self) -> list[str]:
        """Free what the dead held; the ids of their kernels."""
        with self._transaction():
            freed = self._sweep()
            if freed:
                self._grant()
            return freed

    def claims(self) -> list[Claim]:
        """All claims in the order of arrival, those of the dead too."""
        with self._errors():
            return self._look().claims()

    def living(self) -> list[Claim]:
        """The claims of the living, in the order of arrival; what the dead held is free then."""
        with self._errors():
            return self._living().claims()

    def snapshot(self) -> LedgerSnapshot | None:
        """What the living hold and wait for at one moment; None where nobody waits."""
        with self._errors():
            return self._living().snapshot()

    def wanted(self, idle: Mapping[str, IdleShare]) -> Mapping[str, AskedBack] | None:
        """None: each server decides for itself, by :meth:`snapshot`, whose idle share goes."""
        return None

    def has_dead(self) -> bool:
        """Whether there are claims for :meth:`sweep` to free. Cheap; it writes nothing."""
        with self._errors():
            return bool(dead_of(self._look().rows))

    def follow(self) -> None:
        """Write this server's claims again where somebody removed the file. Cheap."""
        with self._reading():
            pass

    def changed(self) -> bool:
        """Whether another connection wrote since this was last asked. Cheap."""
        with self._reading():
            version = int(self._db.execute("PRAGMA data_version").fetchone()[0])
        changed, self._seen = version != self._seen, version
        return changed

    # -- inside a transaction ----------------------------------------------------------------

    def _whose(self, holder: Holder) -> tuple[str | int, ...]:
        """Boot, namespace, host, machine, number, start time, and viewer."""
        return (*_views.whose(holder), self._viewer)

    def _seen_here(self) -> list[Gpu]:
        """The GPUs that are present and that this server sees."""
        if self._gpus is None:
            return self.gpus()
        own = {gpu.uuid for gpu in self._gpus}
        return [gpu for gpu in self.gpus() if gpu.uuid in own]

    def _sweep(self) -> list[str]:
        rows = self._tables.read().rows
        for row in rows:
            if not row["namespace"] and place_of(row).is_here:  # of the version before
                place = here()
                self._db.execute(
                    "UPDATE claims SET namespace = ?, host = ?, machine = ? WHERE token = ?",
                    (place.namespace, place.host, place.machine, row["token"]),
                )
        dead = dead_of(rows)
        for row in dead:
            self._remove(row["token"])
        _views.sweep(self._db)
        return [row["kernel_id"] for row in dead]

    def _grant(self) -> None:
        if self._waiting():
            contents = self._contents()
            granted = contents.serve().granted
            for token, pieces in granted.items():
                self._hold(token, pieces)
            self._served([row["token"] for row in contents.waiting], granted)

    def _grown(self, token: str, before: Sequence[Piece], now: tuple[Piece, ...]) -> None:
        """One that holds a share holds another in its place; who waits still was passed by more."""
        if sum(each.memory_bytes for each in now) > sum(each.memory_bytes for each in before):
            self._served([*(row["token"] for row in self._waiting()), token], {token: now})

    def _line(self, rows: Sequence[sqlite3.Row], gpus: Sequence[Gpu]) -> Mapping[str, bool] | None:
        """Tokens of those that wait in the order in which they are served, and whether room is held
        for each. None: in the order of arrival, and for all."""
        return None

    def _served(self, line: Sequence[str], granted: Mapping[str, tuple[Piece, ...]]) -> None:
        """Those of a line that got something, by token."""

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
        return {piece.uuid for piece in self._pieces(token)} <= {
            gpu.uuid for gpu in self._seen_here()
        }

    def _pieces(self, token: str) -> tuple[Piece, ...]:
        rows = self._db.execute(
            "SELECT uuid, memory_bytes FROM pieces WHERE token = ? ORDER BY place", (token,)
        )
        return tuple(Piece(*row) for row in rows.fetchall())

    def _claims_of(self, kernel_ids: Collection[str]) -> dict[str, Claim]:
        return {claim.kernel_id: claim for claim in self._contents().claims(kernel_ids)}

    @staticmethod
    def _only(claims: Mapping[str, Claim], kernel_id: str) -> Claim:
        if kernel_id not in claims:
            raise claim_is_gone()
        return claims[kernel_id]

    # -- the whole of it ---------------------------------------------------------------------

    def _contents(self) -> Contents:
        """All there is. Inside a transaction: it is of one moment."""
        tables = self._tables.read()
        gpus = [gpu for gpu, present in tables.gpus if present]
        return Contents(
            gpus,
            tables.rows,
            tables.pieces,
            tables.views,
            self._viewer,
            tables.others,
            {gpu.uuid: gpu.parent for gpu, _ in tables.gpus},
            self._line(tables.rows, gpus),
        )

    def _look(self) -> Contents:
        """The same in a transaction that only reads."""
        self._follow()
        with self._atomic("DEFERRED"):
            return self._contents()

    def _living(self) -> Contents:
        """The same once what the dead held is free. Written is only where there are any."""
        contents = self._look()
        if not dead_of(contents.rows):
            return contents
        self.sweep()
        return self._look()

    # -- the file ----------------------------------------------------------------------------

    def _open(self) -> None:
        # Looked up first, so that a file that takes its place in between is noticed later. One that
        # is only made now is opened once more at the first use.
        identity = file_identity(self._path)
        self._db = connect(self._path, self._timeout)
        self._tables = TablesReader(self._db)
        if self._gpus is not None:
            with self._atomic():
                _views.write(self._db, self._viewer, self._gpus, self._others)
                self._write_own()
        self._file = identity

    def _note_own(self) -> None:
        """Keep in mind what this server's kernels hold and wait for."""
        tables = self._tables.read()
        self._own = [
            (row, tables.pieces.get(row["token"], ()))
            for row in tables.rows
            if row["viewer"] == self._viewer
        ]
        held = {piece.uuid for _, pieces in self._own for piece in pieces}
        self._own_gpus = [gpu for gpu, _ in tables.gpus if gpu.uuid in held]

    def _write_own(self) -> None:
        """Write the claims of this server into a file that took the place of the one they were in.

        Its kernels run. A share that others have got there meanwhile is not theirs any more.
        """
        _views.remember(self._db, self._own_gpus)
        for row, pieces in self._own:
            if self._find(row["kernel_id"]) is not None:
                continue
            self._db.execute("SAVEPOINT claim")
            try:
                names = _COLUMNS.split(", ")
                self._db.execute(
                    f"INSERT INTO claims ({_COLUMNS}) VALUES ({', '.join('?' * len(names))})",  # noqa: S608
                    [row[name] for name in names],
                )
                if row["held"]:
                    self._hold(row["token"], pieces)
            except sqlite3.IntegrityError:
                self._db.execute("ROLLBACK TO claim")
                _log.error(
                    "The ledger %s was removed while kernels ran, and the share of kernel %s has "
                    "been given to others since: restart that kernel",
                    self._path,
                    row["kernel_id"],
                )
            self._db.execute("RELEASE claim")

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
                self._note_own()

    @contextmanager
    def _atomic(self, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Iterator[None]:
        self._db.execute(f"BEGIN {kind}")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._tables.forget()
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


def claim_is_gone() -> LedgerError:
    """What somebody reads whose claim was removed from the ledger."""
    return LedgerError(
        "The kernel's claim is gone from the ledger: somebody removed it. Start it again."
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
