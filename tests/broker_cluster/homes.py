"""A home of all users' kernels over HTTP, with a fake cluster and a fake Hub, and its users."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from fake_hub import Clock, FakeHub, model
from fake_objects import KEY, FakeCluster, FakeObjects, FakeOrder, FakeRules
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.testing import bind_unused_port

from jupyter_gpu_share.broker.cluster.callers import Callers
from jupyter_gpu_share.broker.cluster.kernel import Kernel
from jupyter_gpu_share.broker.cluster.kernels import Registry
from jupyter_gpu_share.broker.cluster.presence import Process
from jupyter_gpu_share.broker.cluster.routes import Desk, routes
from jupyter_gpu_share.broker.cluster.ruling import Key
from jupyter_gpu_share.broker.cluster.service import Route, application, make_server
from jupyter_gpu_share.broker.cluster.takeovers import Parking
from jupyter_gpu_share.broker.events import Events
from jupyter_gpu_share.engines.base import Connection
from jupyter_gpu_share.engines.idle_shares import IdleShare
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.user_limits import UserLimit
from jupyter_gpu_share.size import Size

CURVE = "abcdefghij" * 4
PATIENCE = 20.0


class FakeSeen:
    """What the routes are told of a cluster."""

    sharing = ("dra", "lease")

    def __init__(self) -> None:
        self.heard: list[tuple[Process, Mapping[str, IdleShare]]] = []
        self.limits: dict[str, Sequence[UserLimit]] = {}

    async def machine(self) -> Mapping[str, Any]:
        return {
            "backend": "dra",
            "style": "lease",
            "place": "a fake",
            "paused": False,
            "gpus": [],
            "memory_to_come": [],
        }

    def user_limits(self, user: str, groups: frozenset[str]) -> Sequence[UserLimit]:
        return self.limits.get(user, ())

    async def fits(
        self, key: Key, groups: frozenset[str], sizes: Sequence[Size]
    ) -> list[str | None]:
        return [None for _ in sizes]

    def rounding(self, size: Size) -> str:
        return f"{size} is what it is."

    async def connection(self, kernel: Kernel) -> Connection:
        return await kernel.objects.connection(kernel.address or "")

    async def hear_idle(
        self, process: Process, words: Mapping[str, IdleShare], now: datetime
    ) -> Mapping[str, Any]:
        self.heard.append((process, words))
        return {"wanted": {}, "taken": [], "waiting": False}

    def now(self) -> datetime:
        return datetime.now(timezone.utc)


#: The process of the broker, as agents know it.
BROKER = "b" * 32


class FakeHome:
    """The home of the service, without a cluster."""

    ready = True

    def __init__(self, kept: float = 1000.0, parking: Parking | None = None) -> None:
        self.parking = parking
        self.cluster, self.rules, self.events = FakeCluster(), FakeRules(), Events()
        self.hub, self.clock, self.seen = FakeHub(), Clock(), FakeSeen()
        self.callers = Callers(self.hub, "gpu-share", clock=self.clock)
        self.settings = KubernetesEngine()
        self.kept = kept
        self.order = FakeOrder()
        self.registry = self._registry()
        self.url = ""

    def _registry(self) -> Registry:
        return Registry(
            self.cluster.make,
            self.events,
            self.rules,
            self.order,
            kept=self.kept,
            heard=lambda: self.callers.hub_back,
            callers=self.callers,
            instance=BROKER,
            parking=self.parking,
        )

    def restored(self, kernels: list[Kernel]) -> Registry:
        """The registry of the next broker, with these of the last one."""
        registry = self._registry()
        for each in kernels:
            registry.restore(
                each.key,
                each.attempt,
                each.plan,
                each.objects.owner,  # type: ignore[attr-defined]
                each.groups,
                each.objects.name,
                ran=each.up,
            )
        return registry

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def desk(self) -> Desk:
        return Desk(self.registry, self.events, self.seen, self.settings)

    def routes(self) -> Sequence[Route]:
        return routes(self.desk())

    def user(self, user: str, server: str | None = "", **other: Any) -> User:
        token = uuid4().hex
        self.hub.tokens[token] = model(user, server, **other)
        return User(self, token, user, server)

    def gone(self, user: User) -> None:
        """Time passes until the process of a user is gone; it may come back."""
        process = Process(user.name, user.server or "", user.instance)
        self.registry.presence.refused(process)
        self.registry.presence.look()


class User:
    """One process of a user's server."""

    def __init__(self, home: FakeHome, token: str, name: str, server: str | None) -> None:
        self.home, self.token, self.name, self.server = home, token, name, server
        self.instance = uuid4().hex
        self.last_stream = ""

    def again(self) -> User:
        """Another process of the same server."""
        return User(self.home, self.token, self.name, self.server)

    async def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        known = {"Authorization": f"token {self.token}", "Gpu-Share-Instance": self.instance}
        request = HTTPRequest(
            f"{self.home.url}{path}",
            method=method,
            headers={**known, **{k.replace("_", "-"): v for k, v in headers.items()}},
            body=None if body is None else json.dumps(body),
            allow_nonstandard_methods=True,
            request_timeout=PATIENCE,
        )
        answer = await AsyncHTTPClient().fetch(request, raise_error=False)
        return answer.code, json.loads(answer.body)

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = await self.ask(method, path, body)
        assert status < 300, (status, answer)
        return answer

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        status, answer = await self.ask(method, path, body)
        assert status >= 400, (status, answer)
        assert "\n" not in answer["detail"]
        return status, answer["detail"]

    def plan(self, size: str = "1/4", **other: Any) -> dict[str, Any]:
        return {
            "attempt": uuid4().hex,
            "size": size,
            "info": {"kernel_name": "python3", "path": "a.ipynb"},
            "pod": {
                "language": "python",
                "flags": [],
                "hash_seed": "",
                "keys": {
                    "key": KEY,
                    "signature_scheme": "hmac-sha256",
                    "curve_publickey": CURVE,
                    "curve_secretkey": CURVE,
                },
            },
            **other,
        }

    async def start(self, kernel_id: str = "k", size: str = "1/4") -> dict[str, Any]:
        """A kernel that is up."""
        row = await self.ok("PUT", f"/v1/shares/{kernel_id}", self.plan(size))
        return await self.until(kernel_id, "ready") if row["state"] != "ready" else row

    async def row(self, kernel_id: str = "k") -> dict[str, Any] | None:
        rows = await self.ok("GET", "/v1/shares")
        return next((row for row in rows if row["kernel_id"] == kernel_id), None)

    async def until(self, kernel_id: str, state: str) -> dict[str, Any]:
        """The row, when it has this state; heard by events alone."""
        async with self.events() as heard:
            async for _, kind, data in heard:
                rows = data["shares"] if kind == "reset" else [data.get("row")]
                for row in rows:
                    if row and row["kernel_id"] == kernel_id and row["state"] == state:
                        return row
        raise AssertionError(f"the stream ended; its answer was {self.last_stream}")

    @asynccontextmanager
    async def events(
        self, last: str = "", *, instance: bool = False
    ) -> AsyncIterator[AsyncIterator[tuple[str, str, Any]]]:
        """A stream of events; with ``instance`` it shows that the process lives."""
        url = urlsplit(self.home.url)
        host, port = str(url.hostname), url.port
        reader, writer = await asyncio.open_connection(host, port)
        lines = [
            f"GET {url.path}/v1/events HTTP/1.1",
            "Host: x",
            "Connection: close",
            f"Authorization: token {self.token}",
        ]
        lines += [f"Gpu-Share-Instance: {self.instance}"] if instance else []
        lines += [f"Last-Event-ID: {last}"] if last else []
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())

        async def read() -> AsyncIterator[tuple[str, str, Any]]:
            fields: dict[str, str] = {}
            status = (await asyncio.wait_for(reader.readline(), PATIENCE)).decode().strip()
            self.last_stream = status
            while line := await asyncio.wait_for(reader.readline(), PATIENCE):
                name, _, value = line.decode().rstrip("\r\n").partition(": ")
                if name in ("id", "event", "data"):
                    fields[name] = value
                elif not name and "data" in fields:
                    yield fields["id"], fields["event"], json.loads(fields["data"])
                    fields = {}

        try:
            yield read()
        finally:
            writer.close()


@asynccontextmanager
async def fake_home(**settings: Any) -> AsyncIterator[FakeHome]:
    """One that listens."""
    home = FakeHome(**settings)
    server = make_server(application(home.callers, home))
    listening, port = bind_unused_port()
    server.add_socket(listening)
    home.url = f"http://127.0.0.1:{port}"
    try:
        yield home
    finally:
        server.stop()
        await home.registry.close()
        await server.close_all_connections()
        await home.callers.close()


def held(home: FakeHome) -> list[FakeObjects]:
    """Pods that are there."""
    return list(home.cluster.pods.values())
