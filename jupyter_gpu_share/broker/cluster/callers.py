"""Who calls the broker of a cluster: proven by the JupyterHub, never told by the caller."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Protocol

import aiohttp

from ..._threads import stopped
from ...errors import EngineError, GpuShareError
from ...sentences import say, words_of
from ..hub import ADMINISTRATOR, access_scope

__all__ = [
    "Caller",
    "Callers",
    "HubAnswer",
    "HubApi",
    "HubAway",
    "NotAllowed",
    "TooMany",
    "UnknownToken",
]

_log = logging.getLogger(__name__)

#: Seconds that the Hub's word about a token counts. With the time for its next word, a token that
#: was taken back is refused within 30 seconds.
_FRESH = 20.0
#: Seconds for the Hub's answer.
_PATIENCE = 8.0
#: Seconds for which the Hub is not asked again after it gave no answer.
_PAUSE = 2.0
#: Tokens that are known at once, and tokens that were refused; the oldest is forgotten.
_MAX_KNOWN, _MAX_REFUSED = 5000, 1000
#: Tokens that nobody knows yet about which the Hub is asked at once.
_MAX_ASKED = 32
#: What a token looks like. Whatever else is sent need not be asked about.
_TOKEN = re.compile(r"[\x21-\x7e]{8,512}")
#: Statuses by which the Hub refuses a token. With any other it says nothing about it.
_REFUSALS = (401, 403, 404)


class UnknownToken(GpuShareError):  # noqa: N818
    """No token was sent, or one that the Hub does not know."""


class NotAllowed(GpuShareError):  # noqa: N818
    """The Hub knows the token, and it may not do this."""


class HubAway(EngineError):  # noqa: N818
    """The Hub does not answer, so who calls is not known."""


class TooMany(GpuShareError):  # noqa: N818
    """The Hub is asked about too many unknown tokens."""


@dataclass(frozen=True)
class Caller:
    """Who calls, by the Hub's word.

    Attributes
    ----------
    user: the Hub's name of the user.
    server: name of the user's server whose token it is; "" is the default server. None: the token
        is no server's; it may look, and hold nothing.
    groups: the Hub's groups of the user.
    administrator: whether all users' kernels are theirs to see and end.
    fresh: False while the Hub is away: what exists goes on, nothing new begins.
    born: when the Hub's user was made, in the Hub's words; empty where it does not tell, as the
        token has not the scope to read that. Another user of the same name has another.
    """

    user: str
    server: str | None
    groups: frozenset[str] = frozenset()
    administrator: bool = False
    fresh: bool = True
    born: str = ""


@dataclass(frozen=True)
class HubAnswer:
    """Status and body of an answer; status 0: there was none."""

    status: int
    body: bytes = b""


class HubApi:
    """Asks the Hub whose a token is.

    Parameters
    ----------
    url: of the Hub's API, as ``JUPYTERHUB_API_URL`` has it.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def user(self, token: str) -> HubAnswer:
        """What the Hub says of a token. Never raises for what the Hub or the network does."""
        if self._session is None:
            # Connections stay open, as tokens are asked about all the time; aiohttp asks once more
            # where the Hub has closed one. No cookie stays.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=2 * _MAX_ASKED),
                timeout=aiohttp.ClientTimeout(total=_PATIENCE),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        headers = {"Authorization": f"token {token}", "Accept": "application/json"}
        try:
            async with self._session.get(
                f"{self._url}/user", headers=headers, allow_redirects=False
            ) as answer:
                return HubAnswer(answer.status, await answer.read())
        except Exception as error:  # whatever the network does
            _log.debug("The Hub gave no answer: %s", type(error).__name__)
            return HubAnswer(0)

    async def close(self) -> None:
        """Ask nothing any more."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class _TellsOfTokens(Protocol):
    """What `Callers` needs of the Hub; see :class:`HubApi`."""

    def user(self, token: str) -> Awaitable[HubAnswer]: ...


@dataclass(frozen=True)
class _Known:
    """The Hub's last word about a token, and when it was given."""

    caller: Caller | GpuShareError
    at: float


