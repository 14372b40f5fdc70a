"""Where the shares of this machine are kept, found out once by each engine."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ...broker.client import BrokerClient, which_broker

__all__ = ["Home", "find_home"]


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

    Who simulates GPUs other than the broker's has nothing to do with it. Which broker counts, see
    :func:`which_broker <jupyter_gpu_share.broker.client.which_broker>`.

    Parameters
    ----------
    simulate: what this server was told to simulate; empty: nothing.

    Raises
    ------
    BrokerAway: there is one, and it does not answer now. That is no reason to do without it.
    EngineError
    """
    path = which_broker()
    if path is None:
        return Home(None, simulate)
    with closing(BrokerClient(path)) as client:
        told = client.ask("GET", "/v1/machine")
    simulation = str(told["simulation"])
    if simulate and simulate != simulation:
        return Home(None, simulate)
    return Home(path, simulation, str(told["you"]["user"]))
