"""The routes of all users' kernels. ``openapi.yaml`` beside this file describes them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Protocol
from weakref import WeakValueDictionary

from tornado.iostream import IOStream, StreamClosedError

from ... import sentences
from ..._threads import within
from ..._version import __version__
from ...engines.base import Connection
from ...engines.idle_shares import IdleShare
from ...engines.kubernetes._settings import KubernetesSettings
from ...engines.kubernetes.api import KubernetesError
from ...engines.local._wire import idle_from_json
from ...engines.user_limits import UserLimit
from ...errors import EngineError, GpuShareError
from ...size import Size
from .._http import Statuses, told
from ..events import Events
from .callers import HubAway, NotAllowed, UnknownToken
from .kernel import Kernel
from .kernels import Registry
from .presence import Process
from .refusals import Malformed, NoKernel, Refused
from .rows import (
    allocation_of,
    attempt_of,
    for_caller,
    kernel_id_of,
    number_in,
    path_of,
    plan_of,
    size_of,
)
from .ruling import Key
from .service import INSTANCE, CallerHandler, Route

__all__ = ["Desk", "Seen", "routes"]

#: Seconds between two signs of life of a stream of events; the token is proven again then.
_HEARTBEAT = 15.0
#: Milliseconds in which what a stream sends has to arrive: a node that is gone says nothing.
_UNHEARD = 30_000
_MOST_SIZES, _MOST_IDLE, _MOST_LINES = 100, 1000, 1000
_LONGEST_GRACE = 3600.0


class Seen(Protocol):
    """What the home knows of the cluster, and what is decided about idle shares."""

    async def machine(self) -> Mapping[str, Any]:
        """Fields of ``/v1/machine`` about the cluster: its GPUs, and where it is.

        Raises
        ------
        EngineError
        """

    def user_limits(self, user: str, groups: frozenset[str]) -> Sequence[UserLimit]:
        """A user's limits, and how much of each is taken."""

    async def fits(
        self, key: Key, groups: frozenset[str], sizes: Sequence[Size]
    ) -> list[str | None]:
        """For each size None where a kernel could have it at once, else why not.

        What the kernel holds, if it is there, counts as free.

        Raises
        ------
        EngineError
        """

    def rounding(self, size: Size) -> str:
        """What a size becomes, a sentence; empty where it is exact.

        Raises
        ------
        NoGpuError, EngineError
        """

    async def connection(self, kernel: Kernel) -> Connection:
        """A kernel's keys, read from its Secret now.

        Raises
        ------
        EngineError
        """

    async def hear_idle(
        self, process: Process, words: Mapping[str, IdleShare], now: datetime
    ) -> Mapping[str, Any]:
        """A process names all of its idle kernels by id; what is asked back of them."""

    def now(self) -> datetime:
        """The time, aware."""

    @property
    def sharing(self) -> tuple[str | None, str | None]:
        """Sharing backend and style."""


@dataclass(frozen=True)
class Desk:
    """What the routes work with."""

    registry: Registry
    events: Events
    seen: Seen
    settings: KubernetesSettings
    #: Held by a user's request that takes long to reckon, so that no user has all threads.
    reckoning: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)


def routes(desk: Desk) -> Sequence[Route]:
    """The routes, below the service's prefix."""
    kernel = r"/v1/shares/(?P<kernel_id>[^/]+)"
    found: list[tuple[str, type[_Handler]]] = [
        (r"/v1/machine", _Machine),
        (r"/v1/shares", _Shares),
        (r"/v1/details", _Details),
        (r"/v1/fits", _Fits),
        (r"/v1/rounding", _Rounding),
        (r"/v1/idle", _IdleShares),
        (r"/v1/events", _EventStream),
        (r"/v1/servers/self", _Self),
        (kernel, _Share),
        (rf"{kernel}/adopt", _Adopt),
        (rf"{kernel}/settle", _Settle),
        (rf"{kernel}/release", _Release),
        (rf"{kernel}/take", _Take),
        (rf"{kernel}/withdraw", _Withdraw),
        (rf"{kernel}/change", _Change),
        (rf"{kernel}/let-go", _LetGo),
        (rf"{kernel}/leaving", _Leaving),
        (rf"{kernel}/connection", _Connection),
        (rf"{kernel}/log", _Log),
    ]
    return [(pattern, handler, {"desk": desk}) for pattern, handler in found]


