"""A watch of pods and nothing else: when the API server tells that one runs, whoever hears it."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from typing import Any
from urllib.parse import urlsplit


class Contender:
    """Options: ``api``, ``authority`` and ``token`` of the API server, and the ``namespace``."""

    def __init__(self, given: dict[str, Any]) -> None:
        at = urlsplit(given["api"])
        trust = ssl.create_default_context(cafile=given["authority"])
        self._connection = http.client.HTTPSConnection(str(at.hostname), at.port, context=trust)
        self._token = given["token"]
        self._path = f"/api/v1/namespaces/{given['namespace']}/pods?watch=1"
        self._heard: dict[str, float] = {}

    async def open(self) -> None:
        """Watch from now on, in a thread that ends with this process."""
        self._connection.request(
            "GET", self._path, headers={"Authorization": f"Bearer {self._token}"}
        )
        answer = self._connection.getresponse()
        assert answer.status == 200, answer.read()
        threading.Thread(target=self._read, args=(answer,), daemon=True).start()

    def _read(self, answer: http.client.HTTPResponse) -> None:
        for line in answer:
            now = time.time()
            if b'"phase":"Running"' in line:
                self._heard.setdefault(json.loads(line)["object"]["metadata"]["name"], now)

    async def heard(self) -> dict[str, float]:
        """When each pod that runs was told of first, by its name; by the wall clock."""
        return dict(self._heard)
