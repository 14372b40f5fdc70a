"""Who visits the page, as the Hub says."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from tornado import web

from ..._threads import in_thread, within
from ...errors import EngineError
from ._accounts import account_of, checked, entry_of

__all__ = ["FRESH", "HubAway", "Visitor", "Visitors"]

#: Seconds that the Hub's word about a token counts.
FRESH = 20
#: Seconds that it counts beyond that while the Hub does not answer: two minutes in all.
_GRACE = 120.0 - FRESH
#: Seconds for the Hub's answer.
_PATIENCE = 10.0
#: Tokens that are known at once; the oldest is forgotten.
_MAX_KNOWN = 1000


class HubAway(EngineError):  # noqa: N818
    """The Hub does not answer, and has not told of this visitor for a while."""


@dataclass(frozen=True)
class Visitor:
    """A user of the Hub, and of this machine where the Hub has its users.

    Attributes
    ----------
    name: the Hub's.
    user, uid: this machine's; None where it has no such user. In a cluster ``user`` is the Hub's.
    administrator: whether all users' kernels are theirs to see and end.
    allowed: whether they may open the page.
    """

    name: str
    user: str
    uid: int | None
    administrator: bool
    allowed: bool


class Visitors:
    """Who asks for the page.

    Parameters
    ----------
    auth: asks the Hub; a ``HubOAuth``.
    account: a pattern of this machine's accounts; None in a cluster, where users have none.
    administrator: the scope of administrators.
    clock: seconds.

    Raises
    ------
    EngineError: the pattern does not tell users apart.
    """

    def __init__(
        self,
        auth: Any,
        account: str | None,
        administrator: str,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._auth = auth
        self._account = None if account is None else checked(account)
        self._administrator = administrator
        self._clock = clock
        self._known: dict[str, tuple[float, Visitor]] = {}

    async def of(self, handler: web.RequestHandler) -> Visitor | None:
        """Who sent a request; None where it has no token that counts.

        A form counts only with the proof that it came from the page.

        Raises
        ------
        HubAway
        """
        try:
            # The proof is looked at before the Hub is asked.
            asking = self._auth.get_user(handler, sync=False)
            model = await within(_PATIENCE, asking)
        except (web.HTTPError, asyncio.TimeoutError) as error:
            until, visitor = self._known.get(self._key(handler), (0.0, None))
            if visitor is None or self._clock() >= until:
                raise HubAway(
                    "The Hub does not answer, so it is not known who you are. Look again in a "
                    "minute."
                ) from error
            return visitor
        key = self._key(handler)
        self._known.pop(key, None)
        if model is None:
            return None
        visitor = await self._visitor(model)
        self._known[key] = self._clock() + _GRACE, visitor
        if len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return visitor

    def _key(self, handler: web.RequestHandler) -> str:
        token = self._auth.get_token(handler) or ""
        session = self._auth.get_session_id(handler)
        return hashlib.sha256(f"{session}\0{token}".encode()).hexdigest()

    async def _visitor(self, model: dict[str, Any]) -> Visitor:
        name, is_user = model["name"], model.get("kind") == "user"
        account, found = name, None
        if self._account is not None:
            account = account_of(self._account, name)
            found = await in_thread(entry_of, account) if is_user else None
        return Visitor(
            name=name,
            user=found.pw_name if found else account,
            uid=found.pw_uid if found else None,
            administrator=is_user and self._administrator in model["scopes"],
            allowed=is_user and bool(self._auth.check_scopes(self._auth.access_scopes, model)),
        )
