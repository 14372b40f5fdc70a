"""The administrator's limits as they stand for the one whose server this is. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .._text import moment_in, number_in
from ..allocations import timestamp

__all__ = ["RESOURCES", "UserLimit", "limits_from_json"]

#: Of what there are limits.
RESOURCES = ("gpus", "memory_bytes", "kernels", "gpu_hours")
_SCOPES = ("user", "group", "total")
#: So many are taken of an answer: more than a person reads.
_MOST = 50
_LONGEST_NAME = 200


@dataclass(frozen=True)
class UserLimit:
    """One limit, and how much of it is taken.

    Attributes
    ----------
    resource: one of :data:`RESOURCES`.
    scope: whose it is: the ``user``'s own, that of all members of a ``group`` together, or the
        ``total`` of everybody.
    group: its name; None for the other scopes.
    window_days: days up to now for which GPU-hours count; None for what is held now.
    limit, held: in GPUs, bytes, kernels or GPU-hours. What waits counts as what is held.
    free_at: when a window that is used up has room again if nothing is used until then, aware;
        None where it has room, or that is not known.
    """

    resource: str
    scope: str
    group: str | None
    window_days: float | None
    limit: float
    held: float
    free_at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """As the broker and REST tell it."""
        return {**vars(self), "free_at": timestamp(self.free_at)}


def limits_from_json(told: Any) -> tuple[UserLimit, ...]:
    """What a broker tells of limits.

    Entries that make no sense here are left out: they are of another version, and what is shown
    decides nothing.
    """
    return tuple(_read(told)) if isinstance(told, list) else ()


def _read(rows: list[Any]) -> Iterator[UserLimit]:
    for row in rows[:_MOST]:
        try:
            found = UserLimit(
                resource=str(row["resource"]),
                scope=str(row["scope"]),
                group=None if row["group"] is None else str(row["group"])[:_LONGEST_NAME],
                window_days=None if row["window_days"] is None else _amount(row["window_days"]),
                limit=_amount(row["limit"]),
                held=_amount(row["held"]),
                free_at=None if row["free_at"] is None else moment_in(row["free_at"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        hours = found.resource == "gpu_hours"
        if (
            found.resource in RESOURCES
            and found.scope in _SCOPES
            and (found.group is not None) == (found.scope == "group")
            and (found.window_days is not None) == hours
        ):
            yield found


def _amount(value: Any) -> float:
    found = float(number_in(value))
    if found < 0:
        raise ValueError("no amount")
    return found
