"""A broker's HTTP service over a fake home, for who asks it as a user's server does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fake_hub import Clock, FakeHub
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.netutil import bind_sockets

from jupyter_gpu_share.broker._http import told
from jupyter_gpu_share.broker.cluster.callers import Callers
from jupyter_gpu_share.broker.cluster.service import (
    CallerHandler,
    Route,
    application,
    make_server,
)
from jupyter_gpu_share.errors import EngineError, NoGpuError, NotPossible

PREFIX = "/hubs/services/gpu-share/"
INSTANCE = "0123456789abcdef" * 2
#: What a Hub tells its service.
TOLD = {
    "JUPYTERHUB_SERVICE_NAME": "gpu-share",
    "JUPYTERHUB_SERVICE_PREFIX": "/hubs/services/gpu-share/",
    "JUPYTERHUB_API_TOKEN": "secret-of-service",
    "JUPYTERHUB_API_URL": "http://hub:8081/hubs/hub/api",
    "JUPYTERHUB_BASE_URL": "/hubs/",
}


class Who(CallerHandler):
    """Tells what is proven of the caller, and what was read of the request."""

    @told
    async def get(self) -> None:
        await self.settings["home"].gate.wait()
        caller = asdict(self.caller)
        self.answer({**caller, "groups": sorted(self.caller.groups)})

    @told
    async def put(self) -> None:
        server = self.server()
        self.something_new()
        self.answer({"server": server, "instance": self.instance, **self.body(size=str)}, 201)

    @told
    async def post(self) -> None:
        error = {"no-gpu": NoGpuError, "not-now": NotPossible, "away": EngineError}
        kind = self.body(kind=str)["kind"]
        raise error[kind]("One line\nand another")

    @told
    async def delete(self) -> None:
        self.of_administrator()
        self.answer({})


class Watch(CallerHandler):
    """Stays open, and proves its caller again when a test says so."""

    bounded = False

    @told
    async def get(self) -> None:
        self.write("open\n")
        await self.flush()
        await self.settings["home"].again.wait()
        await self.prove()
        self.finish("again\n")


class FakeHome:
    """Holds nothing."""

    def __init__(self) -> None:
        self.ready = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.again = asyncio.Event()
        self.opened = self.closed = False
        self.overview = FakeOverview()
        self.metric = 1

    def routes(self) -> Sequence[Route]:
        return [(r"/v1/who", Who, {}), (r"/v1/watch", Watch, {})]

    async def metrics(self) -> bytes:
        if not self.ready:
            raise EngineError("It reads what runs.")
        return b"# HELP a x\n# TYPE a gauge\na %d\n" % self.metric

    async def open(self) -> None:
        self.opened = self.ready = True

    async def close(self) -> None:
        self.closed = True


class FakeOverview:
    """Kernels of ann and bob, as the page asks for them."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.paused = False
        self.rows = [row("ann", "", "a"), row("ann", "lab", "b"), row("bob", "", "c")]

    async def machine(self) -> Mapping[str, Any]:
        gpu = {"model": "H200", "node": "node-1", "uuid": "GPU-1", "kernels": 3}
        memory = {"memory_bytes": 80 * 2**30, "free_bytes": 20 * 2**30}
        return {"engine": "kubernetes", "paused": self.paused, "gpus": [{**gpu, **memory}]}

    async def everything(self) -> Sequence[Mapping[str, Any]]:
        return self.rows

    async def usage(self) -> Sequence[Mapping[str, Any]]:
        amounts = dict.fromkeys(("held", "used", "idle", "given_back"), 3600.0)
        return [
            {"day": "2126-03-01", "of": of, "name": name, **amounts}
            for of, name in (("user", "ann"), ("user", "bob"), ("group", "ann"))
        ]

    async def end(self, user: str, server: str, kernel_id: str) -> None:
        if not any(each["kernel_id"] == kernel_id for each in self.rows):
            raise EngineError(f"There is no kernel {kernel_id} of {user}.")
        self.done.append(("end", user, server, kernel_id))

    async def ask_back(self, user: str, server: str, kernel_id: str) -> None:
        self.done.append(("ask back", user, server, kernel_id))

    async def pause(self, paused: bool) -> None:
        self.paused = paused


def row(user: str, server: str, kernel: str, **other: Any) -> dict[str, Any]:
    """A row of a kernel that holds a share."""
    return {
        "kernel_id": kernel,
        "size": "1/4",
        "state": "held",
        "pieces": [{"uuid": "GPU-1", "memory_bytes": 20 * 2**30}],
        "queue": {"position": 0, "of": 0},
        "reason": "",
        "user": user,
        "server": server,
        "info": {"path": f"{user}-{kernel}-secret.ipynb"},
        "held_since": "2126-03-01T10:00:00+00:00",
        "idle_seconds": None,
        "asked_back": False,
        "keep_until": None,
        "promise": None,
        "room_at": None,
        **other,
    }


class Service:
    """The service on a port of its own, before a fake Hub."""

    def __init__(self, prefix: str = PREFIX, pages: Sequence[Route] = ()) -> None:
        self.hub, self.clock, self.home = FakeHub(), Clock(), FakeHome()
        self.callers = Callers(self.hub, "gpu-share", clock=self.clock)
        self.prefix = prefix
        self.server = make_server(application(self.callers, self.home, prefix, pages))
        sockets = bind_sockets(0, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        self.server.add_sockets(sockets)
        self.client = AsyncHTTPClient(force_instance=True, max_clients=100)

    async def close(self) -> None:
        self.home.gate.set()
        self.home.again.set()
        self.server.stop()
        self.client.close()
        await self.server.close_all_connections()
        await self.callers.close()

    async def ask(
        self, method: str, path: str, body: Any = None, token: str | None = None, **headers: str
    ) -> HTTPResponse:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"token {token}"
        return await self.client.fetch(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            body=body if isinstance(body, bytes) else None if body is None else json.dumps(body),
            headers=sent,
            raise_error=False,
            follow_redirects=False,
            allow_nonstandard_methods=True,
        )

    async def told(self, *request: Any, **more: Any) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        answer = await self.ask(*request, **more)
        return answer.code, json.loads(answer.body)