class Callers:
    """Whose tokens are sent. For one event loop.

    Parameters
    ----------
    hub: is asked.
    service: the broker's own name at the Hub. A token needs the scope to access it.
    grace: seconds that the Hub's last word about a token counts while the Hub is away.
    clock: seconds.

    Raises
    ------
    EngineError: the service has no name, and so every token would do.
    """

    def __init__(
        self,
        hub: _TellsOfTokens,
        service: str,
        grace: float = 600.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        if not service:
            raise EngineError("Without the service's name every token of the Hub would do.")
        self._hub = hub
        self._service = service
        self._grace = grace
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._refused: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Task[Caller]] = {}
        #: Tokens among those that are asked about of which nothing was known.
        self._new: set[str] = set()
        self._away_until = self._back = float("-inf")
        #: The broker's own token, once the Hub has known it; and whether it knows it no more.
        self._own, self._dropped = "", False
        #: When a token was found last that may access the broker.
        self._allowed = float("-inf")

    @property
    def hub_away(self) -> bool:
        """Whether the Hub gave no answer when it was asked last, or has dropped the broker."""
        return self._away_until > float("-inf")

    @property
    def hub_back(self) -> float:
        """Seconds since the Hub answers again: 0 while it is away, infinity if it never was."""
        return 0.0 if self.hub_away else self._clock() - self._back

    async def of(self, token: str) -> Caller:
        """Who has a token.

        Raises
        ------
        UnknownToken, NotAllowed: the Hub refuses it, or it may not access the broker.
        HubAway: the Hub does not answer, and has said nothing of this token for too long.
        TooMany
        """
        if not _TOKEN.fullmatch(token):
            raise UnknownToken(_NONE_SENT)
        # By its hash: what is kept here opens nothing.
        key = hashlib.sha256(token.encode()).hexdigest()
        known = self._known.get(key) or self._refused.get(key)
        if known is not None and self._clock() - known.at < _FRESH:
            return _caller_of(known)
        if self._clock() < self._away_until:
            return self._by_grace(key)
        goes_on = self.hub_away and key in self._known
        task = self._asked_about(key, token)
        if goes_on:  # nobody has to wait until a Hub that is away gives no answer again
            return self._by_grace(key)
        return await asyncio.shield(task)  # who leaves does not end it for others

    async def now(self, token: str) -> Caller:
        """Who has a token by what the Hub says now; what it said before does not count.

        Raises
        ------
        UnknownToken, NotAllowed: the Hub refuses it, or it may not access the broker.
        HubAway: the Hub does not answer.
        TooMany
        """
        if self._clock() < self._away_until:
            raise HubAway(_AWAY)
        key = hashlib.sha256(token.encode()).hexdigest()
        caller = await asyncio.shield(self._asked_about(key, token))
        if not caller.fresh:
            raise HubAway(_AWAY)
        return caller

    def _asked_about(self, key: str, token: str) -> asyncio.Task[Caller]:
        """The question about a token that is under way, or a new one.

        Raises
        ------
        TooMany
        """
        task = self._asking.get(key)
        if task is None:
            if key not in self._known:
                if len(self._new) >= _MAX_ASKED:
                    raise TooMany("Too many unknown tokens are sent; ask again in a moment.")
                self._new.add(key)
            task = asyncio.create_task(self._ask(key, token), name="ask the Hub")
            self._asking[key] = task
            task.add_done_callback(lambda task: self._answered(key, task))
        return task

    async def check_own(self, token: str) -> None:
        """Look whether the broker's own token is that of the service that it takes itself for.

        Raises
        ------
        EngineError: it is another service's, whose scopes would count for nothing here.
        """
        answer = await self._hub.user(token)
        model = _model(answer)
        if model is not None and (model.get("kind"), model["name"]) != ("service", self._service):
            raise EngineError(
                f"JUPYTERHUB_API_TOKEN is of the {model.get('kind')} {model['name']}, and "
                f"JUPYTERHUB_SERVICE_NAME says {self._service}: give the broker the token and the "
                "name of one service of the JupyterHub."
            )
        if answer.status not in _REFUSALS:
            self._own = token
        else:
            _log.warning(
                "The JupyterHub does not know the broker's own token, JUPYTERHUB_API_TOKEN: users' "
                "servers are served, and nobody can log in to the page."
            )

    async def close(self) -> None:
        """Let go of what is asked."""
        await stopped(*self._asking.values())

    async def _ask(self, key: str, token: str) -> Caller:
        answer = await self._hub.user(token)
        model = _model(answer)
        if model is None and answer.status not in _REFUSALS:
            if not self.hub_away:
                _log.warning(
                    "The JupyterHub does not answer as it should (status %d). What its tokens "
                    "have goes on for %d s; nothing new begins.",
                    answer.status,
                    self._grace,
                )
            self._away_until = self._clock() + _PAUSE
            return self._by_grace(key)
        known = _Known(self._judged(model), self._clock())
        if isinstance(known.caller, NotAllowed) and key in self._known and await self._is_dropped():
            if not self.hub_away:
                _log.warning(_DROPPED)
            self._dropped, self._away_until = True, self._clock() + _PAUSE
            return self._by_grace(key)
        if isinstance(known.caller, Caller):
            self._dropped, self._allowed = False, known.at
        if not self._dropped:
            if self.hub_away:
                self._back = self._clock()
                _log.info("The JupyterHub answers again")
            self._away_until = float("-inf")
        self._known.pop(key, None)
        self._refused.pop(key, None)
        table, most = (
            (self._refused, _MAX_REFUSED)
            if isinstance(known.caller, GpuShareError)
            else (self._known, _MAX_KNOWN)
        )
        table[key] = known
        if len(table) > most:
            del table[next(iter(table))]
        return _caller_of(known)

    async def _is_dropped(self) -> bool:
        """Whether the Hub has the broker's service no more.

        Then nobody's token has the scope for it: as after an upgrade of the Hub that has left out
        what it was told of the broker, which is no reason to end what everybody runs.
        """
        if not self._own or self._clock() - self._allowed < _PAUSE:
            return False
        return (await self._hub.user(self._own)).status in _REFUSALS

    def _answered(self, key: str, task: asyncio.Task[Caller]) -> None:
        del self._asking[key]
        self._new.discard(key)
        if not task.cancelled():
            task.exception()  # whoever waited has it

    def _by_grace(self, key: str) -> Caller:
        known = self._known.get(key)
        if known is None:
            raise HubAway(_AWAY)
        if self._clock() - known.at >= self._grace:
            raise HubAway(say("hub-away-for-long"))
        return replace(_caller_of(known), fresh=False)

    def _judged(self, model: dict[str, Any] | None) -> Caller | GpuShareError:
        if model is None:
            return UnknownToken(_TAKEN_BACK)
        try:
            if model.get("kind") != "user":
                return _watcher_of(model, self._service)
            return caller_of(model, self._service)
        except NotAllowed as error:
            return error


