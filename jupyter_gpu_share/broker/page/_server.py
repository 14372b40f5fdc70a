"""Shows the page on this machine alone, to who knows its secret.

It runs as the user who asked for it, and has no right that this user does not have: the broker
knows who asks, whatever a browser sends.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tornado import web

from ._asking import Board, MachineBoard, Seen
from ._handler import PageHandler
from ._html import STYLE, View
from ._listening import listen, run

__all__ = ["Secrets", "application", "serve"]


@dataclass(frozen=True)
class Secrets:
    """What only the page's own user has.

    Attributes
    ----------
    token: opens the page.
    proof: is in the page's forms, where no other page can read it.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    @property
    def proof(self) -> str:
        """Made from the token, and tells nothing of it."""
        return hmac.new(self.token.encode(), b"form", hashlib.sha256).hexdigest()


async def serve(broker: Path, port: int, told: Callable[[str], None]) -> None:
    """Show the page until SIGTERM or SIGINT.

    Parameters
    ----------
    broker: its socket.
    port: of 127.0.0.1; 0 for any that is free.
    told: called with the page's address when it can be opened.

    Raises
    ------
    EngineError: the port is taken.
    """
    listening = listen("127.0.0.1", port, "Name another with --port.")
    number = listening.getsockname()[1]
    own = Secrets()
    await run(
        application(MachineBoard(broker), number, own),
        listening,
        lambda: told(f"http://127.0.0.1:{number}/?token={own.token}"),
    )


def application(board: Board, port: int, own: Secrets) -> web.Application:
    """The page's routes."""
    given = {"board": board, "port": port, "own": own}
    return web.Application(
        [(r"/", _Page, given), (r"/do", _Do, given), (r"/style.css", _Style, given)],
        default_handler_class=_Nothing,
        default_handler_args=given,
        log_function=lambda handler: None,
    )


class _Handler(PageHandler):
    def initialize(self, board: Board, port: int, own: Secrets) -> None:
        self.board = board
        self.own = own
        # Browsers send cookies to all ports of a machine.
        self.cookie = f"gpu-share-page-{port}"
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    def prepare(self) -> None:
        # A name that somebody lets point here is another site to the browser, and to this.
        known = self.request.host in self.hosts
        if not known or not self.knows(self.get_cookie(self.cookie, ""), self.own.token):
            self.refuse(403, "Open the page by the address that the command printed.")

    def knows(self, sent: str | None, right: str) -> bool:
        """Whether a secret was sent."""
        return hmac.compare_digest((sent or "").encode(), right.encode())

    def view(self, seen: Seen, now: datetime, notice: str) -> View:
        return View(
            seen.machine,
            seen.shares,
            seen.usage,
            now,
            self.own.proof,
            notice,
            seen.processes,
        )


class _Nothing(_Handler):
    def prepare(self) -> None:
        self.refuse(404, "There is nothing at this address.")


class _Style(_Handler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/css; charset=utf-8")
        self.finish(STYLE)


class _Page(_Handler):
    def prepare(self) -> None:
        if self.request.host in self.hosts and self.knows(
            self.get_query_argument("token", ""), self.own.token
        ):
            self.set_cookie(self.cookie, self.own.token, path="/", httponly=True, samesite="Strict")
            self.redirect("/", status=303)  # the secret does not stay in the address
            return
        super().prepare()

    async def get(self) -> None:
        await self.show()


class _Do(_Handler):
    async def post(self) -> None:
        if self.knows(self.get_body_argument("proof", ""), self.own.proof):
            await self.press()
        else:
            self.refuse(403, "This did not come from the page; open it again.")
