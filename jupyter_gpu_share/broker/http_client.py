"""How a user's server, and the command, ask the broker of a cluster: over HTTP, on one event loop.

It uses aiohttp, which the extra ``kubernetes`` has: it keeps connections open between requests,
reads answers piece by piece, and heeds no proxies of the environment. The token goes to the broker
alone: no redirect is followed, and no error or log has it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp

from .._threads import in_thread
from ..errors import EngineError
from ..sentences import heard, say
from .client import BROKER, BrokerAway, BrokerRefused

__all__ = ["TOKEN", "HttpBroker", "News", "broker_url", "pauses", "share_path", "token_of"]

_log = logging.getLogger(__name__)

#: Names the Hub's token of this server in the environment.
TOKEN = "JUPYTERHUB_API_TOKEN"  # noqa: S105 - the name of a variable
#: Seconds for an answer, and for a connection.
_PATIENCE, _CONNECT = 15.0, 5.0
#: Seconds without a sign of life after which a stream counts as lost.
_SILENCE = 45.0
#: Bytes of an answer, and of one event: hundreds of kernels.
_MAX_ANSWER = 16 * 2**20
_CHUNK = 2**16
#: Characters of what it says of a refusal.
_LONGEST_DETAIL = 2000
#: Seconds between two tries to reach a broker that is away: doubled up to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
#: What says that it was not done now, and may be done later.
_NOT_NOW = frozenset({429, 500, 502, 503, 504})
_SIGNS = re.compile(r"[\x21-\x7e]+")


def broker_url(environ: Mapping[str, str] = os.environ) -> str | None:
    """Where the broker of a cluster is, by the environment; None: no such is named.

    Raises
    ------
    EngineError: the environment names what is no address of a broker.
    """
    named = environ.get(BROKER, "").strip()
    if not named.lower().startswith(("http:", "https:")):
        return None
    example = "http://gpu-share-broker.gpu-share:8000/services/gpu-share"
    try:
        parts = urlsplit(named)
        sound = bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or parts.username is not None or parts.query or parts.fragment:
        # The text is not shown: it may have a password.
        raise EngineError(f"{BROKER} is no address of a broker; write it like {example}.")
    return f"{parts.scheme.lower()}://{parts.netloc}{parts.path.rstrip('/')}"


def token_of(environ: Mapping[str, str] = os.environ) -> str:
    """The token by which the Hub proves whose server this is.

    Raises
    ------
    EngineError: there is none.
    """
    token = environ.get(TOKEN, "").strip()
    if not _SIGNS.fullmatch(token):
        raise EngineError(
            f"{TOKEN} is not set: the broker of this cluster knows servers that a JupyterHub has "
            "started, by their token. Start this from a server of the Hub, or one of its terminals."
        )
    return token


def share_path(kernel_id: str, rest: str = "") -> str:
    """The path of one kernel's share."""
    return f"/v1/shares/{quote(kernel_id, safe='')}{rest}"


def pauses() -> Callable[[], float]:
    """Seconds before the next try, each time it is asked: longer and longer, and never in step."""
    longest = _FIRST_PAUSE

    def pause() -> float:
        nonlocal longest
        this, longest = longest, min(longest * 2, _LONGEST_PAUSE)
        return this * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    return pause


@dataclass(frozen=True)
class News:
    """One event of the broker's stream. ``number`` is what a stream is resumed with."""

    number: str
    kind: str
    data: Mapping[str, Any]


