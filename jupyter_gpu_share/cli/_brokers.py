"""What the command asks of the machine's broker."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ._servers import aside

__all__ = ["ask_broker", "broker_socket"]


async def ask_broker(without: str, *paths: str) -> list[Any]:
    """The answers to GET requests, in their order.

    Parameters
    ----------
    without: what is so where there is no broker, as the rest of a sentence.

    Raises
    ------
    EngineError: there is none, it is away, or the caller has no right to ask that.
    """
    return await aside(_ask, without, paths)


def broker_socket(without: str) -> Path:
    """The socket of the broker that counts for servers, too; for ``without`` see above. Blocks.

    Raises
    ------
    EngineError: there is none, or the one that the environment names is away.
    """
    from ..broker.client import which_broker

    socket = which_broker()
    if socket is None:
        raise EngineError(
            f"There is no broker on this machine, and without one {without}. An administrator "
            "starts one: jupyter gpu-share broker"
        )
    return socket


def _ask(without: str, paths: tuple[str, ...]) -> list[Any]:
    from ..broker.client import BrokerClient

    with closing(BrokerClient(broker_socket(without))) as client:
        return [client.ask("GET", path) for path in paths]
