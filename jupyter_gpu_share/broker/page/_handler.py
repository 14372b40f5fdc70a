"""What the page's routes have in common, whoever proves to them who asks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tornado import web

from ...errors import GpuShareError
from ._asking import FIELDS, Board, Order, Seen
from ._html import View, document

__all__ = ["PageHandler", "headers"]

_log = logging.getLogger(__name__)


def headers(loaded: str = "") -> Mapping[str, str]:
    """Headers of all answers: no script runs, and no other site shows or sends the page.

    Parameters
    ----------
    loaded: what else may be loaded, as directives of the content's policy.
    """
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'self'; {loaded}form-action 'self'; "
            "frame-ancestors 'none'; base-uri 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


class PageHandler(web.RequestHandler):
    """Shows the page and presses its buttons; a subclass decides who may."""

    board: Board
    #: Where the page itself is.
    home = "/"

    def set_default_headers(self) -> None:
        """Called by tornado."""
        for name, value in headers().items():
            self.set_header(name, value)

    def refuse(self, status: int, line: str) -> None:
        """Answer with one line of text, and go no further."""
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(line + "\n")

    def log_exception(self, *args: Any) -> None:
        """Called by tornado: what a browser does wrong is nothing to log."""
        if not isinstance(args[1], web.HTTPError):
            _log.error("A request failed", exc_info=args[1])

    def view(self, seen: Seen, now: datetime, notice: str) -> View:
        """What of all that the broker shows is for who asks.

        Raises
        ------
        GpuShareError: nothing is.
        """
        raise NotImplementedError

    async def show(self, notice: str = "", status: int = 200) -> None:
        """Answer with the page as it is now."""
        try:
            seen = await self.board.look()
            view = self.view(seen, datetime.now().astimezone(), notice)
        except GpuShareError as error:
            self.refuse(503, str(error))
            return
        self.set_status(status)
        self.finish(document(view))

    async def press(self) -> Order | None:
        """Do what the button of a form says, and show the page again; what was done."""
        wanted = self.board.order({name: self.get_body_argument(name, "") for name in FIELDS})
        if wanted is None:
            self.refuse(400, "The page has no such button.")
            return None
        try:
            await self.board.ask(wanted)
        except GpuShareError as error:
            await self.show(str(error), 409)
            return None
        self.redirect(self.home, status=303)
        return wanted
