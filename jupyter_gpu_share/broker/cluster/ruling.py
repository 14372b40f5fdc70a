"""What the registry of kernels asks of the administrator's rules."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from ...engines.base import Report
from ...size import Size

__all__ = ["Key", "Order", "Ruling", "Wish"]


class Key(NamedTuple):
    """Names one kernel among all users': user and server are proven, the id is the client's."""

    user: str
    server: str
    kernel_id: str

    @property
    def text(self) -> str:
        """The same as a text, which no other kernel has whatever is in the names."""
        return json.dumps(list(self))


@dataclass(frozen=True)
class Wish:
    """A kernel that is to hold a share of a size, in place of what it has.

    Attributes
    ----------
    groups: of the user, as they are proven.
    asked_at: since when it waits, aware; None: from now on.
    process, number: see :class:`Claim <jupyter_gpu_share.broker.claim.Claim>`.
    """

    key: Key
    size: Size
    groups: frozenset[str] = frozenset()
    asked_at: datetime | None = None
    process: str = ""
    number: int | None = None


class Ruling(Protocol):
    """The administrator's rules, as far as kernels come and go by them. For one event loop.

    Nothing here waits: between a look at the limits and the reservation nothing else happens.
    """

    def why_not(self, wish: Wish) -> str | None:
        """Why the limits do not allow it, a sentence; None: they do."""

    def reserve(self, wish: Wish, *, anew: bool = False) -> str | None:
        """The same; where they allow it, it counts from here on as if it were held.

        Parameters
        ----------
        anew: it is another start in place of the one that is there, which ends.
        """

    def holds(self, key: Key, size: Size | None = None) -> None:
        """A kernel holds the share that was reserved, or one of ``size``."""

    def gave_back(self, key: Key) -> None:
        """A kernel lives on without a share, or waits for none any more."""

    def drop(self, key: Key) -> None:
        """A kernel is gone with what it held. Idempotent."""


class Order(Protocol):
    """Who is placed when, among all who wait."""

    @property
    def active(self) -> bool:
        """Whether anybody is kept from the scheduler."""

    async def wait(self, key: Key, report: Report) -> None:
        """Wait for the turn of a kernel that was reserved, and tell of that wait.

        Raises
        ------
        EngineError: the kernel waits no more.
        """

    def kept_back(self, key: Key) -> None:
        """The scheduler does not see this kernel yet, which an earlier broker has made."""
