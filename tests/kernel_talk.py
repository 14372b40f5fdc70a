"""Cells that are run in a kernel by its connection alone, without a manager."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_client import AsyncKernelClient

from jupyter_gpu_share.engines.base import Connection

__all__ = ["printed"]


class _Client(AsyncKernelClient):
    async def _async_is_alive(self) -> bool:
        return True


async def printed(wire: Connection, code: str, patience: float = 60.0) -> str:
    """Run a cell; what it printed."""
    client, said = _Client(), []
    assert wire.curve_publickey is not None
    assert wire.curve_secretkey is not None
    info: dict[str, Any] = {f"{channel}_port": port for channel, port in wire.ports.items()}
    info |= {"transport": "tcp", "ip": wire.ip, "key": wire.key}
    info |= {"signature_scheme": wire.signature_scheme}
    info |= {"curve_publickey": wire.curve_publickey.encode()}
    info |= {"curve_secretkey": wire.curve_secretkey.encode()}
    client.load_connection_info(info)
    client.start_channels(hb=False)
    try:
        await client.wait_for_ready(timeout=patience)

        def take(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                said.append(message["content"]["text"])

        await asyncio.wait_for(client.execute_interactive(code, output_hook=take), patience)
    finally:
        client.stop_channels()
    return "".join(said).strip()
