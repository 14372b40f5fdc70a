"""The page's routes, with the Hub's login.

To the broker this process is an administrator, so what a visitor sees and may do is decided here.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from html import escape
from typing import Any, Protocol, TypeVar

from jupyterhub.services.auth import HubOAuthCallbackHandler, HubOAuthenticated
from tornado import web

from ...errors import EngineError
from ..page import STYLE, Board, Frame, MachineBoard, PageHandler, Seen, View, headers
from ..promised import own_view
from ._visitors import HubAway, Visitor, Visitors

__all__ = ["HubBoard", "MachineHubBoard", "application", "own_part", "page_routes"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: Requests of one visitor for which the broker is asked at once. To it, all are this process's.
_AT_ONCE = 4
#: For the Hub's style sheet and logo.
_LOADED = "img-src 'self' data:; font-src 'self'; "
#: After the Hub's style sheet and the page's own. The Hub's scripts, which make its pages dark, are
#: not here: the colours are those of the browser.
_STYLE = """
body { background: Canvas; color: CanvasText; margin: 0 auto; padding: 0; }
a, caption { color: inherit; }
caption { caption-side: top; }
main { padding: 0 1rem 1rem; }
.navbar { border-bottom: 1px solid #8888; gap: 1rem; justify-content: flex-start;
  margin-bottom: 1rem; padding: .5rem 1rem; }
