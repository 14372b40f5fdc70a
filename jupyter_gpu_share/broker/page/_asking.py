"""What the page asks of the broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..._threads import in_thread
from ..client import BrokerClient

__all__ = ["FIELDS", "Board", "MachineBoard", "Order", "Seen"]


@dataclass(frozen=True)
class Seen:
    """What the broker shows, as its routes ``machine``, ``details`` and ``usage`` have it.

    For an administrator ``shares`` and ``usage`` are those of all users. ``processes`` are those
    that use a GPU without a share; only administrators see them, and only on a machine.
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


class Board(Protocol):
    """Where the page's figures come from, and where its buttons lead."""

    async def look(self) -> Seen:
        """All that the broker shows to this process.

        Raises
        ------
        GpuShareError
        """

    def order(self, form: Mapping[str, str]) -> Order | None:
        """What a button asks for; None where the page has no such button.

        Parameters
        ----------
        form: the fields `FIELDS`, empty where a form has them not.
        """

    async def ask(self, wanted: Order) -> None:
        """Have the broker do it.

        Raises
        ------
        GpuShareError
        """


#: Fields of the page's forms: what is to be done, whose kernel, and which.
FIELDS = ("do", "uid", "user", "server", "kernel")


class MachineBoard:
    """The broker of this machine, which checks what it is asked.

    Parameters
    ----------
    broker: its socket.
    """

    def __init__(self, broker: Path) -> None:
        self._broker = broker

    async def look(self) -> Seen:
        """All that the broker shows to this process."""
        return await in_thread(self._look)

    def order(self, form: Mapping[str, str]) -> Order | None:
        """What a button asks for; users are told apart by their numbers."""
        do, uid, kernel = form["do"], form["uid"], form["kernel"]
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

    async def ask(self, wanted: Order) -> None:
        """Have the broker do it."""
        await in_thread(self._ask, wanted)

    def _look(self) -> Seen:
        with closing(BrokerClient(self._broker)) as client:
            machine = client.ask("GET", "/v1/machine")
            everybody = machine["you"]["administrator"]
            shares = client.ask("GET", "/v1/admin/shares" if everybody else "/v1/details")
            usage = client.ask("GET", "/v1/admin/usage" if everybody else "/v1/usage")
            processes = client.ask("GET", "/v1/admin/processes") if everybody else ()
            return Seen(machine, shares, usage, processes)

    def _ask(self, wanted: Order) -> None:
        with closing(BrokerClient(self._broker)) as client:
            client.ask(wanted.method, wanted.path, wanted.body)


def _is_plain(kernel: str) -> bool:
    """Whether an id is one part of a path. The broker takes only such ids."""
    return kernel.isascii() and all(each.isalnum() or each in "_.:-" for each in kernel)
