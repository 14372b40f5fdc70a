"""Runs cells in kernels in pods without a Jupyter server between."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_client import AsyncKernelClient
from waiting import PATIENCE

from jupyter_gpu_share.engines.base import Running


class _Client(AsyncKernelClient):
    async def _async_is_alive(self) -> bool:
        return True


async def printed(running: Running, code: str) -> str:
    """Run a cell; what it printed."""
    wire, client, said = running.connection, _Client(), []
    assert wire.curve_publickey is not None
    assert wire.curve_secretkey is not None
    info: dict[str, Any] = {f"{channel}_port": port for channel, port in wire.ports.items()}
    client.load_connection_info(
        info
        | {
            "transport": "tcp",
            "ip": wire.ip,
            "key": wire.key,
            "signature_scheme": wire.signature_scheme,
            "curve_publickey": wire.curve_publickey.encode(),
            "curve_secretkey": wire.curve_secretkey.encode(),
        }
    )
    client.start_channels(hb=False)
    try:
        await client.wait_for_ready(timeout=2 * PATIENCE)

        def take(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                said.append(message["content"]["text"])

        running_cell = client.execute_interactive(code, output_hook=take)
        await asyncio.wait_for(running_cell, 2 * PATIENCE)
    finally:
        client.stop_channels()
    return "".join(said).strip()
