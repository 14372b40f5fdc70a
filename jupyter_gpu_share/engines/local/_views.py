"""Which GPUs the servers of one ledger see. All functions are for inside of a transaction.

A server in a container may see fewer than others. A GPU is present while a living server sees it,
and nobody is given one that its server does not see.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from .._places import here
from .._processes import Holder, this_process
from ._contents import Views, place_of
from ._gpu import Gpu

__all__ = ["forget", "read", "remember", "sweep", "whose", "write"]

#: Stands for no GPU, so that a server that sees none is not taken for one that has said nothing.
_NO_GPU = ""


def whose(holder: Holder) -> tuple[str | int, ...]:
    """Boot, namespace, host, machine, number and start time of a process of this place."""
    place = here()
    where = place.boot, place.namespace, place.host, place.machine
    return (*where, holder.pid, holder.start_time)


def read(db: sqlite3.Connection) -> tuple[Views, dict[str, int]]:
    """What all servers see that have said it, and bytes by uuid that are used without a share.

    Of these it is the most that a server says. One in a container knows of less: it cannot tell
    what kernels use from what they hold.
    """
    views: dict[str, set[str]] = {}
    others: dict[str, int] = {}
    for viewer, uuid, used in db.execute("SELECT viewer, uuid, others FROM views"):
        views.setdefault(viewer, set()).add(uuid)
        if used > others.get(uuid, 0):
            others[uuid] = used
    return {viewer: frozenset(uuids - {_NO_GPU}) for viewer, uuids in views.items()}, others


def write(
    db: sqlite3.Connection, viewer: str, gpus: Sequence[Gpu], used: Mapping[str, int]
) -> None:
    """Note what a server of this process sees now, and what is used of it without a share."""
    forget(db, viewer)
    db.executemany(
        "INSERT INTO views (viewer, uuid, others, boot, namespace, host, machine, pid, start_time) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (viewer, uuid, used.get(uuid, 0), *whose(this_process()))
            for uuid in (_NO_GPU, *(gpu.uuid for gpu in gpus))
        ],
    )
    db.executemany(
        "INSERT INTO gpus VALUES (?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT (uuid) DO UPDATE "
        "SET model = excluded.model, position = excluded.position, present = 1, "
        "memory_bytes = excluded.memory_bytes, profile = excluded.profile, "
        "parent = excluded.parent",
        [_columns(gpu) for gpu in gpus],
    )
    _find_present(db)


def remember(db: sqlite3.Connection, gpus: Sequence[Gpu]) -> None:
    """Note GPUs that no server may see any more: kernels hold something of them."""
    db.executemany(
        "INSERT OR IGNORE INTO gpus VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
        [_columns(gpu) for gpu in gpus],
    )


def sweep(db: sqlite3.Connection) -> None:
    """Forget what servers saw that are gone for certain."""
    gone = []
    for row in db.execute("SELECT * FROM views GROUP BY viewer").fetchall():
        place, process = place_of(row), Holder(row["pid"], row["start_time"])
        if place.has_ended or (place.is_here and not process.alive):
            gone.append(row["viewer"])
    for viewer in gone:
        forget(db, viewer)
    if gone:
        _find_present(db)


def forget(db: sqlite3.Connection, viewer: str) -> None:
    """Forget what a server saw."""
    db.execute("DELETE FROM views WHERE viewer = ?", (viewer,))


def _find_present(db: sqlite3.Connection) -> None:
    db.execute("UPDATE gpus SET present = uuid IN (SELECT uuid FROM views)")


def _columns(gpu: Gpu) -> tuple[str | int | None, ...]:
    """What the table of GPUs has of one, but for whether it is present."""
    return (
        gpu.uuid,
        gpu.model,
        gpu.index,
        gpu.memory_bytes,
        gpu.profile,
        gpu.parent,
        gpu.simulated,
    )
