"""All kernels on this machine's GPUs, from the ledger and from the servers that run them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import GpuShareError, NoGpuError
from ._brokers import ask_broker, cluster_broker
from ._servers import aside, ask, running_servers
from ._tables import allocations_table, gpus_table, processes_table

if TYPE_CHECKING:
    from ..engines.base import Capacity
    from ..runtime import Runtime


@dataclass
class Listing:
    """What there is to show.

    Attributes
    ----------
    rows: allocations as the contract has them.
    processes: those that use a GPU without a share, as the broker tells them.
    notes: what could not be found out.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    gpus: list[Capacity] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    processes: list[dict[str, Any]] = field(default_factory=list)


async def collect(runtime: Runtime) -> Listing:
    """Ask the ledger for all kernels, and the servers for the live state of theirs."""
    found = Listing()
    rows: dict[str, dict[str, Any]] = {}
    try:
        rows = {row.kernel_id: row.to_json() for row in await runtime.machine()}
        found.gpus = await runtime.capacity()
    except NoGpuError as error:
        found.notes.append(str(error))
    for server in await aside(lambda: list(running_servers())):
        try:
            for row in await aside(ask, server, "GET", "gpu-share/allocations"):
                rows[row["kernel_id"]] = row
        except GpuShareError as error:
            found.notes.append(f"A server was left out: {error}")
    found.rows = list(rows.values())
    return found


async def collect_all() -> Listing:
    """Ask the broker for the kernels of all users.

    Raises
    ------
    EngineError: there is none, it is away, or the caller is no administrator.
    """
    from ..engines.local import everybody

    without = "nobody knows the kernels of all users"
    if cluster_broker() is not None:
        from ..engines.kubernetes import everybody as everybody_there

        rows, machine = await ask_broker(without, "/v1/admin/shares", "/v1/machine")
        there, gpus = everybody_there(rows, machine)
        return Listing([row.to_json() for row in there], gpus)
    rows, machine, processes = await ask_broker(
        without, "/v1/admin/shares", "/v1/machine", "/v1/admin/processes"
    )
    allocations, gpus = everybody(rows, machine["gpus"])
    return Listing([row.to_json() for row in allocations], gpus, processes=processes)


def draw(found: Listing) -> str:
    """As text."""
    parts = []
    if found.rows:
        parts.append(allocations_table(found.rows, found.gpus))
    else:
        parts.append("No kernel has a share of a GPU.")
    if found.gpus:
        parts += ["", gpus_table(found.gpus)]
    if found.processes:
        parts += ["", "Without a share:", processes_table(found.processes, found.gpus)]
    return "\n".join([*parts, *found.notes])