class _Handler(CallerHandler):
    statuses: ClassVar[Statuses] = (
        (HubAway, 503),
        (Malformed, 400),
        (NoKernel, 404),
        (Refused, 409),
        *CallerHandler.statuses,
        (KubernetesError, 503),
        (EngineError, 409),
    )

    #: The process that asks, once that is known.
    _asks: Process | None = None

    def initialize(self, desk: Desk) -> None:
        self.desk = desk
        self.registry = desk.registry

    async def prepare(self) -> None:
        """Called by tornado before each request's method."""
        await super().prepare()
        if not self._finished:
            self.registry.hear_user(self.caller.user, self.caller.born)

    def process(self) -> Process:
        """The proven server's process that asks; that is a sign of its life."""
        process = Process(self.caller.user, self.server(), self.instance)
        if self.registry.presence.has_left(process):
            raise Refused("This process has said that it ends; its kernels are not its own now.")
        if not self.registry.presence.hear(process):
            self.refuse(429, "Your server has too many processes; end some of them.")
        self.registry.hear_groups(process, self.caller.groups)
        self._asks = process
        return process

    def on_finish(self) -> None:
        """Called by tornado after each answer, when it is known what has come of it."""
        super().on_finish()
        if self._asks is not None:
            self.registry.prove(self._asks, self.token)

    def told_instance(self) -> str:
        """The process that asks, where it says so."""
        return self.instance if INSTANCE in self.request.headers else ""

    def attempt(self, **known: Any) -> tuple[str, dict[str, Any]]:
        """The attempt that the body names, and the body with ``known`` besides."""
        body = self.body(attempt=str, **known)
        return attempt_of(body.get("attempt")), body

    def answer_row(self, kernel: Kernel, status: int = 200) -> None:
        """Answer with a kernel's row."""
        self.answer(self.registry.row(kernel, self.instance), status)


class _Machine(_Handler):
    @told
    async def get(self) -> None:
        settings, caller = self.desk.settings, self.caller
        limits = self.desk.seen.user_limits(caller.user, caller.groups)
        self.answer(
            {
                "version": __version__,
                "engine": "kubernetes",
                "simulation": "",
                **await self.desk.seen.machine(),
                "you": {
                    "user": caller.user,
                    "server": caller.server,
                    "groups": sorted(caller.groups),
                    "administrator": caller.administrator,
                    "limits": [each.to_json() for each in limits],
                },
                "kernels": {
                    "python": settings.python,
                    "renewal": settings.renewal,
                    "encrypt": settings.encrypt,
                    "image": settings.image,
                    "images": dict(settings.images),
                    "allowed_environment": list(settings.allowed_environment),
                },
            }
        )


class _Shares(_Handler):
    @told
    async def get(self) -> None:
        rows = self.registry.rows(self.caller.user, self.server(), self.told_instance())
        self.answer(rows)


class _Details(_Handler):
    @told
    async def get(self) -> None:
        user, sharing = self.caller.user, self.desk.seen.sharing
        views = [self.registry.view(kernel) for kernel in self.registry.of_user(user)]
        self.answer([allocation_of(view, user, *sharing).to_json() for view in views])


class _Fits(_Handler):
    @told
    async def post(self) -> None:
        body = self.body(kernel_id=(str, type(None)), sizes=list)
        texts, kernel_id = body.get("sizes", []), body.get("kernel_id")
        if len(texts) > _MOST_SIZES:
            raise Malformed("The request names too many sizes.")
        sizes = [size_of(text) for text in texts]
        key = Key(self.caller.user, self.caller.server or "", "")
        if kernel_id is not None:
            key = Key(self.caller.user, self.server(), kernel_id_of(kernel_id))
        lock = self.desk.reckoning.setdefault(self.caller.user, asyncio.Lock())
        async with lock:
            found = await self.desk.seen.fits(key, self.caller.groups, sizes)
        self.answer_fits(found)


class _Rounding(_Handler):
    @told
    async def post(self) -> None:
        note = self.desk.seen.rounding(size_of(self.body(size=str).get("size")))
        self.answer(sentences.told("note", note))


