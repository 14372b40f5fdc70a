"""The broker's HTTP routes. ``openapi.yaml`` beside this file describes them."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar, cast

from prometheus_client import CONTENT_TYPE_LATEST
from tornado import web
from tornado.iostream import StreamClosedError

from .._text import one_line
from .._threads import in_thread
from .._version import __version__
from ..allocations import Isolation
from ..engines.local._contents import Holding
from ..engines.local._wire import gpu_to_json, idle_from_json, snapshot_to_json
from ..errors import GpuShareError, SizeError
from ..size import Size
from .events import Events
from .identity import Account, Accounts, NotProven, Peer, own_process, peer_of
from .metrics import Machine, metrics_text
from .reclaims import Reclaims
from .store import NoClaim, Refused, Store

__all__ = ["MAX_BODY", "Desk", "application"]

_log = logging.getLogger(__name__)

#: Bytes of a request's body.
MAX_BODY = 64 * 1024
#: Requests of one user that are worked on at once; who sends more is told to come again.
_AT_ONCE = 32
#: Seconds between two signs of life of a stream of events.
_HEARTBEAT = 15.0
_MAX_IDLE = 1000
_KERNEL_ID = re.compile(r"[\w.:-]{1,200}", re.ASCII)
_TOKEN = re.compile(r"[0-9a-f]{32}")
_TEXTS = {"kernel_name": 200, "path": 4096, "isolation": 40}

_ISOLATIONS = {each.value for each in Isolation}

Method = TypeVar("Method", bound=Callable[..., Awaitable[None]])


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


def _told(method: Method) -> Method:
    """Turn this package's errors into answers with their one line."""

    @wraps(method)
    async def wrapper(self: _Handler, *args: Any, **kwargs: Any) -> None:
        try:
            await method(self, *args, **kwargs)
        except SizeError as error:
            self.refuse(400, str(error), error)
        except NotProven as error:
            self.refuse(403, str(error), error)
        except NoClaim as error:
            self.refuse(404, str(error), error)
        except Refused as error:
            self.refuse(409, str(error), error)
        except GpuShareError as error:
            self.refuse(503, str(error), error)

    return cast("Method", wrapper)


class _Handler(web.RequestHandler):
    """Who calls, strict reading of bodies, and errors as RFC 9457 has them."""

    peer: Peer
    account: Account

    def initialize(self, desk: Desk) -> None:
        self.desk = desk
        self._counted = False

    @_told
    async def prepare(self) -> None:
        connection = self.request.connection
        stream = getattr(connection, "stream", None)
        if stream is None or stream.socket is None:
            raise NotProven("The calling process has ended.")
        self.peer = peer_of(stream.socket)
        uid = self.peer.uid
        if self.desk.under_way[uid] >= _AT_ONCE and self.bounded:
            self.refuse(429, "You have too many requests under way; wait for their answers.")
        self.desk.under_way[uid] += self.bounded
        self._counted = self.bounded
        self.account = await in_thread(self.desk.accounts.of, uid)

    #: Whether it counts among the requests that are worked on.
    bounded = True

    def on_finish(self) -> None:
        self._done()

    def on_connection_close(self) -> None:
        self._done()

    def _done(self) -> None:
        if self._counted:
            self._counted = False
            uid = self.peer.uid
            self.desk.under_way[uid] -= 1
            if self.desk.under_way[uid] <= 0:
                del self.desk.under_way[uid]

    def refuse(self, status: int, line: str, cause: Exception | None = None) -> NoReturn:
        """Answer with an error of one line."""
        raise web.HTTPError(status, "%s", one_line(line)) from cause

    def log_exception(self, *args: Any) -> None:
        """Called by tornado: what users do wrong is not for the administrator's log."""
        if not isinstance(args[1], web.HTTPError):
            _log.error("A request failed", exc_info=args[1])

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Called by tornado."""
        error = kwargs.get("exc_info", (None, None))[1]
        try:
            title = HTTPStatus(status_code).phrase
        except ValueError:
            title = "Error"
        detail = "The broker met an error; its log says more."
        if isinstance(error, web.HTTPError):
            detail = str(error.args[0]) if error.args else f"{title}."
        self.set_header("Content-Type", "application/problem+json")
        self.finish(json.dumps({"title": title, "status": status_code, "detail": detail}))

    def answer(self, data: Any) -> None:
        """Answer with JSON."""
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(data))

    def body(self, **known: Any) -> dict[str, Any]:
        """The request's object, with all of ``known``: kinds by name, a tuple of several.

        What is not among them is refused, so that nobody believes it was heard.
        """
        try:
            data = json.loads(self.request.body)
        except (ValueError, RecursionError) as error:
            self.refuse(400, "The request's body is no JSON.", error)
        if not isinstance(data, dict):
            self.refuse(400, "The request's body is no JSON object.")
        for name, value in data.items():
            if name not in known:
                self.refuse(400, f"The request has a field that is not known: {name[:40]!r}.")
            if not isinstance(value, known[name]) or (
                isinstance(value, bool) and known[name] is not bool
            ):
                self.refuse(400, f"The field {name} has a value of the wrong kind.")
        return data

    def size(self, text: Any) -> Size:
        """A size that a body names."""
        if not isinstance(text, str) or len(text) > 100:
            self.refuse(400, "The request names no size.")
        return Size.parse(text)

    def texts(self, told: Any) -> dict[str, str | None] | None:
        """What a user is shown of a kernel, cut to its length; None where it is not told."""
        if told is None:
            return None
        found: dict[str, str | None] = {}
        for name, value in told.items():
            if name not in _TEXTS or not isinstance(value, str | None):
                self.refuse(400, "The field info has what is not known.")
            if name == "isolation" and value not in _ISOLATIONS:
                self.refuse(400, "The field info names an isolation that is not known.")
            found[name] = value if value is None else one_line(value)[: _TEXTS[name]]
        return found

    def kernel(self, kernel_id: str) -> str:
        """A kernel's id from a path or a body."""
        if not _KERNEL_ID.fullmatch(kernel_id):
            self.refuse(400, "That is no id of a kernel.")
        return kernel_id


