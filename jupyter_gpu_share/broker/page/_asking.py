"""What the page asks of the broker, which checks it. Blocking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..client import BrokerClient

__all__ = ["Order", "Seen", "ask", "look", "order"]


@dataclass(frozen=True)
class Seen:
    """What the broker shows, as its routes ``machine``, ``details`` and ``usage`` have it.

    For an administrator ``shares`` and ``usage`` are those of all users. ``processes`` are those
    that use a GPU without a share; only administrators see them.
    """

    machine: Mapping[str, Any]
    shares: Sequence[Mapping[str, Any]]
    usage: Sequence[Mapping[str, Any]]
    processes: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Order:
    """A request to the broker that changes something."""

    method: str
    path: str
    body: Any


def look(broker: Path) -> Seen:
    """All that the broker shows to this process.

    Raises
    ------
    BrokerAway, BrokerRefused
    """
    with closing(BrokerClient(broker)) as client:
        machine = client.ask("GET", "/v1/machine")
        everybody = machine["you"]["administrator"]
        shares = client.ask("GET", "/v1/admin/shares" if everybody else "/v1/details")
        usage = client.ask("GET", "/v1/admin/usage" if everybody else "/v1/usage")
        processes = client.ask("GET", "/v1/admin/processes") if everybody else ()
        return Seen(machine, shares, usage, processes)


def ask(broker: Path, wanted: Order) -> None:
    """Have the broker do it.

    Raises
    ------
    BrokerAway, BrokerRefused
    """
    with closing(BrokerClient(broker)) as client:
        client.ask(wanted.method, wanted.path, wanted.body)


def order(do: str, uid: str, kernel: str) -> Order | None:
    """What a button asks for; None where the page has no such button."""
    if do in ("pause", "resume"):
        return Order("PUT", "/v1/admin/pause", {"paused": do == "pause"})
    if not (uid.isascii() and uid.isdecimal()) or not kernel or not _is_plain(kernel):
        return None
    share = f"/v1/admin/shares/{uid}/{kernel}"
    orders = {
        "end": Order("DELETE", share, None),
        "release": Order("POST", f"{share}/release", {}),
    }
    return orders.get(do)


def _is_plain(kernel: str) -> bool:
    """Whether an id is one part of a path. The broker takes only such ids."""
    return kernel.isascii() and all(each.isalnum() or each in "_.:-" for each in kernel)
