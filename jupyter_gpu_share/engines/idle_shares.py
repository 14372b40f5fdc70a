"""What is told of idle shares to whoever decides for all users, and what is heard of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..size import Size

__all__ = ["AskedBack", "IdleShare"]


@dataclass(frozen=True)
class IdleShare:
    """An idle kernel's share. Times are aware.

    Attributes
    ----------
    since: since when nobody uses it.
    keep_until: until when its user was promised to keep it all the same.
    kept: whether giving it back would keep the variables.
    leaving: it goes back already.
    size: that is held, where the one who tells knows it.
    """

    since: datetime
    keep_until: datetime | None = None
    kept: bool = True
    leaving: bool = False
    size: Size | None = None


@dataclass(frozen=True)
class AskedBack:
    """A share that is asked back for somebody who waits.

    Attributes
    ----------
    due: when it goes if it stays unused, whatever its user's rule; None: by that rule.
    taken: it was taken already, or all that was not in use, as it was not given back in time.
    """

    due: datetime | None = None
    taken: bool = False
