"""One request to the API server: what comes back, or an error in words."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

import aiohttp

from ._access import Access
from ._errors import KubernetesError, ServerTrouble, Unreachable, Untrusted, error_of

__all__ = ["Transport"]

#: Seconds that one request may take, and a connection until it stands.
_REQUEST, _CONNECT = 15.0, 5.0
#: Bytes of a line of a watch: several times the largest object.
_LONGEST_LINE = 2**25
#: Of a quiet connection: seconds until the first question whether the other side is there, between
#: two of them, and how many without an answer end it. So it is noticed within half a minute.
_PROBES = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_AGENT = "jupyter-gpu-share"

_LOST = (aiohttp.ClientError, asyncio.TimeoutError, ssl.SSLError, OSError)


class Transport:
    """Sends requests with the credentials of ``access``. ``what`` says in errors what was tried."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def read(self, method: str, path: str, what: str, **request: Any) -> bytes:
        """The whole answer to a request; ``request`` is as for `_request`.

        Raises
        ------
        KubernetesError
        """
        async with self._request(method, path, what, **request) as response:
            try:
                return await response.read()
            except _LOST as error:
                raise _unreachable(error, what) from _harmless(error)

    @asynccontextmanager
    async def stream(
        self, path: str, what: str, query: Mapping[str, str], silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Lines of a long answer. They end with an error after ``silence`` seconds without any.

        Raises
        ------
        KubernetesError
        """
        limits = aiohttp.ClientTimeout(
            total=None, connect=_REQUEST, sock_connect=_CONNECT, sock_read=silence
        )
        async with self._request(
            "GET", path, what, query=query, timeout=limits, watching=True
        ) as response:
            _keep_alive(response)
            async with aclosing(_lines(response, what)) as lines:
                yield lines

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        what: str,
        *,
        body: dict[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        kind: str = "application/json",
        accept: str = "",
        timeout: aiohttp.ClientTimeout | None = None,
        watching: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        accept = accept or "application/json"
        headers = {"Accept": accept, "Content-Type": kind, "User-Agent": _AGENT}
        limits = timeout or aiohttp.ClientTimeout(total=_REQUEST, sock_connect=_CONNECT)
        async with self._access.client(watching=watching) as (client, authorization):
            if authorization:
                headers["Authorization"] = authorization
            url = client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
            try:
                answer = await client.rest_client.request(
                    method, url, headers=headers, body=body, _request_timeout=limits
                )
            except _LOST as error:
                raise _unreachable(error, what) from _harmless(error)
            except asyncio.CancelledError:
                # aiohttp cancels what waits for a connection when its session is closed.
                if self._access.closed and not _cancelled():
                    raise KubernetesError("The access to Kubernetes has been closed.") from None
                raise
            response: aiohttp.ClientResponse = answer.response
            # Asked for now: aiohttp lets go of a connection that has failed.
            connection = response.connection
            transport = connection.transport if connection is not None else None
            try:
                if response.status >= 400:
                    raise await _refusal(response, what, authorization)
                yield response
            finally:
                # What is left unread would keep the connection busy.
                if response.content.at_eof():
                    response.release()
                else:
                    response.close()
                    if transport is not None:
                        # Closing TLS in form waits for the other side, which may never answer.
                        transport.abort()


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """Have the system ask whether the other side is there while it says nothing."""
    connection = response.connection
    transport = connection.transport if connection is not None else None
    line = transport.get_extra_info("socket") if transport is not None else None
    if line is None:
        return
    wanted = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in _PROBES.items():
        if (option := getattr(socket, name, None)) is not None:  # not every system has all
            wanted.append((socket.IPPROTO_TCP, option, value))
    with suppress(OSError):  # it has just ended, or is no TCP connection
        for level, option, value in wanted:
            line.setsockopt(level, option, value)


async def _lines(response: aiohttp.ClientResponse, what: str) -> AsyncGenerator[bytes, None]:
    rest = bytearray()
    try:
        async for chunk in response.content.iter_any():
            known = len(rest)  # no end of a line is in there
            rest += chunk
            while (end := rest.find(b"\n", known)) >= 0:
                line = bytes(rest[:end])
                del rest[: end + 1]
                known = 0
                yield line
            if len(rest) > _LONGEST_LINE:
                raise ServerTrouble(f"What came at {what} is too long for a Kubernetes object.")
    except _LOST as error:
        raise _unreachable(error, what) from _harmless(error)


async def _refusal(
    response: aiohttp.ClientResponse, what: str, authorization: str
) -> KubernetesError:
    try:
        text = await response.read()
    except _LOST as error:
        raise _unreachable(error, what) from _harmless(error)
    if authorization:
        # A proxy may answer with what it was sent.
        text = text.replace(authorization.rpartition(" ")[2].encode(), b"***")
    return error_of(response.status, text, what, retry_after=_retry_after(response))


def _unreachable(error: BaseException, what: str) -> Unreachable:
    # Of the error only its kind is told: aiohttp's texts may hold a URL with its query.
    failure: type[Unreachable] = Unreachable
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        words = getattr(cause, "verify_message", "") or "no reason is given"
        failure, reason = Untrusted, f"its certificate is not accepted, {words}"
    elif isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        reason = "no secure connection (TLS) came about"
    elif isinstance(error, aiohttp.ClientProxyConnectionError):
        reason = "no connection to the proxy"
    elif isinstance(error, aiohttp.ClientHttpProxyError):
        reason = f"the proxy refused with {error.status}"
    elif isinstance(error, asyncio.TimeoutError):
        reason = "it did not answer in time"
    else:
        reason = "no connection"
    kind = type(error).__name__
    return failure(
        f"The Kubernetes API cannot be reached: {reason} ({what}, {kind}). Running kernels go on."
    )


def _harmless(error: BaseException) -> BaseException | None:
    """An error as a cause, unless its text may have a proxy's address with its password."""
    return None if isinstance(error, aiohttp.ClientResponseError) else error


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds that the server asks to wait, from either form of the header."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        then = parsedate_to_datetime(value)
        # By the server's own clock, where it tells the time.
        date = response.headers.get("Date")
        now = parsedate_to_datetime(date) if date else datetime.now(timezone.utc)
        return max(0.0, (then - now).total_seconds())
    except (TypeError, ValueError):
        return None


def _cancelled() -> bool:
    """Whether the running task was cancelled; where Python cannot tell (3.10), that it was."""
    task = asyncio.current_task()
    return bool(getattr(task, "cancelling", lambda: 1)())
