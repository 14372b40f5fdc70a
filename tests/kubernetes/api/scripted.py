"""A FAKE API server on loopback, for what a real one cannot be made to do on demand.

It keeps pods, lists them in pages and streams their changes as the real one does, as far as the
tests need that. What it does wrong is asked of it beforehand, by a script.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from listener import Listener

Object = dict[str, Any]

NAMESPACE = "team"
PODS_PATH = f"/api/v1/namespaces/{NAMESPACE}/pods"
ATTEMPT = "gpu-share.jupyter.org/attempt"


def pod(name: str, attempt: str = "") -> Object:
    """A pod as a client sends it."""
    annotations = {ATTEMPT: attempt} if attempt else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
    }


@dataclass
class Call:
    """A request that came. ``verb`` is Kubernetes', or ``other``; ``at`` is monotonic."""

    verb: str
    method: str
    target: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    at: float = field(default_factory=time.monotonic)


class Line:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Write the beginning of an answer."""
        lines = [f"HTTP/1.1 {status} Scripted", *(f"{k}: {v}" for k, v in headers.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Write a whole answer."""
        given = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self.head(status, given | (headers or {}))
        self.writer.write(body)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        """Write a piece of a long answer."""
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        """Drop the connection at once."""
        self.writer.transport.abort()


#: What is done with a request instead of the right thing; False: the connection is of no more use.
Act = Callable[["ScriptedServer", Call, Line], Awaitable[bool]]


