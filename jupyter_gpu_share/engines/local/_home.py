"""Where the shares of this machine are kept, found out once by each engine."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...broker.client import BROKER, DEFAULT_SOCKET, BrokerClient, find_broker

__all__ = ["Home", "find_home"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Home:
    """Who keeps the shares.

    Attributes
    ----------
    broker: socket of the machine's broker; None where the user's own servers keep a ledger.
    simulation: describes the GPUs to simulate; empty for real ones.
    user: as the broker knows this process.
    """

    broker: Path | None
    simulation: str
    user: str = ""


def find_home(simulate: str) -> Home:
    """The machine's broker where there is one, else the user's own ledger. Blocks.

    Who simulates GPUs other than the broker's has nothing to do with it. The environment may name
    another broker, but none that shares out real GPUs where the machine has one at its usual place:
    they would be given out twice.

    Parameters
    ----------
    simulate: what this server was told to simulate; empty: nothing.

    Raises
    ------
    BrokerAway: there is one, and it does not answer now. That is no reason to do without it.
    EngineError
    """
    path = find_broker()
    if path is None:
        return Home(None, simulate)
    told = _ask(path)
    usual = Path(DEFAULT_SOCKET)
    if not told["simulation"] and path != usual and usual.exists():
        _log.warning("%s names %s, but this machine's broker is on %s.", BROKER, path, usual)
        path, told = usual, _ask(usual)
    simulation = str(told["simulation"])
    if simulate and simulate != simulation:
        return Home(None, simulate)
    return Home(path, simulation, str(told["you"]["user"]))


def _ask(path: Path) -> Any:
    """What a broker tells of its machine and of who asks."""
    with closing(BrokerClient(path)) as client:
        return client.ask("GET", "/v1/machine")
