"""Claims as JSON, between a broker and the servers of users."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from ...sentences import heard, told
from ...size import Size
from .._places import here
from .._processes import Holder
from ..base import Waiter
from ..idle_shares import IdleShare
from ._contents import Claim, Holding, LedgerSnapshot
from ._gpu import Gpu
from ._placement import Piece, Queue, Wish

__all__ = [
    "claim_from_json",
    "claim_to_json",
    "gpu_from_json",
    "gpu_to_json",
    "holding_from_json",
    "idle_from_json",
    "idle_to_json",
    "snapshot_from_json",
    "snapshot_to_json",
]


def claim_to_json(claim: Claim, kernel_id: str) -> dict[str, Any]:
    """A claim for its holder; ``kernel_id`` as the holder knows it. Its token is left out."""
    return {
        "kernel_id": kernel_id,
        "size": str(claim.size),
        "state": "held" if claim.held else "waiting",
        "pieces": [vars(piece) for piece in claim.pieces],
        "queue": {"position": claim.position, "of": claim.of},
        **told("reason", claim.reason),
        "pid": claim.holder.pid,
        "kernel_pid": claim.kernel.pid if claim.kernel else None,
        "info": dict(claim.info),
    }


def claim_from_json(row: Mapping[str, Any]) -> Claim:
    """The same as its holder reads it. Process numbers are the broker's."""
    pid = row["kernel_pid"]
    return Claim(
        token=str(row.get("token", "")),
        kernel_id=str(row["kernel_id"]),
        size=Size.parse(row["size"]),
        holder=Holder(int(row["pid"]), ""),
        place=here(),
        pieces=_pieces(row["pieces"]),
        position=int(row["queue"]["position"]),
        of=int(row["queue"]["of"]),
        reason=heard(row, "reason"),
        kernel=Holder(int(pid), "") if pid is not None else None,
        info=dict(row["info"]),
    )


def gpu_to_json(gpu: Gpu) -> dict[str, Any]:
    """A GPU."""
    return {name: getattr(gpu, name) for name in _GPU}


def gpu_from_json(row: Mapping[str, Any]) -> Gpu:
    """The same read again."""
    return Gpu(**{name: row[name] for name in _GPU})


def holding_from_json(row: Mapping[str, Any]) -> Holding:
    """What is held of a GPU. A broker of an older version does not say what is free."""
    held, other = int(row["held_bytes"]), int(row["other_bytes"])
    free = int(row.get("free_bytes", max(0, int(row["memory_bytes"]) - held - other)))
    return Holding(held, int(row["kernels"]), other, free)


def idle_to_json(share: IdleShare, now: datetime) -> dict[str, Any]:
    """An idle share. Clocks are not compared: times are seconds from now."""
    keep = share.keep_until
    return {
        "idle_seconds": (now - share.since).total_seconds(),
        "keep_seconds": None if keep is None else max((keep - now).total_seconds(), 0.0),
        "kept": share.kept,
        "leaving": share.leaving,
        "size": None if share.size is None else str(share.size),
    }


def idle_from_json(row: Any, now: datetime) -> IdleShare:
    """The same read again. Servers of the version before tell the seconds without use alone.

    Raises
    ------
    ValueError, SizeError: it is something else.
    """
    data = row if isinstance(row, Mapping) else {"idle_seconds": row}
    if not data.keys() <= _IDLE:
        raise ValueError("The field kernels has a field that is not known.")
    kept, leaving = data.get("kept", True), data.get("leaving", False)
    if {type(kept), type(leaving)} != {bool}:
        raise ValueError("The field kernels has what is neither true nor false.")
    keep, size = data.get("keep_seconds"), data.get("size")
    if not isinstance(size, str | None):
        raise ValueError("The field kernels has what is no size.")  # noqa: TRY004 - as the others
    return IdleShare(
        since=now - _span(data.get("idle_seconds")),
        keep_until=None if keep is None else now + _span(keep),
        kept=kept,
        leaving=leaving,
        size=None if size is None else Size.parse(size),
    )


def snapshot_to_json(
    snapshot: LedgerSnapshot | None, own: Mapping[str, str]
) -> dict[str, Any] | None:
    """Who waits, for one user: of others it says what they wait for, and not who they are.

    Parameters
    ----------
    own: the user's kernels: ids as the user knows them by those of the ledger.
    """
    if snapshot is None:
        return None
    return {
        "gpus": [gpu_to_json(gpu) for gpu in snapshot.gpus],
        "waiting": [
            {
                "kernel_id": own.get(waiter.kernel_id or ""),
                "size": str(waiter.size),
                "only": None if only is None else sorted(only),
                "holds": holds,
            }
            for waiter, only, holds in zip(
                snapshot.waiting, snapshot.only, snapshot.holds, strict=True
            )
        ],
        "used": dict(snapshot.used),
        "others": dict(snapshot.others),
        "parents": dict(snapshot.parents),
        "held": {
            own[name]: [vars(piece) for piece in pieces]
            for name, pieces in snapshot.held.items()
            if name in own
        },
    }


def snapshot_from_json(data: Mapping[str, Any] | None) -> LedgerSnapshot | None:
    """The same read again."""
    if data is None:
        return None
    gpus = tuple(gpu_from_json(row) for row in data["gpus"])
    wishes = [
        Wish(str(n), Size.parse(row["size"]), _only(row["only"]), bool(row.get("holds", True)))
        for n, row in enumerate(data["waiting"])
    ]
    others = dict(data["others"])
    return LedgerSnapshot(
        waiting=tuple(
            Waiter(row["kernel_id"], wish.size)
            for row, wish in zip(data["waiting"], wishes, strict=True)
        ),
        queue=Queue(gpus, wishes, others),
        used=dict(data["used"]),
        held={name: _pieces(pieces) for name, pieces in data["held"].items()},
        parents=dict(data["parents"]),
        gpus=gpus,
        only=tuple(wish.only for wish in wishes),
        holds=tuple(wish.holds for wish in wishes),
        others=others,
    )


_IDLE = frozenset({"idle_seconds", "keep_seconds", "kept", "leaving", "size"})
#: Seconds: more is as good as for ever, and no date goes over.
_LONGEST = 1e9
_GPU = ("uuid", "model", "index", "memory_bytes", "profile", "parent", "simulated")


def _span(seconds: Any) -> timedelta:
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    # A whole number may be too large to become a float, and compares with one all the same.
    if not number or not -math.inf < seconds < math.inf:
        raise ValueError("The field kernels has what is no number of seconds.")
    return timedelta(seconds=min(max(seconds, 0), _LONGEST))


def _only(names: Any) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def _pieces(rows: Any) -> tuple[Piece, ...]:
    return tuple(Piece(str(row["uuid"]), int(row["memory_bytes"])) for row in rows)
