"""A plain watch of pods beside the broker's, which does nothing but read.

A thread reads what comes, and notes when; what it says is understood at the end. What is late here
the API server has sent late. Where it ends the watch, this goes on where it was, as all clients do.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

_PIECE, _TAIL = 2**18, 2**18
_PAUSE = 0.5
_RUNS = b'"phase":"Running"'
_VERSION = re.compile(rb'"resourceVersion":"(\d+)"')


class Contender:
    """Options: ``api``, ``authority`` and ``token`` of the API server, and the ``namespace``."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._over = False
        self._pieces: list[tuple[float, bytes]] = []
        self._watches = 0
        self._thread = threading.Thread(target=self._read, name="plain watch", daemon=True)

    async def open(self) -> None:
        """Begin to read."""
        self._thread.start()

    async def close(self) -> dict[str, Any]:
        """End it.

        Returns
        -------
        ``runs``: when it was heard that each pod runs, by the wall clock. ``watches``: how many it
        took.
        """
        self._over = True
        self._thread.join()
        found: dict[str, float] = {}
        rest = b""
        for at, piece in self._pieces:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if _RUNS in line:
                    with suppress(ValueError, KeyError):  # half a line, where a watch was ended
                        found.setdefault(json.loads(line)["object"]["metadata"]["name"], at)
        return {"runs": found, "watches": self._watches}

    def _read(self) -> None:
        position = ""
        while not self._over:
            self._watches += 1
            with suppress(OSError):
                position = self._watch(position) or position
            self._pieces.append((time.time(), b"\n"))

    def _watch(self, position: str) -> str:
        """Read until the watch ends; the position of the next."""
        given = self._given
        where = urlsplit(given["api"])
        path = f"/api/v1/namespaces/{given['namespace']}/pods?watch=1&timeoutSeconds=3600"
        if position:
            path += f"&resourceVersion={position}"
        tls = ssl.create_default_context(cafile=given["authority"])
        tail = b""
        plain = socket.create_connection((where.hostname or "", where.port or 443))
        with tls.wrap_socket(plain, server_hostname=where.hostname) as line:
            # HTTP/1.0 knows no chunks: what comes are the lines themselves.
            asked = f"GET {path} HTTP/1.0\r\nAuthorization: Bearer {given['token']}\r\n\r\n"
            line.sendall(asked.encode())
            line.settimeout(_PAUSE)
            while not self._over:
                try:
                    piece = line.recv(_PIECE)
                except TimeoutError:
                    continue
                if not piece:
                    break
                self._pieces.append((time.time(), piece))
                tail = (tail + piece)[-_TAIL:]
        versions = _VERSION.findall(tail[: tail.rfind(b"\n") + 1])
        return versions[-1].decode() if versions else ""
