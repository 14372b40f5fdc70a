"""What the command asks of the broker: the machine's, or that of the cluster that is named."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..errors import EngineError
from ._servers import aside

__all__ = ["ask_broker", "broker_socket", "cluster_broker"]


async def ask_broker(without: str, *paths: str) -> list[Any]:
    """The answers to GET requests, in their order.

    Parameters
    ----------
    without: what is so where there is no broker, as the rest of a sentence.

    Raises
    ------
    EngineError: there is none, it is away, or the caller has no right to ask that.
    """
    if (url := cluster_broker()) is not None:
        return await _ask_cluster(url, paths)
    return await aside(_ask, without, paths)


def cluster_broker() -> str | None:
    """The address of the broker of a cluster, where the environment names one.

    Raises
    ------
    EngineError: what it names is no such address.
    """
    from ..engines import usual_engine

    if usual_engine() == "local":  # without what only the other needs
        return None
    try:
        from ..broker.http_client import broker_url
    except ImportError as error:
        raise EngineError(
            "The broker of a cluster is asked with more packages: pip install "
            "'jupyter-gpu-share[kubernetes]'."
        ) from error
    return broker_url()


async def _ask_cluster(url: str, paths: tuple[str, ...]) -> list[Any]:
    from ..broker.http_client import HttpBroker, token_of

    broker = HttpBroker(url, token_of(), uuid4().hex)
    try:
        return [await broker.ask("GET", path) for path in paths]
    finally:
        await broker.close()


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
