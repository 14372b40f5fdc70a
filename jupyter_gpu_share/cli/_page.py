"""``jupyter gpu-share page``: the machine's shares in a browser."""

from __future__ import annotations

from ._brokers import broker_socket

__all__ = ["show_page"]


async def show_page(port: int) -> int:
    """Show the page until it is interrupted.

    Raises
    ------
    EngineError: there is no broker, or the port is taken.
    """
    from ..broker.page import serve

    socket = broker_socket("there is nothing to show")

    def told(address: str) -> None:
        print(
            f"Open {address}\nWho has this address may do what you may. Ctrl+C ends it.", flush=True
        )

    await serve(socket, port, told)
    return 0
