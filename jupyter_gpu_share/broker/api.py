"""The broker's HTTP routes. ``openapi.yaml`` beside this file describes them."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from tornado import web
from tornado.iostream import StreamClosedError

from .._threads import in_thread, within
from .._version import __version__
from ..allocations import Isolation
from ..engines.local._contents import Holding
from ..engines.local._wire import gpu_to_json, idle_from_json, snapshot_to_json
from ..errors import SizeError
from ._http import MAX_BODY, JsonHandler, told
from .events import Events
from .identity import Account, Accounts, NotProven, Peer, own_process, peer_of
from .metrics import Machine, metrics_text
from .reclaims import Reclaims
from .store import NoClaim, Refused, Store

__all__ = ["MAX_BODY", "Desk", "application"]

_log = logging.getLogger(__name__)

#: Seconds between two signs of life of a stream of events.
_HEARTBEAT = 15.0
_MAX_IDLE = 1000
_TOKEN = re.compile(r"[0-9a-f]{32}")
_TEXTS = {"kernel_name": 200, "path": 4096, "isolation": 40}

_ISOLATIONS = {each.value for each in Isolation}


@dataclass
class Desk:
    """What the routes work with.

    Attributes
    ----------
    simulation: describes simulated GPUs; empty for real ones.
    unshared: tells the processes that use a GPU without a share.
    by_user: metrics name users.
    """

    store: Store
    events: Events
    accounts: Accounts
    simulation: str = ""
    unshared: Callable[[], list[dict[str, Any]]] = list
    by_user: bool = False
    under_way: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.reclaims = Reclaims(self.store)

    async def gpus(self) -> list[dict[str, Any]]:
        """The GPUs as the API tells them, with what is taken of each."""
        gpus, holdings = await self.store.gpus()
        return [{**gpu_to_json(gpu), **vars(holdings.get(gpu.uuid, Holding()))} for gpu in gpus]

    async def metrics(self) -> bytes:
        """Everything in Prometheus' text format.

        Raises
        ------
        LedgerError
        """
        seen = Machine(
            gpus=await self.gpus(),
            shares=await self.store.everything(),
            processes=self.unshared(),
            totals=await self.store.totals(),
            waits=self.store.waits,
            paused=self.store.paused,
        )
        return metrics_text(seen, by_user=self.by_user)


def application(desk: Desk) -> web.Application:
    """The routes, for a server on a Unix socket."""
    kernel = r"(?P<kernel_id>[^/]+)"
    routes: list[tuple[str, type[_Handler]]] = [
        (r"/v1/machine", _Machine),
        (r"/v1/shares", _Shares),
        (r"/v1/details", _Details),
        (rf"/v1/shares/{kernel}", _Share),
        (rf"/v1/shares/{kernel}/change", _Change),
        (r"/v1/fits", _Fits),
        (r"/v1/queue", _Queue),
        (r"/v1/idle", _IdleShares),
        (r"/v1/events", _EventStream),
        (r"/v1/usage", _Usage),
        (r"/v1/admin/shares", _AllShares),
        (r"/v1/admin/usage", _AllUsage),
        (rf"/v1/admin/shares/(?P<uid>\d{{1,10}})/{kernel}", _AnyShare),
        (rf"/v1/admin/shares/(?P<uid>\d{{1,10}})/{kernel}/release", _AnyRelease),
        (r"/v1/admin/processes", _Processes),
        (r"/v1/metrics", _Metrics),
        (r"/v1/admin/pause", _Pause),
    ]
    return web.Application(
        [(pattern, handler, {"desk": desk}) for pattern, handler in routes],
        default_handler_class=_Nothing,
        default_handler_args={"desk": desk},
        log_function=lambda handler: None,
    )


class _Handler(JsonHandler):
    """Proves who calls by the socket."""

    peer: Peer
    account: Account
    statuses = ((SizeError, 400), (NotProven, 403), (NoClaim, 404), (Refused, 409))

    def initialize(self, desk: Desk) -> None:
        self.desk = desk

    @told
    async def prepare(self) -> None:
        connection = self.request.connection
        stream = getattr(connection, "stream", None)
        if stream is None or stream.socket is None:
            raise NotProven("The calling process has ended.")
        self.peer = peer_of(stream.socket)
        self.enter(self.desk.under_way, self.peer.uid)
        self.account = await in_thread(self.desk.accounts.of, self.peer.uid)

    def info(self, given: Any) -> dict[str, str | None] | None:
        """What a user is shown of a kernel; None where it is not told."""
        found = self.texts(given, _TEXTS)
        if found is not None and "isolation" in found and found["isolation"] not in _ISOLATIONS:
            self.refuse(400, "The field info names an isolation that is not known.")
        return found


class _Nothing(_Handler):
    @told
    async def prepare(self) -> None:
        self.refuse(404, "There is nothing at this address.")


class _Machine(_Handler):
    @told
    async def get(self) -> None:
        gpus = await self.desk.gpus()
        limits = await self.desk.store.limits(self.account)
        administrator = await in_thread(self.desk.accounts.is_administrator, self.account.uid)
        self.answer(
            {
                "version": __version__,
                "simulation": self.desk.simulation,
                "paused": self.desk.store.paused,
                "gpus": gpus,
                "you": {
                    "uid": self.account.uid,
                    "user": self.account.user,
                    "administrator": administrator,
                    "limits": [each.to_json() for each in limits],
                },
            }
        )


class _Shares(_Handler):
    @told
    async def get(self) -> None:
        self.answer(await self.desk.store.own(self.account))


class _Details(_Handler):
    @told
    async def get(self) -> None:
        self.answer(await self.desk.store.everything(self.account))


class _Share(_Handler):
    @told
    async def put(self, kernel_id: str) -> None:
        body = self.body(size=str, info=dict, token=str, only=list)
        size, token, only = self.size(body.get("size")), body.get("token", ""), body.get("only", [])
        if token and not _TOKEN.fullmatch(token):
            self.refuse(400, "That is no token of a claim.")
        if len(only) > 256 or not all(isinstance(uuid, str) and len(uuid) <= 100 for uuid in only):
            self.refuse(400, "The field only has what is no GPU.")
        self.answer(
            await self.desk.store.claim(
                self.account,
                self.kernel(kernel_id),
                size,
                self.peer.process,
                self.info(body.get("info", {})) or {},
                token=token,
                only=only,
            )
        )

    @told
    async def patch(self, kernel_id: str) -> None:
        body = self.body(kernel_pid=int, info=dict)
        pid, process = body.get("kernel_pid"), None
        if pid is not None:
            if not 0 < pid < 2**31:
                self.refuse(400, "That is no number of a process.")
            process = await in_thread(own_process, self.peer, pid)
        await self.desk.store.note(
            self.account,
            self.kernel(kernel_id),
            process=process,
            info=self.info(body.get("info")),
        )
        self.answer({})

    @told
    async def delete(self, kernel_id: str) -> None:
        lives_on = self.get_query_argument("lives_on", "false")
        if lives_on not in ("true", "false"):
            self.refuse(400, "The parameter lives_on is true or false.")
        server = self.peer.process if lives_on == "true" else None
        done = await self.desk.store.release(self.account, self.kernel(kernel_id), server=server)
        self.answer({"released": done})


class _Change(_Handler):
    @told
    async def post(self, kernel_id: str) -> None:
        body = self.body(size=str, info=dict, dry_run=bool)
        self.answer(
            await self.desk.store.change(
                self.account,
                self.kernel(kernel_id),
                self.size(body.get("size")),
                self.info(body.get("info")),
                dry=body.get("dry_run", False),
            )
        )


class _Fits(_Handler):
    @told
    async def post(self) -> None:
        body = self.body(kernel_id=(str, type(None)), sizes=list)
        kernel_id, texts = body.get("kernel_id"), body.get("sizes", [])
        if len(texts) > 100:
            self.refuse(400, "The request names too many sizes.")
        sizes = [self.size(text) for text in texts]
        known = None if kernel_id is None else self.kernel(kernel_id)
        self.answer_fits(await self.desk.store.fits(self.account, known, sizes))


class _Queue(_Handler):
    @told
    async def get(self) -> None:
        snapshot, own = await self.desk.store.queue(self.account)
        self.answer(snapshot_to_json(snapshot, own))


class _IdleShares(_Handler):
    @told
    async def put(self) -> None:
        told: Mapping[str, Any] = self.body(kernels=dict).get("kernels", {})
        if len(told) > _MAX_IDLE:
            self.refuse(400, "The request names too many kernels.")
        now = self.desk.store.clock()
        try:
            said = {self.kernel(name): idle_from_json(row, now) for name, row in told.items()}
        except ValueError as error:
            self.refuse(400, str(error), error)
        answer = await self.desk.reclaims.hear(self.account, self.peer.process, said)
        self.answer(vars(answer))


class _Usage(_Handler):
    @told
    async def get(self) -> None:
        self.answer(await self.desk.store.usage(self.account))


class _EventStream(_Handler):
    bounded = False

    @told
    async def get(self) -> None:
        self._loop = asyncio.current_task()
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        events = self.desk.events
        resumed = events.resumed(self.request.headers.get("Last-Event-ID"))
        try:
            number = await self._reset() if resumed is None else resumed
            await self._send(": \n\n")  # it is heard from here on
            while True:
                try:
                    following = events.after(number, self.account.uid)
                    number, found = await within(_HEARTBEAT, following)
                except asyncio.TimeoutError:
                    await self._send(": \n\n")
                    continue
                if found is None:
                    number = await self._reset()
                    continue
                for event in found:
                    await self._send(events.text(event.number, event.kind, event.data))
        except (StreamClosedError, asyncio.CancelledError):
            return

    async def _reset(self) -> int:
        """Tell all that there is, for who does not know what happened before."""
        number = self.desk.events.number  # what happens from here on may be told twice, never not
        rows = await self.desk.store.own(self.account)
        for row in rows:
            row.pop("token")
        await self._send(self.desk.events.text(number, "reset", {"shares": rows}))
        return number

    async def _send(self, text: str) -> None:
        self.write(text)
        await self.flush()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._loop is not None:
            self._loop.cancel()

    _loop: asyncio.Task[Any] | None = None


class _Admin(_Handler):
    """Of the administrator alone: everybody else learns nothing of what is there."""

    @told
    async def prepare(self) -> None:
        await super().prepare()
        if not await in_thread(self.desk.accounts.is_administrator, self.account.uid):
            self.refuse(403, "Only an administrator of the broker may do that.")


class _AllShares(_Admin):
    @told
    async def get(self) -> None:
        self.answer(await self.desk.store.everything())


class _AllUsage(_Admin):
    @told
    async def get(self) -> None:
        self.answer(await self.desk.store.usage())


class _Processes(_Admin):
    @told
    async def get(self) -> None:
        self.answer(self.desk.unshared())


class _AnyShare(_Admin):
    @told
    async def delete(self, uid: str, kernel_id: str) -> None:
        await self.desk.store.end(int(uid), self.kernel(kernel_id))
        _log.warning("%s ended kernel %s of uid %s", self.account.user, kernel_id, uid)
        self.answer({"ended": True})


class _AnyRelease(_Admin):
    @told
    async def post(self, uid: str, kernel_id: str) -> None:
        await self.desk.store.ask_back(int(uid), self.kernel(kernel_id))
        _log.warning("%s asked back kernel %s of uid %s", self.account.user, kernel_id, uid)
        self.answer({"asked": True})


class _Metrics(_Admin):
    @told
    async def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(await self.desk.metrics())


class _Pause(_Admin):
    @told
    async def put(self) -> None:
        paused = self.body(paused=bool).get("paused")
        if paused is None:
            self.refuse(400, "The request has no field paused.")
        await self.desk.store.pause(paused)
        _log.warning("%s %s new shares", self.account.user, "pauses" if paused else "gives out")
        self.answer({"paused": paused})