class _IdleShares(_Handler):
    @told
    async def put(self) -> None:
        process = self.process()
        rows: Mapping[str, Any] = self.body(kernels=dict).get("kernels", {})
        if len(rows) > _MOST_IDLE:
            raise Malformed("The request names too many kernels.")
        now, words, vacated = self.desk.seen.now(), {}, set()
        for kernel_id, row in rows.items():
            kernel_id_of(kernel_id)
            if isinstance(row, Mapping) and "vacated" in row:
                if row["vacated"] not in (True, False):
                    raise Malformed("The field vacated is true or false.")
                vacated |= {kernel_id} if row["vacated"] else set()
                row = {name: value for name, value in row.items() if name != "vacated"}
            try:
                words[kernel_id] = idle_from_json(row, now)
            except ValueError as error:
                raise Malformed(str(error)) from error
        self.registry.hear_idle(process, vacated)
        self.answer(await self.desk.seen.hear_idle(process, words, now))


class _Self(_Handler):
    @told
    async def delete(self) -> None:
        process = Process(self.caller.user, self.server(), self.instance)
        self.registry.presence.leaves(process)
        self.answer({}, 202)


class _Share(_Handler):
    @told
    async def put(self, kernel_id: str) -> None:
        kernel_id = kernel_id_of(kernel_id)
        attempt, body = self.attempt(size=str, info=dict, pod=dict, number=int)
        process, number = self.process(), number_in(body)
        plan = plan_of(
            kernel_id,
            body.get("size"),
            body.get("info", {}),
            body.get("pod"),
            encrypt=self.desk.settings.encrypt,
        )
        if not self.registry.knows(process, kernel_id, attempt):
            self.something_new()
        body.clear()  # the keys are in the plan alone, and there until they are in the Secret
        groups = self.caller.groups
        kernel, new = await self.registry.start(process, groups, attempt, plan, number)
        self.answer_row(kernel, 201 if new else 200)

    @told
    async def patch(self, kernel_id: str) -> None:
        attempt, body = self.attempt(path=(str, type(None)))
        path = path_of(body.get("path"))
        kernel = await self.registry.note_path(
            self.process(), kernel_id_of(kernel_id), attempt, path
        )
        self.answer_row(kernel)

    @told
    async def delete(self, kernel_id: str) -> None:
        attempt = attempt_of(self.get_query_argument("attempt", ""))
        done = await self.registry.end(self.process(), kernel_id_of(kernel_id), attempt)
        self.answer({"gone": done}, 200 if done else 202)


class _Adopt(_Handler):
    @told
    async def post(self, kernel_id: str) -> None:
        attempt, body = self.attempt(before=str)
        before = body.get("before", "")
        kernel = await self.registry.adopt(self.process(), kernel_id_of(kernel_id), attempt, before)
        self.answer_row(kernel)


class _Settle(_Handler):
    @told
    async def post(self, kernel_id: str) -> None:
        attempt, _ = self.attempt()
        self.answer_row(self.registry.settle(self.process(), kernel_id_of(kernel_id), attempt), 202)


class _Release(_Handler):
    @told
    async def post(self, kernel_id: str) -> None:
        attempt, _ = self.attempt()
        process, kernel_id = self.process(), kernel_id_of(kernel_id)
        self.answer_row(await self.registry.release(process, kernel_id, attempt), 202)


class _Take(_Handler):
    @told
    async def post(self, kernel_id: str) -> None:
        attempt, _ = self.attempt()
        self.answer_row(self.registry.take(self.process(), kernel_id_of(kernel_id), attempt), 202)


class _Withdraw(_Handler):
    @told
    async def post(self, kernel_id: str) -> None:
        attempt, _ = self.attempt()
        process, kernel_id = self.process(), kernel_id_of(kernel_id)
        self.answer_row(await self.registry.withdraw(process, kernel_id, attempt))


class _Change(_Handler):
    @told
    async def post(self, kernel_id: str) -> None:
        attempt, body = self.attempt(size=str, dry_run=bool)
        size, kernel_id = size_of(body.get("size")), kernel_id_of(kernel_id)
        process = self.process()
        if body.get("dry_run", False):
            kernel = self.registry.own(process, kernel_id, attempt)
            planned = await self.registry.planned(kernel, size)
            if planned is None:
                self.answer({"change": None})
                return
            share, beside = planned
        else:
            _, share = await self.registry.change(process, kernel_id, attempt, size)
            beside = True
        self.answer({"change": {"share": share.to_json(), "beside": beside}})


class _LetGo(_Handler):
    @told
    async def post(self, kernel_id: str) -> None:
        attempt, _ = self.attempt()
        kernel = self.registry.own(self.process(), kernel_id_of(kernel_id), attempt)
        kernel.objects.let_go()
        self.answer_row(kernel, 202)


