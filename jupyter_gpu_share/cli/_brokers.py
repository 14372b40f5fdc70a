"""What the command asks of the machine's broker."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from ..errors import EngineError
from ._servers import aside

__all__ = ["ask_broker"]


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


def _ask(without: str, paths: tuple[str, ...]) -> list[Any]:
    from ..broker.client import BrokerClient, find_broker

    socket = find_broker()
    if socket is None:
        raise EngineError(
            f"There is no broker on this machine, and without one {without}. An administrator "
            "starts one: jupyter gpu-share broker"
        )
    with closing(BrokerClient(socket)) as client:
        return [client.ask("GET", path) for path in paths]
