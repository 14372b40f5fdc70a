"""The page of a cluster's broker, which it serves itself: users see their own shares, and
administrators those of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import quote

from ...errors import EngineError
from ..hub import ADMINISTRATOR, Hub
from ..hub._visitors import Visitor, Visitors
from ..page import Order, Seen
from .service import Route

__all__ = ["ClusterBoard", "Overview", "hub_pages"]

#: What an administrator does to a kernel with the page's buttons: method, and end of the path.
_DONE = {"end": ("DELETE", ""), "release": ("POST", "/release")}


class Overview(Protocol):
    """What the page asks of who holds the kernels of all users. Rights are checked before."""

    async def machine(self) -> Mapping[str, Any]:
        """As the route ``machine``, without ``you``: ``engine``, ``paused``, ``gpus``."""

    async def everything(self) -> Sequence[Mapping[str, Any]]:
        """Rows of all users' kernels that hold a share or wait for one.

        With the keys of a machine's route ``admin/shares``: ``kernel_id``, ``size``, ``state``
        (``held`` or ``waiting``; others are not shown), ``pieces`` (with ``memory_bytes``),
        ``queue``, ``reason``, ``held_since``, ``idle_seconds``, ``asked_back``, ``keep_until``,
        ``room_at``, ``info`` (with ``path``) and ``promise``; and with ``user`` and ``server``.
        Each of a promise's ``for`` has ``user``, ``server``, ``kernel_id``, ``path`` and ``size``.
        """

    async def usage(self) -> Sequence[Mapping[str, Any]]:
        """Rows of all users and groups by day, with the keys of the route ``usage``."""

    async def end(self, user: str, server: str, kernel_id: str) -> None:
        """End a kernel.

        Raises
        ------
        GpuShareError: there is none.
        """

    async def ask_back(self, user: str, server: str, kernel_id: str) -> None:
        """Ask a kernel's share back, as for somebody who waits.

        Raises
        ------
        GpuShareError: there is none, or it holds none.
        """

    async def pause(self, paused: bool) -> None:
        """Give out no new shares, or give them out again."""


@dataclass(frozen=True)
class _Order(Order):
    """An order to this very process; method and path are what its API would be asked."""

    do: str = ""
    whose: tuple[str, str, str] = ("", "", "")


class ClusterBoard:
    """The page's figures and buttons, answered by this process."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    async def look(self) -> Seen:
        """All that there is; `own_part` chooses from it."""
        overview = self._overview
        shares = [
            {**row, "info": {**row["info"], "user": row["user"], "server": row["server"]}}
            for row in await overview.everything()
        ]
        return Seen(await overview.machine(), shares, await overview.usage())

    def order(self, form: Mapping[str, str]) -> Order | None:
        """What a button asks for; users and servers are told apart by the Hub's names."""
        do, user, server, kernel = (form[each] for each in ("do", "user", "server", "kernel"))
        if do in ("pause", "resume"):
            return _Order("PUT", "/v1/admin/pause", {"paused": do == "pause"}, do)
        if do not in _DONE or not user or not kernel:
            return None
        method, end = _DONE[do]
        named = "/".join(quote(each, safe="") for each in (user, server, kernel))
        whose = user, server, kernel
        return _Order(method, f"/v1/admin/shares/{named}{end}", None, do, whose)

    async def ask(self, wanted: Order) -> None:
        """Do it."""
        assert isinstance(wanted, _Order)
        if wanted.do == "end":
            await self._overview.end(*wanted.whose)
        elif wanted.do == "release":
            await self._overview.ask_back(*wanted.whose)
        else:
            await self._overview.pause(wanted.do == "pause")

    def why_not(self, visitor: Visitor) -> str:
        """Every user of the Hub has a page, of nothing where they have no shares."""
        return ""

    def own_part(self, seen: Seen, visitor: Visitor) -> Seen:
        """What is a visitor's, without the names of other users and of their notebooks."""
        you = {"user": visitor.name, "administrator": visitor.administrator}
        machine = {**seen.machine, "you": you}
        if visitor.administrator:
            return replace(seen, machine=machine)
        name = ("user", visitor.name)
        return Seen(
            machine,
            [_own_row(row, visitor.name) for row in seen.shares if _user(row) == visitor.name],
            [row for row in seen.usage if (row["of"], row["name"]) == name],
        )


def hub_pages(hub: Hub, overview: Overview) -> list[Route]:
    """The page's routes below the service's prefix, with the Hub's login.

    Raises
    ------
    EngineError: the package jupyterhub is missing.
    """
    try:
        from ..hub._routes import page_routes
    except ImportError as error:
        raise EngineError(
            "The broker's page needs JupyterHub's package: "
            "pip install 'jupyter-gpu-share[kubernetes,hub]'"
        ) from error
    auth = hub.login()
    return page_routes(ClusterBoard(overview), auth, Visitors(auth, None, ADMINISTRATOR))


def _user(row: Mapping[str, Any]) -> str:
    return str(row["user"])


def _own_row(row: Mapping[str, Any], user: str) -> Mapping[str, Any]:
    promise = row["promise"]
    if promise is None:
        return row
    waiting = [
        each if each["user"] == user else {**dict.fromkeys(each), "size": each["size"]}
        for each in promise["for"]
    ]
    return {**row, "promise": {**promise, "for": waiting}}