class _Nothing(_Handler):
    @_told
    async def prepare(self) -> None:
        self.refuse(404, "There is nothing at this address.")


class _Machine(_Handler):
    @_told
    async def get(self) -> None:
        gpus = await self.desk.gpus()
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
                },
            }
        )


class _Shares(_Handler):
    @_told
    async def get(self) -> None:
        self.answer(await self.desk.store.own(self.account))


class _Details(_Handler):
    @_told
    async def get(self) -> None:
        self.answer(await self.desk.store.everything(self.account))


class _Share(_Handler):
    @_told
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
                self.texts(body.get("info", {})) or {},
                token=token,
                only=only,
            )
        )

    @_told
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
            info=self.texts(body.get("info")),
        )
        self.answer({})

    @_told
    async def delete(self, kernel_id: str) -> None:
        lives_on = self.get_query_argument("lives_on", "false")
        if lives_on not in ("true", "false"):
            self.refuse(400, "The parameter lives_on is true or false.")
        server = self.peer.process if lives_on == "true" else None
        done = await self.desk.store.release(self.account, self.kernel(kernel_id), server=server)
        self.answer({"released": done})


class _Change(_Handler):
    @_told
    async def post(self, kernel_id: str) -> None:
        body = self.body(size=str, info=dict, dry_run=bool)
        self.answer(
            await self.desk.store.change(
                self.account,
                self.kernel(kernel_id),
                self.size(body.get("size")),
                self.texts(body.get("info")),
                dry=body.get("dry_run", False),
            )
        )


class _Fits(_Handler):
    @_told
    async def post(self) -> None:
        body = self.body(kernel_id=(str, type(None)), sizes=list)
        kernel_id, texts = body.get("kernel_id"), body.get("sizes", [])
        if len(texts) > 100:
            self.refuse(400, "The request names too many sizes.")
        sizes = [self.size(text) for text in texts]
        known = None if kernel_id is None else self.kernel(kernel_id)
        self.answer(await self.desk.store.fits(self.account, known, sizes))


class _Queue(_Handler):
    @_told
    async def get(self) -> None:
        snapshot, own = await self.desk.store.queue(self.account)
        self.answer(snapshot_to_json(snapshot, own))


class _IdleShares(_Handler):
    @_told
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
    @_told
    async def get(self) -> None:
        self.answer(await self.desk.store.usage(self.account))


class _EventStream(_Handler):
    bounded = False

    @_told
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
                    number, found = await asyncio.wait_for(following, _HEARTBEAT)
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

    @_told
    async def prepare(self) -> None:
        await super().prepare()
        if not await in_thread(self.desk.accounts.is_administrator, self.account.uid):
            self.refuse(403, "Only an administrator of the broker may do that.")


class _AllShares(_Admin):
    @_told
    async def get(self) -> None:
        self.answer(await self.desk.store.everything())


class _AllUsage(_Admin):
    @_told
    async def get(self) -> None:
        self.answer(await self.desk.store.usage())


class _Processes(_Admin):
    @_told
    async def get(self) -> None:
        self.answer(self.desk.unshared())


class _AnyShare(_Admin):
    @_told
    async def delete(self, uid: str, kernel_id: str) -> None:
        await self.desk.store.end(int(uid), self.kernel(kernel_id))
        _log.warning("%s ended kernel %s of uid %s", self.account.user, kernel_id, uid)
        self.answer({"ended": True})


class _AnyRelease(_Admin):
    @_told
    async def post(self, uid: str, kernel_id: str) -> None:
        await self.desk.store.ask_back(int(uid), self.kernel(kernel_id))
        _log.warning("%s asked back kernel %s of uid %s", self.account.user, kernel_id, uid)
        self.answer({"asked": True})


class _Metrics(_Admin):
    @_told
    async def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(await self.desk.metrics())


class _Pause(_Admin):
    @_told
    async def put(self) -> None:
        paused = self.body(paused=bool).get("paused")
        if paused is None:
            self.refuse(400, "The request has no field paused.")
        await self.desk.store.pause(paused)
        _log.warning("%s %s new shares", self.account.user, "pauses" if paused else "gives out")
        self.answer({"paused": paused})