class HttpBroker:
    """The broker of a cluster. Belongs to the event loop that it is first used on.

    Every request may be sent twice: where an answer was lost, it is.

    Parameters
    ----------
    url: with the service's prefix, as :func:`broker_url` gives it.
    token: of the server, by which the Hub tells whose it is.
    instance: which process of that server asks.
    patience: seconds for an answer.
    silence: seconds without a sign of life after which a stream of events counts as lost.
    """

    def __init__(
        self,
        url: str,
        token: str,
        instance: str,
        *,
        patience: float = _PATIENCE,
        silence: float = _SILENCE,
    ) -> None:
        self.url = url
        self.instance = instance
        self._token = token
        self._patience = patience
        self._silence = silence
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"HttpBroker({self.url!r})"

    async def close(self) -> None:
        """Close the connections; the next request makes others."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(
        self, method: str, path: str, body: Any = None, *, patience: float | None = None
    ) -> Any:
        """The answer's JSON.

        Parameters
        ----------
        path: below the service's prefix, such as ``/v1/machine``.
        patience: seconds for this answer.

        Raises
        ------
        BrokerAway: it does not answer, or cannot do it now. It may have been done. Ask again.
        BrokerRefused: it answers, and does not do it.
        """
        seconds = self._patience if patience is None else patience
        for last in (False, True):
            session = await self._opened()
            try:
                async with session.request(
                    method,
                    self.url + path,
                    data=_bytes_of(body),
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT),
                ) as response:
                    status, text = response.status, await _content(response)
            except (aiohttp.ServerDisconnectedError, ConnectionResetError) as error:
                # It may have closed a connection that was long unused.
                if last:
                    raise self._away() from _without_request(error)
                continue
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                raise self._away(error) from _without_request(error)
            return self._read(status, text)
        raise self._away()

    async def events(self, last: str = "") -> AsyncGenerator[News, None]:
        """What happens, as it comes, until the stream ends or nothing is heard any more.

        Parameters
        ----------
        last: number of the last event that was heard.

        Raises
        ------
        BrokerAway, BrokerRefused
        """
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
        session = await self._opened()
        try:
            limit = aiohttp.ClientTimeout(sock_connect=_CONNECT, sock_read=self._silence)
            async with session.get(
                f"{self.url}/v1/events", headers=headers, timeout=limit, allow_redirects=False
            ) as response:
                if response.status != 200:
                    self._read(response.status, await _content(response))
                async for news in _events(response):
                    yield news
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise self._away(error) from _without_request(error)

    async def _opened(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None or self._session.closed:
                # Its authorities are read from files.
                trust = await in_thread(ssl.create_default_context) if self._is_secure else None
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=trust if trust is not None else True),
                    headers={
                        "Authorization": f"token {self._token}",
                        "Gpu-Share-Instance": self.instance,
                        "Content-Type": "application/json",
                        "Accept-Encoding": "identity",
                        "Accept": "application/json",
                    },
                    cookie_jar=aiohttp.DummyCookieJar(),
                    trust_env=False,
                    auto_decompress=False,
                )
            return self._session

    @property
    def _is_secure(self) -> bool:
        return self.url.startswith("https:")

    def _read(self, status: int, text: bytes) -> Any:
        data: Any = None
        with suppress(ValueError, RecursionError):
            data = json.loads(text) if text else {}
        if 200 <= status < 300 and data is not None:
            return data
        raise self._refusal(status, data)

    def _refusal(self, status: int, data: Any) -> EngineError:
        detail = heard(data, "detail") if isinstance(data, dict) else ""
        if self._token in str(data) or len(detail) > _LONGEST_DETAIL:
            detail = str(detail).replace(self._token, "(token)")[:_LONGEST_DETAIL]
        if status in _NOT_NOW:
            # What stands between says nothing worth reading.
            return BrokerAway(detail) if detail else self._away()
        if not detail and (status < 400 or status == 404):
            return BrokerRefused(
                f"What answers at {self.url} is no broker (status {status}). The administrator "
                f"corrects {BROKER}: it has the broker's address with its service prefix.",
                status,
            )
        return BrokerRefused(detail or f"The broker refuses it (status {status}).", status)

    def _away(self, error: BaseException | None = None) -> BrokerAway:
        # Who has to mend it is told what.
        trusted = not isinstance(error, aiohttp.ClientConnectorCertificateError)
        code = "broker-away" if trusted else "broker-not-trusted"
        return BrokerAway(say(code, url=self.url))


# -- what crosses the wire -----------------------------------------------------------------------


def _bytes_of(body: Any) -> bytes | None:
    return None if body is None else json.dumps(body).encode()


async def _content(response: aiohttp.ClientResponse) -> bytes:
    """The whole of an answer, if it is not too long."""
    found = bytearray()
    async for piece in response.content.iter_chunked(_CHUNK):
        found += piece
        if len(found) > _MAX_ANSWER:
            raise aiohttp.ClientPayloadError("The answer is too long")
    return bytes(found)


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[News, None]:
    """Server-sent events; comments, which are signs of life, are left out."""
    fields: dict[str, str] = {}
    rest = b""
    async for piece in response.content.iter_chunked(_CHUNK):
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _MAX_ANSWER:
            raise aiohttp.ClientPayloadError("The event is too long")
        for line in lines:
            name, _, value = line.decode(errors="replace").rstrip("\r").partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
                continue
            if "data" in fields and (news := _news(fields)) is not None:
                yield news
            fields = {}


def _news(fields: Mapping[str, str]) -> News | None:
    try:
        data = json.loads(fields["data"])
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        _log.warning("An event of the broker could not be understood")
        return None
    return News(fields.get("id", ""), fields.get("event", ""), data)


def _without_request(error: BaseException) -> BaseException:
    """An error of the network, without the request that it may carry: that has the token."""
    if isinstance(error, aiohttp.ClientResponseError):
        return aiohttp.ClientError(type(error).__name__)
    return error
