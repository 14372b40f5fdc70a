"""What was promised of idle shares, and to whom, as it is told. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from ..engines.local._contents import Claim
from .idle import GRACE, IdleShares

__all__ = ["own_view", "promised"]


def promised(
    claim: Claim, idle: IdleShares, claims: Collection[Claim], uid: int | None = None
) -> dict[str, Any]:
    """The fields ``keep_until``, ``promise`` and ``room_at`` of a claim.

    Parameters
    ----------
    claims: of all users.
    uid: of the user who is told; of others they hear no name. None: an administrator.
    """
    promise = idle.promises.get(claim.kernel_id)
    found: dict[str, Any] = {
        "keep_until": _text(idle.kept_until(claim.kernel_id)),
        "promise": None,
        "room_at": _text(_room_at(claim.kernel_id, idle)),
    }
    if promise is not None:
        found["promise"] = {
            "asked": _text(promise.asked),
            "due": _text(promise.due),
            "taken": _text(promise.due + GRACE),
            "for": [_waiter(each) for each in claims if each.kernel_id in promise.to],
        }
    return found if uid is None else own_view(found, uid)


def own_view(row: Mapping[str, Any], uid: int) -> dict[str, Any]:
    """A claim with its promise, without the names of other users and of their notebooks."""
    promise = row["promise"]
    if promise is None:
        return dict(row)
    waiting = [
        each if each["uid"] == uid else {**dict.fromkeys(each), "size": each["size"]}
        for each in promise["for"]
    ]
    return {**row, "promise": {**promise, "for": waiting}}


def _waiter(claim: Claim) -> dict[str, Any]:
    uid, _, kernel_id = claim.kernel_id.partition("/")
    return {
        "uid": int(uid),
        "user": claim.info.get("user"),
        "kernel_id": kernel_id,
        "path": claim.info.get("path"),
        "size": str(claim.size),
    }


def _room_at(name: str, idle: IdleShares) -> datetime | None:
    """When the last share is due that is promised to one that waits."""
    return max((each.due for each in idle.promises.values() if name in each.to), default=None)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
