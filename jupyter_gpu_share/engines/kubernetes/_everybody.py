"""What the broker of a cluster tells an administrator, as the contract shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...allocations import Allocation, QueuePosition, State
from ...errors import EngineError
from ..base import Capacity
from ._machine import Machine
from ._row import share_of

__all__ = ["everybody"]


def everybody(
    rows: Sequence[Mapping[str, Any]], machine: Any
) -> tuple[list[Allocation], list[Capacity]]:
    """The kernels of all users, and the GPUs with what is free of each.

    Parameters
    ----------
    rows: as ``/v1/admin/shares`` has them, ``machine`` as ``/v1/machine`` has it.

    Raises
    ------
    EngineError: they make no sense.
    """
    told = Machine.read(machine)
    try:
        return [_allocation(row, told) for row in rows], list(told.gpus)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(
            "What the broker of this cluster tells of kernels makes no sense; its version may be "
            "another. `jupyter gpu-share doctor` says which."
        ) from error


def _allocation(row: Mapping[str, Any], machine: Machine) -> Allocation:
    info, queue, idle = row["info"], row.get("queue") or {}, row.get("idle_seconds")
    waits = row["state"] == "waiting"
    states = {
        "waiting": State.QUEUED,
        "lent": State.RELEASED,
        "held": State.ACTIVE if idle is None else State.IDLE,
    }
    server = str(row.get("server") or "")
    return Allocation(
        kernel_id=str(row["kernel_id"]),
        kernel_name=str(info.get("kernel_name") or ""),
        path=info.get("path") or None,
        # As the Hub's own addresses name a server.
        user=f"{row['user']}/{server}" if server else str(row["user"]),
        size=str(row["size"]),
        state=states[row["state"]],
        reason=str(row.get("reason") or ""),
        share=share_of(row.get("share")),
        queue=QueuePosition(int(queue["position"]), int(queue["of"])) if waits and queue else None,
        engine="kubernetes",
        backend=machine.backend,
        style=machine.style,
    )
