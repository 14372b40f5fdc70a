"""The HTTP service of a cluster's broker: who may ask, and what all of its routes share."""

from __future__ import annotations

import logging
import re
import secrets
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias
from urllib.parse import urlsplit

from tornado import web
from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPInputError, HTTPMessageDelegate
from tornado.iostream import IOStream

from ...errors import EngineError, NoGpuError, NotPossible, SizeError
from ...sentences import say
from .._http import MAX_BODY, MAX_HEADERS, JsonHandler, Statuses, told
from ..connections import BoundedServer
from ..hub import ADMINISTRATOR, Hub
from .callers import Caller, Callers, NotAllowed, TooMany, UnknownToken

__all__ = [
    "CallerHandler",
    "Home",
    "Route",
    "application",
    "hub_of",
    "make_server",
]

_log = logging.getLogger(__name__)

_MISSING = (
    "The broker is no service of a JupyterHub here: {} is not set. Without it no token can be "
    "proven; docs/jupyterhub.md says what to set."
)
#: Header that says which process of a user's server asks.
INSTANCE = "Gpu-Share-Instance"
_INSTANCE = re.compile(r"[0-9a-f]{32}")
#: Most connections of one address, behind which the Hub's proxy may have many visitors, and of all.
_CONNECTIONS = (2048, 16384)
#: Bytes of bodies that are still arriving, of one address and of all: whose they are is not known.
_ARRIVING = (4 * 2**20, 64 * 2**20)
#: Seconds that a client has for its next request, and for the body of one.
_IDLE_TIMEOUT, _BODY_TIMEOUT = 120.0, 10.0

#: Pattern of a path below the service's prefix, a handler, and what its ``initialize`` is given.
Route: TypeAlias = tuple[str, type[web.RequestHandler], dict[str, Any]]


class Home(Protocol):
    """What holds the kernels of all users."""

    @property
    def ready(self) -> bool:
        """Whether it knows what runs in the cluster. Before that nobody is answered."""

    def routes(self) -> Sequence[Route]:
        """Its routes, such as ``/v1/shares``. Handlers are `CallerHandler`."""

    async def open(self) -> None:
        """Get to know what runs, and begin to work.

        Raises
        ------
        GpuShareError: it cannot; says why and what to do.
        """

    async def close(self) -> None:
        """Let go of everything. Kernels go on."""


def hub_of(environ: Mapping[str, str]) -> Hub:
    """The Hub, from the environment of a service.

    Raises
    ------
    EngineError: something is not told, or cannot be.
    """
    hub = Hub.of(environ, _MISSING)
    api = urlsplit(hub.api)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", hub.name, re.ASCII):
        raise EngineError(f"JUPYTERHUB_SERVICE_NAME={hub.name!r} is no name of a service.")
    if api.scheme not in ("http", "https") or not api.hostname:
        raise EngineError(
            f"JUPYTERHUB_API_URL={hub.api!r} is no address of a Hub's API; write it like "
            "http://hub:8081/hub/api."
        )
    return hub


class CallerHandler(JsonHandler):
    """A route for who is proven by a token of the Hub.

    What a request says of users and servers counts for nothing; `caller` does.
    """

    caller: Caller
    statuses: ClassVar[Statuses] = (
        (SizeError, 400),
        (UnknownToken, 401),
        (NotAllowed, 403),
        (NoGpuError, 409),
        (NotPossible, 409),
        (TooMany, 429),
    )

    @told
    async def prepare(self) -> None:
        """Called by tornado before each request's method."""
        await self.prove()
        self.enter(self.settings["under_way"], self.caller.user)
        if not self.settings["home"].ready:
            self.refuse(503, say("broker-just-started"))

    async def prove(self) -> None:
        """Prove the caller again, as what is open for long has to do from time to time.

        Raises
        ------
        UnknownToken, NotAllowed, HubAway, TooMany
        """
        callers: Callers = self.settings["callers"]
        self.caller = await callers.of(self.token)

    @property
    def token(self) -> str:
        """The token that was sent; empty where there is none."""
        return _token(self.request.headers.get("Authorization", ""))

    @property
    def instance(self) -> str:
        """Which process of the proven server asks; refused where it is not told."""
        found: str = self.request.headers.get(INSTANCE, "")
        if not _INSTANCE.fullmatch(found):
            self.refuse(400, f"The request needs the header {INSTANCE}: 32 hexadecimal digits.")
        return found

    def server(self) -> str:
        """The proven server's name; a token of none is refused.

        To be asked where something is held or changed.
        """
        if self.caller.server is None:
            self.refuse(
                403,
                "This token belongs to no server of a user, so it may look, but hold nothing; use "
                "the server's own, JUPYTERHUB_API_TOKEN.",
            )
        return self.caller.server

    def something_new(self) -> None:
        """Refuse what begins something while the Hub is away."""
        if not self.caller.fresh:
            self.refuse(503, say("hub-away-nothing-new"))

    def of_administrator(self) -> None:
        """Refuse everybody who is no administrator. They learn nothing of what is there."""
        if not self.caller.administrator:
            self.refuse(
                403,
                "Only an administrator of the broker may do that, with a token that has the scope "
                f"{ADMINISTRATOR}; that of a server has not. The broker's page at the Hub needs "
                "none.",
            )

    def set_default_headers(self) -> None:
        """Called by tornado."""
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")