class ScriptedServer:
    """The FAKE.

    Attributes
    ----------
    calls: what was asked, in order.
    pods: what there is, by name.
    version: the latest resource version.
    oldest: a watch or page from before it is answered with 410.
    tokens: that are accepted; empty: every one.
    lines: connections that are open.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.pods: dict[str, Object] = {}
        self.version = 100
        self.oldest = 0
        self.tokens: set[str] = set()
        self.lines: set[Line] = set()
        self.port = 0
        self.scheme = "http"
        self._uids = 0
        self._script: dict[str, deque[Act]] = {}
        self._history: list[tuple[int, bytes]] = []
        self._watches: set[asyncio.Queue[bytes | None]] = set()
        self._pages: dict[str, list[Object]] = {}
        self._listener = Listener(self._serve)

    async def start(self, tls: ssl.SSLContext | None = None, port: int = 0) -> ScriptedServer:
        """Listen on loopback."""
        await self._listener.start(port, ssl=tls, limit=2**24)
        self.scheme = "https" if tls else "http"
        self.port = self._listener.port
        return self

    async def close(self) -> None:
        """End, and drop what is connected."""
        for line in list(self.lines):
            line.reset()
        await self._listener.close()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def asked(self, verb: str) -> list[Call]:
        """The requests of one verb."""
        return [call for call in self.calls if call.verb == verb]

    def then(self, verb: str, *acts: Act) -> None:
        """Do these with the next requests of a verb, one after the other."""
        self._script.setdefault(verb, deque()).extend(acts)

    # -- what happens in the cluster ---------------------------------------------------------

    def put(self, name: str, body: Object | None = None, *, told: bool = True) -> Object:
        """Make or change a pod; without ``told`` the event is lost."""
        old = self.pods.get(name)
        new = deepcopy(old or body or pod(name))
        self.version += 1
        if old is None:
            self._uids += 1
            new["metadata"]["uid"] = f"uid-{self._uids}"
        new["metadata"]["resourceVersion"] = str(self.version)
        self.pods[name] = new
        if told:
            self.say("MODIFIED" if old else "ADDED", new)
        return new

    def remove(self, name: str, *, told: bool = True) -> Object:
        """Delete a pod; without ``told`` the event is lost."""
        gone = deepcopy(self.pods.pop(name))
        self.version += 1
        gone["metadata"]["resourceVersion"] = str(self.version)
        if told:
            self.say("DELETED", gone)
        return gone

    def compact(self) -> None:
        """Forget what was before."""
        self.oldest = self.version + 1
        self._history.clear()
        self._pages.clear()

    # -- what its watches say ----------------------------------------------------------------

    def say(self, kind: str, obj: Object) -> None:
        """Send an event to every watch, true or not."""
        line = json.dumps({"type": kind, "object": obj}).encode() + b"\n"
        self._history.append((self.version, line))
        self.send(line)

    def bookmark(self) -> None:
        """Send what is sent so that a quiet watch keeps its position."""
        meta = {"resourceVersion": str(self.version), "creationTimestamp": None}
        obj = {"kind": "Pod", "apiVersion": "v1", "metadata": meta}
        self.send(json.dumps({"type": "BOOKMARK", "object": obj}).encode() + b"\n")

    def _all_sent(self) -> Object:
        """What ends the objects of a list that is sent as a stream."""
        notes = {"k8s.io/initial-events-end": "true"}
        meta = {"resourceVersion": str(self.version), "annotations": notes}
        return {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": meta}}

    def send(self, data: bytes) -> None:
        """Send bytes to every watch that is open; later ones do not see them."""
        for queue in self._watches:
            queue.put_nowait(data)

    def end_watches(self) -> int:
        """End every watch as if its time were over; returns how many there were."""
        for queue in self._watches:
            queue.put_nowait(None)
        return len(self._watches)

    def reset_lines(self) -> None:
        """Drop every connection."""
        for line in list(self.lines):
            line.reset()

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """Those that serve connections."""
        return self._listener.tasks

    @property
    def watches(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    # -- serving -----------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        self.lines.add(line)
        try:
            while (call := await self._read(reader)) is not None:
                self.calls.append(call)
                script = self._script.get(call.verb)
                act = script.popleft() if script else right
                if not await act(self, call, line):
                    break
        finally:
            self.lines.discard(line)
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> Call | None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *rest = head.decode().strip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {k.lower(): v for k, v in (one.split(": ", 1) for one in rest)}
        data = await reader.readexactly(int(headers.get("content-length", "0")))
        url = urlsplit(target)
        query = dict(parse_qsl(url.query))
        body = json.loads(data) if data else None
        verb = _verb(method, url.path, query)
        return Call(verb, method, target, url.path, query, headers, body)

    async def right(self, call: Call, line: Line) -> bool:
        """Answer as a real server would."""
        token = call.headers.get("authorization", "").partition(" ")[2]
        if self.tokens and token not in self.tokens:
            await line.answer(401, status(401, "Unauthorized", "Unauthorized"))
        elif call.verb == "stream":
            added = [{"type": "ADDED", "object": each} for each in self.pods.values()]
            lines = [json.dumps(each).encode() + b"\n" for each in [*added, self._all_sent()]]
            return await stream(*lines)(self, call, line)
        elif call.verb == "watch":
            return await self._watch(call, line)
        else:
            code, answer = self._answer(call)
            await line.answer(code, answer)
        return True

    def _answer(self, call: Call) -> tuple[int, bytes]:
        name = call.path.rpartition("/")[2]
        old = self.pods.get(name)
        if call.verb == "list":
            return self._list(call.query)
        if call.verb == "create":
            name = call.body["metadata"]["name"]
            if name in self.pods:
                return 409, status(409, "AlreadyExists", f'pods "{name}" already exists')
            return 201, json.dumps(self.put(name, call.body)).encode()
        if call.verb == "other":
            return 200, json.dumps({"path": call.path, "groups": []}).encode()
        if old is None:
            return 404, status(404, "NotFound", f'pods "{name}" not found')
        if call.verb == "delete":
            uid = (call.body.get("preconditions") or {}).get("uid")
            if uid not in (None, old["metadata"]["uid"]):
                words = f"the UID in the precondition ({uid}) does not match the UID in record"
                return 409, status(409, "Conflict", words)
            return 200, json.dumps(self.remove(name)).encode()
        if call.verb == "patch":
            if _version(call.body) not in (None, _version(old)):
                return 409, status(409, "Conflict", "the object has been modified")
            self.pods[name] = merged(old, call.body)
            return 200, json.dumps(self.put(name)).encode()
        return 200, json.dumps(old).encode()

    def _list(self, query: dict[str, str]) -> tuple[int, bytes]:
        token = query.get("continue")
        if token is not None and token not in self._pages:
            return 410, status(410, "Expired", "The provided continue parameter is too old")
        items = self._pages.pop(token) if token else list(self.pods.values())
        size = int(query.get("limit", "0")) or len(items)
        meta: Object = {"resourceVersion": str(self.version)}
        if items[size:]:
            meta["continue"] = f"after {len(self._pages)}=/+"
            self._pages[meta["continue"]] = items[size:]
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": items[:size]}
        return 200, json.dumps(body).encode()

    async def _watch(self, call: Call, line: Line) -> bool:
        since = int(call.query["resourceVersion"])
        if since < self.oldest - 1:
            await line.answer(410, status(410, "Expired", "too old resource version"))
            return True
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        for version, data in self._history:
            if version > since:
                queue.put_nowait(data)
        self._watches.add(queue)
        gone = asyncio.ensure_future(line.gone())
        end = asyncio.get_running_loop().call_later(
            float(call.query["timeoutSeconds"]), queue.put_nowait, None
        )
        try:
            line.head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"})
            while True:
                said = asyncio.ensure_future(queue.get())
                await asyncio.wait([said, gone], return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    said.cancel()
                    return False
                data = said.result()
                await line.chunk(data or b"")
                if data is None:
                    # What was read ahead is lost.
                    return False
        finally:
            self._watches.discard(queue)
            end.cancel()
            gone.cancel()


def _verb(method: str, path: str, query: dict[str, str]) -> str:
    if not re.fullmatch(r"/api/v1/(namespaces/[^/]+/)?pods(/[^/]+)?", path):
        return "other"
    if "sendInitialEvents" in query:
        return "stream"
    if method == "GET":
        if path.endswith("/pods"):
            return "watch" if "watch" in query else "list"
        return "get"
    return {"POST": "create", "PATCH": "patch", "DELETE": "delete"}[method]


def _version(obj: Object) -> str | None:
    found: str | None = obj.get("metadata", {}).get("resourceVersion")
    return found


def merged(old: Any, patch: Any) -> Any:
    """A merge patch (RFC 7386), applied."""
    if not isinstance(patch, dict):
        return patch
    found = {key: value for key, value in (old or {}).items() if patch.get(key, "") is not None}
    return found | {k: merged(found.get(k), v) for k, v in patch.items() if v is not None}


def status(code: int, reason: str, message: str) -> bytes:
    """A ``Status`` as Kubernetes sends it."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
    return json.dumps(body | {"code": code, "reason": reason, "message": message}).encode()


