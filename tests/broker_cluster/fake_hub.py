"""A fake of the Hub's answers about tokens."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from jupyter_gpu_share.broker.cluster.callers import HubAnswer

ACCESS = "access:services!service=gpu-share"


def model(user: str, server: str | None = "", *scopes: str, **other: Any) -> dict[str, Any]:
    """What the Hub tells of a server's token; of one of no server where ``server`` is None."""
    of_server = [f"access:servers!server={user}/{server}"] if server is not None else []
    given = [ACCESS, *of_server, f"read:users:name!user={user}", *scopes]
    return {"kind": "user", "name": user, "groups": [], "scopes": given, **other}


class FakeHub:
    """Answers about the tokens that it was given; counts how often it is asked."""

    def __init__(self) -> None:
        self.tokens: dict[str, Any] = {}
        #: Instead of an answer: a status, 0 for none.
        self.trouble: int | None = None
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def user(self, token: str) -> HubAnswer:
        self.asked += 1
        await self.gate.wait()
        if self.trouble is not None:
            return HubAnswer(self.trouble, b"<html>nobody is here</html>")
        if token not in self.tokens:
            return HubAnswer(403, b'{"status": 403, "message": "Missing or invalid credentials."}')
        return HubAnswer(200, json.dumps(self.tokens[token]).encode())


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