class _Leaving(_Handler):
    @told
    async def post(self, kernel_id: str) -> None:
        attempt, body = self.attempt(grace=(int, float))
        grace = body.get("grace")
        if grace is None or not 0 <= grace <= _LONGEST_GRACE:
            raise Malformed("The field grace is a number of seconds.")
        kernel = self.registry.own(self.process(), kernel_id_of(kernel_id), attempt)
        kernel.objects.leaving(float(grace))
        self.registry.changed(kernel)
        self.answer_row(kernel, 202)


class _Connection(_Handler):
    @told
    async def get(self, kernel_id: str) -> None:
        kernel = self.registry.of_server(self.process(), kernel_id_of(kernel_id))
        if not kernel.up:
            raise Refused(sentences.say("not-come-up"))
        found = await self.desk.seen.connection(kernel)
        self.answer(
            {
                "transport": found.transport,
                "ip": found.ip,
                "ports": dict(found.ports),
                "key": found.key.decode(),
                "signature_scheme": found.signature_scheme,
                "curve_publickey": found.curve_publickey,
                "curve_secretkey": found.curve_secretkey,
            }
        )


class _Log(_Handler):
    @told
    async def get(self, kernel_id: str) -> None:
        lines = self.get_query_argument("lines", "10")
        if not lines.isdecimal() or len(lines) > 9 or not 0 < int(lines) <= _MOST_LINES:
            raise Malformed(f"The parameter lines is a number up to {_MOST_LINES}.")
        kernel = self.registry.of_server(self.process(), kernel_id_of(kernel_id))
        self.answer({"text": await kernel.objects.last_words(int(lines))})


class _EventStream(_Handler):
    bounded = False
    _loop: asyncio.Task[Any] | None = None

    @told
    async def get(self) -> None:
        whose = (self.caller.user, self.server())
        self._loop = asyncio.current_task()
        instance = self.told_instance()
        # One that does not say which it is holds up nobody's end, and is counted all the same.
        process = self.process() if instance else Process(*whose, "")
        if not self.registry.presence.room_for_stream(process):
            self.refuse(429, "You have too many streams of events; end some of your programs.")
        with (
            suppress(StreamClosedError, asyncio.CancelledError),
            self.registry.presence.stream(process),
        ):
            self.registry.heard_all(process)
            await self._tell(process, instance)

    async def _tell(self, process: Process, instance: str) -> None:
        whose = (process.user, process.server)
        self.set_header("Content-Type", "text/event-stream")
        self._end_with_a_dead_node()
        events, clock = self.desk.events, asyncio.get_running_loop().time
        resumed = events.resumed(self.request.headers.get("Last-Event-ID"))
        number = await self._reset(whose, instance) if resumed is None else resumed
        await self._send(": \n\n")  # it is heard from here on
        sign = clock() + _HEARTBEAT
        while True:
            found: Any = []
            with suppress(asyncio.TimeoutError):
                following = events.after(number, whose)
                number, found = await within(max(0.0, sign - clock()), following)
            if found is None:
                number = await self._reset(whose, instance)
            for event in found or ():
                data = event.data
                if event.kind == "row":
                    data = {"row": for_caller(data["row"], instance)}
                await self._send(events.text(event.number, event.kind, data))
            if clock() >= sign:
                sign = clock() + _HEARTBEAT
                if not await self._still_proven(process):
                    return
                await self._send(": \n\n")

    async def _still_proven(self, process: Process) -> bool:
        """Whether the token still is that server's, or nobody can say."""
        try:
            await self.prove()
        except (UnknownToken, NotAllowed):
            self.registry.presence.refused(process)
            return False
        except GpuShareError:
            return True  # the Hub is away: what is told here the server knows already
        self.registry.prove(process, self.token)
        return (self.caller.user, self.caller.server) == process[:2]

    async def _reset(self, whose: tuple[str, str], instance: str) -> int:
        """Tell all that there is, for who does not know what happened before."""
        number = self.desk.events.number  # what happens from here on may be told twice, never not
        shares = {"shares": self.registry.rows(*whose, instance)}
        await self._send(self.desk.events.text(number, "reset", shares))
        return number

    async def _send(self, text: str) -> None:
        self.write(text)
        await self.flush()

    def _end_with_a_dead_node(self) -> None:
        stream = getattr(self.request.connection, "stream", None)
        if isinstance(stream, IOStream) and stream.socket is not None:
            with suppress(OSError):
                stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNHEARD)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._loop is not None:
            self._loop.cancel()