# -- acts ------------------------------------------------------------------------------------


async def right(server: ScriptedServer, call: Call, line: Line) -> bool:
    """What a real server does."""
    return await server.right(call, line)


def refuse(code: int, body: bytes | None = None, **headers: str) -> Act:
    """Answer with an error; underscores in the names of headers stand for hyphens."""

    async def act(server: ScriptedServer, call: Call, line: Line) -> bool:
        data = status(code, "", "as scripted") if body is None else body
        await line.answer(code, data, {k.replace("_", "-"): v for k, v in headers.items()})
        return True

    return act


def say(body: bytes) -> Act:
    """Answer 200 with this."""
    return refuse(200, body)


async def lose(server: ScriptedServer, call: Call, line: Line) -> bool:
    """Do what is asked, and let the answer be lost."""
    server._answer(call)
    line.reset()
    return False


async def reset(server: ScriptedServer, call: Call, line: Line) -> bool:
    """Drop the connection in the middle of the answer."""
    line.head(200, {"Content-Type": "application/json", "Content-Length": "1000"})
    line.writer.write(b'{"kind": ')
    await line.writer.drain()
    line.reset()
    return False


async def silence(server: ScriptedServer, call: Call, line: Line) -> bool:
    """Never answer, and keep the connection."""
    await line.gone()
    return False


def stream(*data: bytes, then: str = "hold") -> Act:
    """A watch that says this, and then is silent (``hold``), ends or breaks (``reset``)."""

    async def act(server: ScriptedServer, call: Call, line: Line) -> bool:
        line.head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"})
        for piece in data:
            await line.chunk(piece)
        if then == "hold":
            await line.gone()
        elif then == "end":
            await line.chunk(b"")
        else:
            line.reset()
        return then == "end"

    return act


def write_kubeconfig(path: Path, server: str, **user: Any) -> Path:
    """Write a kubeconfig; JSON is YAML too. ``cluster`` adds to what it says of the cluster."""
    cluster = {"server": server, **user.pop("cluster", {})}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": cluster}],
        "users": [{"name": "alice", "user": user}],
        "contexts": [
            {
                "name": "fake",
                "context": {"cluster": "fake", "user": "alice", "namespace": NAMESPACE},
            }
        ],
        "current-context": "fake",
    }
    path.write_text(json.dumps(content))
    return path
