"""A fake of the broker of a cluster: it keeps kernels in memory, and there is no cluster behind it.

It answers as the contract says, and can lose answers, stand still, and be restarted.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from aiohttp import web

from jupyter_gpu_share.sentences import told, words_of

TOKEN = "the token of alice's server"
TOKEN = TOKEN.replace(" ", "-")
GIB = 2**30


def share(size: str) -> dict[str, Any]:
    parts = {"1": 80, "1/2": 40, "1/4": 20, "0": 0}
    gib = parts[size]
    device = {"uuid": "GPU-0", "model": "A100", "node": "node-1"}
    return {
        "devices": [device] if gib else [],
        "memory_bytes": gib * GIB,
        "fraction": size,
        "isolation": "framework",
        "simulated": True,
    }


@dataclass
class Kernel:
    """One kernel as the broker has it."""

    kernel_id: str
    attempt: str
    size: str
    instance: str
    kernel_name: str = "python3"
    path: str | None = None
    state: str = "waiting"
    reason: str = "No GPU has room."
    keys: dict[str, Any] = field(default_factory=dict, repr=False)
    fields: dict[str, Any] = field(default_factory=dict)
    pod: str = ""  #: the attempt that made it; who takes it over brings another

    @property
    def holds(self) -> bool:
        return self.state in ("starting", "ready")

    def row(self) -> dict[str, Any]:
        up = self.state in ("ready", "released", "taking")
        return {
            "kernel_id": self.kernel_id,
            "attempt": self.attempt,
            "name": f"pod-{self.pod[:8]}",
            "size": self.size,
            "kernel_name": self.kernel_name,
            "path": self.path,
            "state": self.state,
            "reason": self.reason if self.state in ("waiting", "taking") else "",
            "queue": {"position": 1, "of": 2} if self.state in ("waiting", "taking") else None,
            "share": share(self.size) if up or self.state == "starting" else None,
            "note": "",
            "address": "127.0.0.1" if up else None,
            "detachable": up,
            "unanswered": False,
            "lost": False,
            "removal": None,
            "ended": None,
            "failed": None,
            "instance": self.instance,
            "held_by_other": False,
            "lost_work": "",
            **self.fields,
        }


@dataclass
class Fault:
    """What happens to the next requests of a kind, for a number of times."""

    pattern: re.Pattern[str]
    when: str  # before, after, or a status
    left: int = 1


class FakeClusterBroker:
    """See above. ``room`` is the number of whole GPUs."""

    def __init__(self, room: float = 1.0) -> None:
        self.room = room
        self.kernels: dict[str, Kernel] = {}
        self.pods: Counter[str] = Counter()  #: made, by attempt
        self.asked: list[str] = []
        self.bodies: list[tuple[str, Any]] = []
        self.faults: list[Fault] = []
        self.stalled: asyncio.Event | None = None
        self.refused: str | None = None  #: why starts are refused
        self.why: str | None = None  #: why sizes have no room; None: of a broker of before
        self.idle: dict[str, Any] = {}
        self.wanted: dict[str, Any] = {}
        self.left: list[str] = []
        self.alive: set[str] = set()  #: instances of others that live
        self.version = ""
        self.problem: tuple[int, str] | None = None  #: for every request
        self.encrypt = True
        self.forgotten = 0  #: kernels that went with a restart
        self.administrator = False
        self.limits: list[dict[str, Any]] | None = None  #: of alice; None: of a broker of before
        self.placed = "ready"  #: what becomes of a kernel that gets its place
        self._log: list[tuple[str, dict[str, Any]]] = []
        self._name = uuid4().hex
        self._streams: set[asyncio.Event] = set()
        self._requests: set[asyncio.Task[Any]] = set()
        self._runner: web.AppRunner | None = None
        self.port = 0

    # -- what tests do with it -----------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/gpu-share"

    async def start(self) -> None:
        app = web.Application(client_max_size=2**16)
        app.router.add_route("*", "/services/gpu-share{path:/.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        """Go away: connections break off."""
        runner, self._runner = self._runner, None
        self._end_streams()
        for task in list(self._requests):
            task.cancel()
        if runner is not None:
            await runner.cleanup()

    async def restart(self, *, forget: Callable[[Kernel], bool] = lambda kernel: False) -> None:
        """Begin anew: with what is in the cluster, and none of what only memory had."""
        await self.stop()
        self._name, self._log = uuid4().hex, []
        for kernel in list(self.kernels.values()):
            if forget(kernel):
                self.forgotten += 1
                del self.kernels[kernel.kernel_id]
            elif kernel.state == "taking":
                kernel.state = "released"
        await self.start()

    def lose(self, pattern: str, when: str = "after", times: int = 1) -> None:
        """Lose the next answers to requests of this kind, ``before`` or ``after`` they are done."""
        self.faults.append(Fault(re.compile(pattern), when, times))

    def set(self, kernel_id: str, **fields: Any) -> None:
        """Have something happen to a kernel."""
        kernel = self.kernels[kernel_id]
        kernel.state = fields.pop("state", kernel.state)
        kernel.fields.update(fields)
        self.tell(kernel)
        self.place()

    def set_room(self, room: float) -> None:
        self.room = room
        self.place()

    def tell(self, kernel: Kernel) -> None:
        self.publish("row", {"row": kernel.row()})

    def publish(self, kind: str, data: dict[str, Any]) -> None:
        self._log.append((kind, json.loads(json.dumps(data))))
        for news in self._streams:
            news.set()

    def forget_events(self) -> None:
        """Streams that come back begin anew."""
        self._name = uuid4().hex
        self._end_streams()

    def place(self) -> None:
        """Give shares to who waits, in order."""
        for kernel in list(self.kernels.values()):
            held = sum(_gpus(each.size) for each in self.kernels.values() if each.holds)
            if kernel.state in ("waiting", "taking") and held + _gpus(kernel.size) <= self.room:
                kernel.state = self.placed if kernel.state == "waiting" else "ready"
                self.tell(kernel)

    def _end_streams(self) -> None:
        for news in self._streams:
            news.closed = True  # type: ignore[attr-defined]
            news.set()

    # -- the wire ------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        try:
            return await self._answer(request)
        finally:
            self._requests.discard(task)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path, what = request.match_info["path"], f"{request.method} {request.match_info['path']}"
        self.asked.append(what)
        body = await request.json() if request.can_read_body else None
        self.bodies.append((what, body))
        if request.headers.get("Authorization") != f"token {TOKEN}":
            return _problem(401, "The Hub does not know this token.")
        if self.problem is not None:
            return _problem(*self.problem)
        if self.stalled is not None and path != "/v1/events":
            await self.stalled.wait()
        fault = next((one for one in self.faults if one.left and one.pattern.search(what)), None)
        if fault is not None:
            fault.left -= 1
            if fault.when == "before":
                return _broken(request)
            if fault.when.isdecimal():
                return _problem(int(fault.when), "It cannot be done now.")
        if path == "/v1/events":
            return await self._events(request)
        instance = request.headers["Gpu-Share-Instance"]
        assert re.fullmatch("[0-9a-f]{32}", instance)
        try:
            status, data = self._do(request, path, body or {}, instance)
        except LookupError:
            status, data = 404, {"detail": "Your server has no such kernel."}
        except ValueError as error:
            status, data = 409, told("detail", words_of(error))
        if fault is not None:
            return _broken(request)
        return web.json_response(data, status=status)

    def _do(
        self, request: web.Request, path: str, body: dict[str, Any], instance: str
    ) -> tuple[int, Any]:
        if path == "/v1/machine":
            return 200, self.machine()
        if path == "/v1/fits":
            why = "No room." if self.why is None else told("why", self.why)
            return 200, [None if size == "1/4" else why for size in body["sizes"]]
        if path == "/v1/rounding":
            return 200, {"note": f"{body['size']} is exact."}
        if path == "/v1/details":
            return 200, [_detail(kernel) for kernel in self.kernels.values()]
        if path == "/v1/usage":
            return 200, [_USE]
        if path in ("/v1/admin/shares", "/v1/admin/usage"):
            if not self.administrator:
                return 403, {"detail": "That is for administrators: custom:gpu-share:admin."}
            if path == "/v1/admin/usage":
                return 200, [_USE, {**_USE, "of": "group", "name": "course"}]
            return 200, [_of_all(kernel) for kernel in self.kernels.values()]
        if path == "/v1/idle":
            self.idle = body["kernels"]
            return 200, {"wanted": self.wanted, "waiting": bool(self.wanted)}
        if path == "/v1/servers/self":
            self.left.append(instance)
            return 200, {}
        if path == "/v1/shares":
            return 200, [self._told(kernel, instance) for kernel in self.kernels.values()]
        _, _, _, kernel_id, *rest = path.split("/")
        if request.method == "PUT":
            return self._put(kernel_id, body, instance)
        if request.method == "DELETE":
            return 200, self._delete(kernel_id, request.query["attempt"])
        kernel = self.kernels[kernel_id]
        if rest == ["adopt"]:
            return self._adopt(kernel, body, instance)
        if rest == ["connection"]:
            return 200, kernel.keys
        if rest == ["log"]:
            return 200, {"text": f"the last {request.query['lines']} lines"}
        if body["attempt"] != kernel.attempt or kernel.instance != instance:
            raise ValueError("The kernel was started again since.")
        if request.method == "PATCH":
            kernel.path = body["path"]
            self.tell(kernel)
            return 200, kernel.row()
        return getattr(self, "_" + rest[0].replace("-", "_"))(kernel, body)  # type: ignore[no-any-return]

    def machine(self) -> dict[str, Any]:
        from jupyter_gpu_share._version import __version__

        held = sum(_gpus(each.size) for each in self.kernels.values() if each.holds)
        return {
            "version": self.version or __version__,
            "engine": "kubernetes",
            "backend": "dra",
            "style": "lease",
            "place": "cluster test, namespace 'kernels'",
            "paused": False,
            "simulation": "",
            "gpus": [
                {
                    "uuid": "GPU-0",
                    "model": "A100",
                    "node": "node-1",
                    "memory_bytes": 80 * GIB,
                    "free_bytes": int((1 - held) * 80 * GIB),
                    "profile": None,
                    "simulated": True,
                    "kernels": sum(each.holds for each in self.kernels.values()),
                    "index": 0,
                }
            ],
            "memory_to_come": [40 * GIB],
            "you": {
                "user": "alice",
                "server": "",
                "groups": [],
                "administrator": False,
                **({} if self.limits is None else {"limits": self.limits}),
            },
            "kernels": {
                "python": sys.executable,
                "renewal": 1.0,
                "encrypt": self.encrypt,
                "image": "localhost/kernel:1",
                "images": {},
                "allowed_environment": ["LANG"],
            },
        }

    def _told(self, kernel: Kernel, instance: str) -> dict[str, Any]:
        other = kernel.instance != instance and kernel.instance in self.alive
        return {**kernel.row(), "held_by_other": other}

    def _put(self, kernel_id: str, body: dict[str, Any], instance: str) -> tuple[int, Any]:
        known = self.kernels.get(kernel_id)
        if known is not None and known.attempt == body["attempt"]:
            return 200, known.row()
        if self.refused:
            raise ValueError(self.refused)
        if known is not None:
            self._delete(kernel_id, known.attempt)
        info = body["info"]
        kernel = Kernel(
            kernel_id,
            body["attempt"],
            body["size"],
            instance,
            info["kernel_name"],
            info["path"],
            keys=body["pod"]["keys"],
            pod=body["attempt"],
        )
        self.kernels[kernel_id] = kernel
        self.pods[kernel.attempt] += 1
        self.tell(kernel)
        answer = kernel.row()
        self.place()
        return 201, answer

    def _delete(self, kernel_id: str, attempt: str) -> dict[str, Any]:
        kernel = self.kernels.get(kernel_id)
        if kernel is not None and kernel.attempt == attempt:
            del self.kernels[kernel_id]
            self.publish("gone", {"kernel_id": kernel_id, "attempt": attempt})
            self.place()
        return {}

    def _adopt(self, kernel: Kernel, body: dict[str, Any], instance: str) -> tuple[int, Any]:
        if (kernel.instance, kernel.attempt) != (instance, body["attempt"]):
            if kernel.instance != body["before"] or kernel.instance in self.alive:
                raise ValueError("Another process of your server has taken this kernel over.")
            kernel.instance, kernel.attempt = instance, body["attempt"]
        self.tell(kernel)
        return 200, kernel.row()

    def _settle(self, kernel: Kernel, body: dict[str, Any]) -> tuple[int, Any]:
        return self._take(kernel, body)

    def _release(self, kernel: Kernel, body: dict[str, Any]) -> tuple[int, Any]:
        if kernel.state == "taking":
            raise ValueError("The kernel waits for its share.")
        kernel.state = "released"
        self.tell(kernel)
        self.place()
        return 202, kernel.row()

    def _take(self, kernel: Kernel, body: dict[str, Any]) -> tuple[int, Any]:
        if kernel.state == "released":
            kernel.state = "taking"
            kernel.fields.pop("failed", None)
            self.tell(kernel)
            self.place()
        return 202, kernel.row()

    def _withdraw(self, kernel: Kernel, body: dict[str, Any]) -> tuple[int, Any]:
        if kernel.state == "taking":
            kernel.state = "released"
        self.tell(kernel)
        return 200, kernel.row()

    def _change(self, kernel: Kernel, body: dict[str, Any]) -> tuple[int, Any]:
        held = sum(_gpus(each.size) for each in self.kernels.values() if each.holds)
        free = self.room - held + _gpus(kernel.size)
        if _gpus(body["size"]) > free:
            if body["dry_run"]:
                return 200, {"change": None}
            raise ValueError("There is no room for that size.")
        if not body["dry_run"]:
            kernel.size = body["size"]
            self.tell(kernel)
            self.place()
        return 200, {"change": {"share": share(body["size"]), "beside": True}}

    def _let_go(self, kernel: Kernel, body: dict[str, Any]) -> tuple[int, Any]:
        return 202, {}

    def _leaving(self, kernel: Kernel, body: dict[str, Any]) -> tuple[int, Any]:
        kernel.fields["removal"] = {"reason": "The pod is to end.", "seconds": body["grace"]}
        self.tell(kernel)
        return 202, {}

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        news = asyncio.Event()
        self._streams.add(news)
        try:
            name, _, number = request.headers.get("Last-Event-ID", "").partition("-")
            if name == self._name:
                at = int(number)
            else:
                at = len(self._log)
                instance = request.headers["Gpu-Share-Instance"]
                rows = [self._told(kernel, instance) for kernel in self.kernels.values()]
                await response.write(self._text(at, "reset", {"shares": rows}))
            while not getattr(news, "closed", False):
                news.clear()
                for kind, data in self._log[at:]:
                    at += 1
                    await response.write(self._text(at, kind, data))
                await news.wait()
        except ConnectionResetError:
            pass
        finally:
            self._streams.discard(news)
        return response

    def _text(self, number: int, kind: str, data: dict[str, Any]) -> bytes:
        return f"id: {self._name}-{number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def _gpus(size: str) -> float:
    return {"1": 1.0, "1/2": 0.5, "1/4": 0.25, "0": 0.0}[size]


def _detail(kernel: Kernel) -> dict[str, Any]:
    states = {"ready": "active", "waiting": "queued", "taking": "waking"}
    return {
        "kernel_id": kernel.kernel_id,
        "kernel_name": kernel.kernel_name,
        "path": kernel.path,
        "user": "alice",
        "size": kernel.size,
        "state": states.get(kernel.state, kernel.state),
        "reason": "",
        "share": share(kernel.size) if kernel.holds else None,
        "queue": None,
        "engine": "kubernetes",
        "backend": "dra",
        "style": "lease",
    }


_USE = {"day": "2026-11-29", "of": "user", "name": "alice"}
_USE |= {"held": 7200.0, "used": 3600.0, "idle": 3600.0, "given_back": 0.0}


def _of_all(kernel: Kernel) -> dict[str, Any]:
    states = {"ready": "held", "released": "lent"}
    return {
        "user": "bob",
        "server": "lab",
        "kernel_id": kernel.kernel_id,
        "size": kernel.size,
        "state": states.get(kernel.state, "waiting"),
        "queue": {"position": 1, "of": 2},
        "reason": "",
        "share": share(kernel.size) if kernel.holds else None,
        "pieces": [],
        "info": {"user": "bob", "path": kernel.path, "kernel_name": kernel.kernel_name},
        "idle_seconds": None,
    }


def _problem(status: int, detail: str) -> web.Response:
    data = {"title": "A problem", "status": status, "detail": detail}
    return web.json_response(data, status=status, content_type="application/problem+json")


def _broken(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@asynccontextmanager
async def fake_broker(room: float = 1.0) -> AsyncIterator[FakeClusterBroker]:
    """A fake broker that runs, until the end."""
    broker = FakeClusterBroker(room)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()