def caller_of(model: dict[str, Any], service: str) -> Caller:
    """Who a user is of whom the Hub has told, with the scopes of their token.

    Raises
    ------
    NotAllowed: the token has not the scope to access the service.
    """
    user, scopes = model["name"], frozenset(model["scopes"])
    scope = access_scope(service)
    if not scopes & {scope, "access:services"}:
        raise NotAllowed(
            f"The token of {user} lacks the scope {scope}. The administrator adds it to two roles "
            'of the JupyterHub (c.JupyterHub.load_roles, or hub.loadRoles of its chart): "user" '
            'and "server"; then start the server again.'
        )
    return Caller(
        user=user,
        server=_server_of(user, scopes),
        groups=frozenset(model["groups"]),
        administrator=ADMINISTRATOR in scopes,
        born=born if isinstance(born := model.get("created"), str) else "",
    )


def _watcher_of(model: dict[str, Any], service: str) -> Caller:
    """A service of the Hub that is given what administrators may, to read the account, say.

    It has a name that no user can have: the Hub allows no slash in those.

    Raises
    ------
    NotAllowed: it is any other service, or none.
    """
    scopes = frozenset(model["scopes"])
    if not {access_scope(service), ADMINISTRATOR} <= scopes or model.get("kind") != "service":
        raise NotAllowed(
            "The token is no user's; the broker answers users, their servers, and services with "
            f"the scopes {access_scope(service)} and {ADMINISTRATOR}."
        )
    return Caller(user=f"service/{model['name']}", server=None, administrator=True)


def _server_of(user: str, scopes: Iterable[str]) -> str | None:
    """The one server of the user whose token has these scopes; None where it is not exactly one."""
    begin = f"access:servers!server={user}/"
    found = {scope[len(begin) :] for scope in scopes if scope.startswith(begin)}
    return found.pop() if len(found) == 1 else None


def _model(answer: HubAnswer) -> dict[str, Any] | None:
    """What the Hub tells of a token; None where that is nothing, or no answer of a Hub."""
    if answer.status != 200:
        return None
    try:
        model = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        return None
    scopes, groups = model.setdefault("scopes", []), model.setdefault("groups", [])
    fits = all(
        isinstance(each, list) and all(isinstance(one, str) for one in each)
        for each in (scopes, groups)
    )
    return model if fits else None


def _caller_of(known: _Known) -> Caller:
    if isinstance(known.caller, GpuShareError):
        # A new one for each caller: an error that was raised keeps what was under way.
        raise type(known.caller)(words_of(known.caller))
    return known.caller


_DROPPED = (
    "The JupyterHub has this broker's service no more: what its tokens have goes on for a while, "
    "and nothing new begins. Tell the Hub of it again (docs/jupyterhub.md, step 3), and take that "
    "along at each upgrade of the Hub."
)
_NONE_SENT = (
    "The broker needs a token of the JupyterHub, which a user's server has in its environment; "
    "send the header Authorization: token <JUPYTERHUB_API_TOKEN>."
)
_AWAY = say("hub-away")
_TAKEN_BACK = say("hub-knows-no-token")
