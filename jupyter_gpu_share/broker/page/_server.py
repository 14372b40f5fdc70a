"""Shows the page on this machine alone, to who knows its secret.

It runs as the user who asked for it, and has no right that this user does not have: the broker
knows who asks, whatever a browser sends.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tornado import web
from tornado.httpserver import HTTPServer

from ..._threads import in_thread
from ...errors import EngineError, GpuShareError
from ..client import BrokerClient
from ._html import STYLE, View, document

__all__ = ["Secrets", "application", "serve"]

_log = logging.getLogger(__name__)

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_MAX_BODY = 16 * 1024


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
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise EngineError(
            f"The page cannot use port {port}: {error.strerror}. Name another with --port."
        ) from error
    number = listening.getsockname()[1]
    own = Secrets()
    server = HTTPServer(application(broker, number, own), max_body_size=_MAX_BODY)
    server.add_socket(listening)
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, over.set)
    try:
        told(f"http://127.0.0.1:{number}/?token={own.token}")
        await over.wait()
    finally:
        server.stop()
        await server.close_all_connections()


def application(broker: Path, port: int, own: Secrets) -> web.Application:
    """The page's routes."""
    given = {"broker": broker, "port": port, "own": own}
    return web.Application(
        [(r"/", _Page, given), (r"/do", _Do, given), (r"/style.css", _Style, given)],
        default_handler_class=_Nothing,
        default_handler_args=given,
        log_function=lambda handler: None,
    )


class _Handler(web.RequestHandler):
    def initialize(self, broker: Path, port: int, own: Secrets) -> None:
        self.broker = broker
        self.own = own
        # Browsers send cookies to all ports of a machine.
        self.cookie = f"gpu-share-page-{port}"
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    def set_default_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        # A name that somebody lets point here is another site to the browser, and to this.
        known = self.request.host in self.hosts
        if not known or not self.knows(self.get_cookie(self.cookie, ""), self.own.token):
            self.refuse(403, "Open the page by the address that the command printed.")

    def knows(self, sent: str | None, right: str) -> bool:
        """Whether a secret was sent."""
        return hmac.compare_digest((sent or "").encode(), right.encode())

    def refuse(self, status: int, line: str) -> None:
        """Answer with one line of text, and go no further."""
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(line + "\n")

    def log_exception(self, *args: Any) -> None:
        """Called by tornado: what a browser does wrong is nothing to log."""
        if not isinstance(args[1], web.HTTPError):
            _log.error("A request failed", exc_info=args[1])

    async def show(self, notice: str = "", status: int = 200) -> None:
        """Answer with the page as it is now."""
        try:
            machine, shares, usage, processes = await in_thread(_look, self.broker)
        except GpuShareError as error:
            self.refuse(503, str(error))
            return
        now = datetime.now().astimezone()
        self.set_status(status)
        view = View(machine, shares, usage, now, self.own.proof, notice, processes)
        self.finish(document(view))


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
        if not self.knows(self.get_body_argument("proof", ""), self.own.proof):
            self.refuse(403, "This did not come from the page; open it again.")
            return
        do = self.get_body_argument("do", "")
        uid, kernel = self.get_body_argument("uid", ""), self.get_body_argument("kernel", "")
        request = _request(do, uid, kernel)
        if request is None:
            self.refuse(400, "The page has no such button.")
            return
        try:
            await in_thread(_ask, self.broker, *request)
        except GpuShareError as error:
            await self.show(str(error), 409)
            return
        self.redirect("/", status=303)


def _request(do: str, uid: str, kernel: str) -> tuple[str, str, Any] | None:
    """What a button asks of the broker, which checks it."""
    if do in ("pause", "resume"):
        return "PUT", "/v1/admin/pause", {"paused": do == "pause"}
    if not (uid.isascii() and uid.isdecimal()) or not kernel or not _is_plain(kernel):
        return None
    share = f"/v1/admin/shares/{uid}/{kernel}"
    orders: Mapping[str, tuple[str, str, Any]] = {
        "end": ("DELETE", share, None),
        "release": ("POST", f"{share}/release", {}),
    }
    return orders.get(do)


def _is_plain(kernel: str) -> bool:
    """Whether an id is one part of a path. The broker takes only such ids."""
    return kernel.isascii() and all(each.isalnum() or each in "_.:-" for each in kernel)


def _look(broker: Path) -> tuple[Any, Any, Any, Any]:
    with closing(BrokerClient(broker)) as client:
        machine = client.ask("GET", "/v1/machine")
        everybody = machine["you"]["administrator"]
        shares = client.ask("GET", "/v1/admin/shares" if everybody else "/v1/details")
        usage = client.ask("GET", "/v1/admin/usage" if everybody else "/v1/usage")
        processes = client.ask("GET", "/v1/admin/processes") if everybody else ()
        return machine, shares, usage, processes


def _ask(broker: Path, method: str, path: str, body: Any) -> None:
    with closing(BrokerClient(broker)) as client:
        client.ask(method, path, body)
