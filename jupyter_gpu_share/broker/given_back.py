"""Kernels that live on without the share that they gave back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..engines._processes import Holder, boot_id

__all__ = ["GivenBack", "Held"]


#: Parts of a GPU that are counted. The usual sizes are whole numbers of them: 1/2 to 1/16, and
#: decimals. Others are rounded: a user can make up any number, and sums of theirs would have ever
#: longer denominators.
_PARTS = 720_720 * 10**6


@dataclass(frozen=True)
class Held:
    """A share that is held: whose it is, how much of GPUs, and whether it is used."""

    user: str
    groups: frozenset[str]
    gpus: Fraction
    idle: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "gpus", Fraction(round(self.gpus * _PARTS), _PARTS))


class GivenBack:
    """What each such kernel held, and the server that wakes it. Kernels have the ledger's names.

    That a kernel lives on is what its server says: no limit and no turn depends on it.

    Parameters
    ----------
    most: kernels of one user that are known; more are not counted.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, tuple[Held, Holder]] = {}

    @property
    def shares(self) -> Mapping[str, Held]:
        """What was held, by kernel."""
        return {name: held for name, (held, _) in self._known.items()}

    @property
    def servers(self) -> frozenset[Holder]:
        """The processes whose ends are ends of these kernels."""
        return frozenset(server for _, server in self._known.values())

    def add(self, name: str, held: Held, server: Holder) -> None:
        """A kernel has given its share back and lives on."""
        users = Counter(each.user for each in self.shares.values())
        if name in self._known or users[held.user] < self._most:
            self._known[name] = held, server

    def remove(self, names: Collection[str]) -> None:
        """These kernels hold a share again, or have ended."""
        for name in names:
            self._known.pop(name, None)

    def sweep(self) -> None:
        """Forget the kernels of servers that have ended."""
        alive = {server: server.alive for server in self.servers}
        self.remove([name for name, (_, server) in self._known.items() if not alive[server]])

    # -- kept over restarts ----------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """What :meth:`read` takes. Process numbers mean something until the machine boots."""
        rows = [
            [name, held.user, sorted(held.groups), str(held.gpus), server.pid, server.start_time]
            for name, (held, server) in self._known.items()
        ]
        return {"boot": boot_id(), "kernels": rows}

    def read(self, data: Any) -> None:
        """Go on with what :meth:`to_json` wrote, but for the kernels of servers that have ended.

        Raises
        ------
        ValueError: it is something else.
        """
        try:
            if data["boot"] != boot_id():
                return
            for name, user, groups, gpus, pid, start_time in data["kernels"]:
                held = Held(str(user), frozenset(map(str, groups)), Fraction(gpus), idle=True)
                self._known[str(name)] = held, Holder(int(pid), str(start_time))
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            self._known = {}
            raise ValueError("This is no record of kernels that gave their share back.") from error
        self.sweep()
