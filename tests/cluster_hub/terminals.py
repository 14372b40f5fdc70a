"""A terminal of a user's server: what its user types there, and what they see."""

from __future__ import annotations

import json
import sys
from typing import Any
from uuid import uuid4

import websocket
from machines import COMMAND
from servers import Server, until
from waiting import PATIENCE


class Terminal:
    """Runs programs as the user of a server, in a terminal that Jupyter opens."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def run(self, code: str, patience: float = 2 * PATIENCE) -> str:
        """All that a program of Python wrote, with the variables that terminals have."""
        server, mark = self.server, uuid4().hex
        text = {"type": "file", "format": "text", "content": code}
        server.ok(f"api/contents/{mark}.py", "PUT", text)
        name = server.ok("api/terminals", "POST", {})["name"]
        url = server.url.replace("http", "ws", 1) + f"terminals/websocket/{name}"
        socket = websocket.create_connection(
            url, header=[f"Authorization: token {server.token}"], timeout=PATIENCE
        )
        try:
            line = f"cd; {sys.executable} {mark}.py > {mark}.new 2>&1; mv {mark}.new {mark}.txt\n"
            socket.send(json.dumps(["stdin", line]))

            def told() -> str | None:
                status, found = server.fetch(f"api/contents/{mark}.txt?type=file&format=text")
                return str(found["content"]) + "\n" if status == 200 else None

            return str(until(told, f"the terminal runs {code!r}", patience)).rstrip("\n")
        finally:
            socket.close()
            server.fetch(f"api/terminals/{name}", "DELETE")

    def tell(self, code: str) -> Any:
        """What such a program wrote as JSON on its last line."""
        told = self.run(code)
        try:
            return json.loads(told.splitlines()[-1])
        except (ValueError, IndexError):
            raise AssertionError(told) from None

    def command(self, *words: str) -> tuple[int, str]:
        """Exit status and output of ``jupyter gpu-share``, typed there with these words."""
        code = (
            "import json, subprocess\n"
            f"done = subprocess.run({[*COMMAND, *words]!r}, text=True, capture_output=True)\n"
            "print(json.dumps([done.returncode, done.stdout + done.stderr]))"
        )
        status, text = self.tell(code)
        return status, text