.navbar img { height: 28px; }
.navbar .who { margin-left: auto; }
@media (prefers-color-scheme: dark) {
  .navbar img { background: #fff; border-radius: .25rem; padding: 0 .3rem; }
}
"""


class HubBoard(Board, Protocol):
    """Where the page's figures come from; to it, this process is an administrator."""

    def why_not(self, visitor: Visitor) -> str:
        """Why the page has nothing for a visitor; empty where it has."""

    def own_part(self, seen: Seen, visitor: Visitor) -> Seen:
        """What of all that is shown is for a visitor.

        Raises
        ------
        GpuShareError: it is not shown to this process.
        """


class MachineHubBoard(MachineBoard):
    """The broker of this machine, for users of a Hub that has its users."""

    def why_not(self, visitor: Visitor) -> str:
        """Why the page has nothing for a visitor; empty where it has."""
        if visitor.uid is None and not visitor.administrator:
            return f"This machine has no user {visitor.user}, so you have no shares."
        return ""

    def own_part(self, seen: Seen, visitor: Visitor) -> Seen:
        """What of all that is shown is for a visitor."""
        return own_part(seen, visitor)


def application(board: HubBoard, auth: Any, visitors: Visitors) -> web.Application:
    """The page's routes, for a process of its own; parameters as those of `page_routes`."""
    at = auth.base_url.rstrip("/")
    return web.Application(
        [
            (at + path, handler, given)
            for path, handler, given in page_routes(board, auth, visitors)
        ],
        cookie_secret=secrets.token_bytes(32),
        log_function=lambda handler: None,
    )


def page_routes(
    board: HubBoard, auth: Any, visitors: Visitors
) -> list[tuple[str, type[web.RequestHandler], dict[str, Any]]]:
    """The page's paths below the service's, with their handlers.

    Parameters
    ----------
    auth: a ``HubOAuth`` that knows where the service is.
    visitors: who they are, as ``auth`` says.
    """
    known = {"auth": auth}
    given = {**known, "board": board, "visitors": visitors, "under_way": Counter()}
    return [
        # Who writes the address by hand leaves the slash out, and the Hub's proxy lets it pass.
        ("", web.RedirectHandler, {"url": auth.base_url, "permanent": False}),
        ("/", _Page, given),
        ("/do", _Do, given),
        ("/style.css", _Style, {}),
        ("/oauth_callback", _Callback, known),
    ]


def own_part(seen: Seen, visitor: Visitor) -> Seen:
    """What of all that the broker shows is for a visitor.

    Raises
    ------
    EngineError: the broker does not show it to this process.
    """
    if not seen.machine["you"]["administrator"]:
        raise EngineError(
            f"The page runs as {seen.machine['you']['user']}, who is no administrator of the "
            "broker: have the Hub run it as root or as a member of c.Broker.administrators."
        )
    you = {"uid": visitor.uid, "user": visitor.user, "administrator": visitor.administrator}
    machine = {**seen.machine, "you": you}
    if visitor.administrator:
        return replace(seen, machine=machine)
    name = ("user", visitor.user)
    return Seen(
        machine,
        [
            own_view(share, visitor.uid)
            for share in seen.shares
            if visitor.uid is not None and share["info"]["uid"] == visitor.uid
        ],
        [row for row in seen.usage if (row["of"], row["name"]) == name],
    )


class _Proven(HubOAuthenticated):
    def get_current_user(self) -> Any:
        """Called when a form's proof is made: what the Hub has said already.

        JupyterHub's own method waits for its answer on the event loop, in a thread that stays.
        """
        return getattr(self, "_cached_hub_user", None)


class _Handler(_Proven, PageHandler):
    visitor: Visitor

    def initialize(
        self, auth: Any, board: HubBoard, visitors: Visitors, under_way: Counter[str]
    ) -> None:
        self.hub_auth = auth
        self.board = self._board = board
        self.home = auth.base_url
        self._visitors = visitors
        self._under_way = under_way

    def set_default_headers(self) -> None:
        for name, value in headers(_LOADED).items():
            self.set_header(name, value)

    async def prepare(self) -> None:
        try:
            visitor = await self._visitors.of(self)
        except HubAway as error:
            self.refuse(503, str(error))
            return
        if visitor is None:
            self.turn_away()
        elif not visitor.allowed:
            self.refuse(403, "The Hub does not allow you this page; ask its administrator.")
        elif why := self._board.why_not(visitor):
            self.refuse(403, why)
        else:
            self.visitor = visitor

    def turn_away(self) -> None:
        """Answer somebody who is not known."""
        self.refuse(403, "This did not come from the page; open it again.")

    async def in_bounds(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """Do what asks the broker, if the visitor does not have much of it under way."""
        name = self.visitor.name
        if self._under_way[name] >= _AT_ONCE:
            self.refuse(429, "You have too many requests under way; wait for their answers.")
            return None
        self._under_way[name] += 1
        try:
            return await work()
        finally:
            self._under_way[name] -= 1
            if not self._under_way[name]:
                del self._under_way[name]

    def view(self, seen: Seen, now: datetime, notice: str) -> View:
        own = self._board.own_part(seen, self.visitor)
        hub = self.hub_auth.hub_prefix
        frame = Frame(
            home=self.home,
            proof="_xsrf",
            styles=(f"{hub}static/css/style.min.css",),
            header=_header(hub, self.visitor.name),
        )
        proof = self.xsrf_token.decode()
        return View(own.machine, own.shares, own.usage, now, proof, notice, own.processes, frame)


class _Page(_Handler):
    def turn_away(self) -> None:
        self.redirect(self.get_login_url())

    async def get(self) -> None:
        await self.in_bounds(self.show)


class _Do(_Handler):
    async def post(self) -> None:
        if not self.visitor.administrator:
            self.refuse(403, "Only an administrator may do that.")
            return
        done = await self.in_bounds(self.press)
        if done is not None:
            _log.info("%s of the Hub asked for %s %s", self.visitor.name, done.method, done.path)


class _Style(PageHandler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/css; charset=utf-8")
        self.finish(STYLE + _STYLE)


class _Callback(_Proven, HubOAuthCallbackHandler):
    def initialize(self, auth: Any) -> None:
        self.hub_auth = auth

    async def prepare(self) -> None:
        # Later it may be asked for in a way that waits for the Hub on the event loop.
        await self.hub_auth.get_user(self, sync=False)


def _header(hub: str, name: str) -> str:
    """The Hub's bar, without what needs its scripts."""
    hub = escape(hub)
    return (
        '<nav class="navbar" aria-label="JupyterHub">'
        f'<a href="{hub}"><img src="{hub}logo" alt="JupyterHub"></a>'
        f'<a href="{hub}home">Home</a><a href="{hub}token">Token</a>'
        f'<span class="who">{escape(name)}</span>'
        f'<a href="{hub}logout">Logout</a></nav>'
    )
