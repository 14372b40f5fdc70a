"""The rows of the ledger's tables, read again only after somebody has written to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import _views
from ._contents import Views
from ._gpu import Gpu
from ._placement import Piece

__all__ = ["Tables", "TablesReader", "gpus_of"]


@dataclass(frozen=True)
class Tables:
    """All that the ledger holds at one moment.

    Attributes
    ----------
    gpus: all that ever were here, and whether they are.
    rows: of the table of claims, in the order of arrival.
    pieces: by the claims' token, in their order.
    views, others: see :class:`Contents <jupyter_gpu_share.engines.local._contents.Contents>`.
    """

    gpus: Sequence[tuple[Gpu, bool]]
    rows: Sequence[sqlite3.Row]
    pieces: Mapping[str, tuple[Piece, ...]]
    views: Views
    others: Mapping[str, int]


class TablesReader:
    """Reads the tables through one connection, each time inside a transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._known: tuple[tuple[int, int], Tables] | None = None

    def read(self) -> Tables:
        """The same object for as long as neither this connection nor another has written."""
        version: int = self._db.execute("PRAGMA main.data_version").fetchone()[0]
        state = self._db.total_changes, version
        if self._known is None or self._known[0] != state:
            self._known = state, self._read()
        return self._known[1]

    def forget(self) -> None:
        """Read anew the next time: what was written is undone, and no count tells of that."""
        self._known = None

    def _read(self) -> Tables:
        pieces: dict[str, list[Piece]] = {}
        for token, uuid, amount in self._db.execute(
            "SELECT token, uuid, memory_bytes FROM pieces ORDER BY token, place"
        ):
            pieces.setdefault(token, []).append(Piece(uuid, amount))
        rows = self._db.execute("SELECT * FROM claims ORDER BY arrival").fetchall()
        views, others = _views.read(self._db)
        held = {token: tuple(found) for token, found in pieces.items()}
        return Tables(gpus_of(self._db), rows, held, views, others)


def gpus_of(db: sqlite3.Connection) -> list[tuple[Gpu, bool]]:
    """All GPUs that ever were here, and whether they are."""
    rows = db.execute("SELECT * FROM gpus ORDER BY position, uuid").fetchall()
    return [
        (
            Gpu(
                uuid=row["uuid"],
                model=row["model"],
                index=row["position"],
                memory_bytes=row["memory_bytes"],
                profile=row["profile"],
                parent=row["parent"],
                simulated=bool(row["simulated"]),
            ),
            bool(row["present"]),
        )
        for row in rows
    ]
