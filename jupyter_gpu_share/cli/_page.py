"""``jupyter gpu-share page``: the machine's shares in a browser."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ..errors import EngineError
from ._brokers import broker_socket, cluster_broker
from ._servers import aside

__all__ = ["serve_hub", "show_page"]


async def show_page(port: int) -> int:
    """Show the page until it is interrupted.

    Raises
    ------
    EngineError: there is no broker, it is that of a cluster, or the port is taken.
    """
    from ..broker.page import serve

    if cluster_broker() is not None:
        raise EngineError(
            "The broker of a cluster shows its page at the Hub: open /services/gpu-share/ below "
            "the Hub's address, or find it there under Services."
        )
    socket = await aside(broker_socket, "there is nothing to show")

    def told(address: str) -> None:
        print(
            f"Open {address}\nWho has this address may do what you may. Ctrl+C ends it.", flush=True
        )

    await serve(socket, port, told)
    return 0


async def serve_hub(account: str) -> int:
    """Show the page as a service of the Hub that started it, until it is told to end.

    Raises
    ------
    EngineError: no Hub has started it, or the page cannot listen.
    """
    from ..broker.client import DEFAULT_SOCKET, BrokerAway, find_broker, which_broker
    from ..broker.hub import Service, serve

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    # JupyterHub's part tells of each visit there.
    logging.getLogger("tornado").setLevel(logging.ERROR)
    service = Service.of(os.environ)
    # A service that ends is started again at once: where there is no broker, the page says so.
    try:
        socket = await aside(which_broker)
    except BrokerAway:
        socket = find_broker()
    await serve(socket or Path(DEFAULT_SOCKET), service, account)
    return 0