class _Nothing(CallerHandler):
    @told
    async def prepare(self) -> None:
        where = self.settings["prefix"]
        self.refuse(404, f"There is nothing at this address; the broker's begin with {where}.")


class _Health(JsonHandler):
    """Says without a token that the process lives, and whether it is of use."""

    def initialize(self, *, alive: bool = False) -> None:
        self._alive = alive

    def get(self) -> None:
        ready = bool(self.settings["home"].ready)
        self.answer({"ready": ready}, 200 if ready or self._alive else 503)


def application(
    callers: Callers, home: Home, prefix: str = "/", pages: Sequence[Route] = ()
) -> web.Application:
    """The routes of the service.

    Parameters
    ----------
    prefix: the service's path; it ends with a slash.
    pages: routes for browsers, below the prefix too. They prove their visitors themselves.
    """
    below = re.escape(prefix.rstrip("/"))
    routes = [
        (below + pattern, handler, given) for pattern, handler, given in (*home.routes(), *pages)
    ]
    return web.Application(
        [
            (r"/healthz", _Health),
            # While it waits for another broker's end it lives, and is not to be started again.
            (r"/livez", _Health, {"alive": True}),
            (rf"{below}/healthz", _Health),
            *routes,
        ],
        default_handler_class=_Nothing,
        log_function=lambda handler: None,
        # Cookies are of use to one process alone: who comes back logs in by the Hub, unseen.
        cookie_secret=secrets.token_bytes(32),
        callers=callers,
        home=home,
        prefix=prefix,
        under_way=Counter(),
    )


def make_server(routes: web.Application) -> BoundedServer:
    """A server of these routes, with bounds for what anybody sends."""
    server = _Server(
        routes,
        max_body_size=MAX_BODY,
        max_header_size=MAX_HEADERS,
        max_buffer_size=MAX_BODY + MAX_HEADERS,
        idle_connection_timeout=_IDLE_TIMEOUT,
        body_timeout=_BODY_TIMEOUT,
    )
    server.bounds = _CONNECTIONS
    return server


class _Server(BoundedServer):
    """Who connects is known by their address alone."""

    def initialize(self, *args: Any, **options: Any) -> None:
        super().initialize(*args, **options)
        #: Bytes of bodies that are arriving, by address.
        self.arriving: Counter[str] = Counter()

    def owner(self, stream: IOStream) -> str:
        return str(stream.socket.getpeername()[0])

    def start_request(self, server_conn: Any, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        inner = super().start_request(server_conn, request_conn)
        owner = self._users.get(server_conn.stream, "")
        return _Arriving(inner, self.arriving, str(owner))


class _Arriving(HTTPMessageDelegate):
    """A request whose body counts while it arrives, in which it is not known who sends it."""

    def __init__(self, inner: HTTPMessageDelegate, arriving: Counter[str], owner: str) -> None:
        self._inner, self._arriving, self._owner = inner, arriving, owner
        self._size = 0

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Awaitable[None] | None:
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        each, total = _ARRIVING
        size = len(chunk)
        if self._arriving[self._owner] + size > each or self._arriving.total() + size > total:
            raise HTTPInputError("Too much is being sent at once.")
        self._size += size
        self._arriving[self._owner] += size
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        self._arrived()
        self._inner.finish()

    def on_connection_close(self) -> None:
        self._arrived()
        self._inner.on_connection_close()

    def _arrived(self) -> None:
        self._arriving[self._owner] -= self._size
        self._size = 0
        if not self._arriving[self._owner]:
            del self._arriving[self._owner]


def _token(header: str) -> str:
    """The token of a header; empty where there is none."""
    kind, _, token = header.partition(" ")
    return token.strip() if kind.lower() in ("token", "bearer") else ""
