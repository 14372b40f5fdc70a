"""What is told of idle shares to whoever decides for all users, and what is heard of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ..size import Size

__all__ = ["AskedBack", "IdleShare", "ToldOfIdle", "answered"]

#: Seconds after which a broker is told again although nothing is new; what it was told counts
#: somewhat longer.
_INTERVAL = 20.0


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


@dataclass(frozen=True)
class ToldOfIdle:
    """What a broker was last told of this process's idle kernels, and what it answered.

    Attributes
    ----------
    idle, wanted: by kernel id.
    at: when; monotonic seconds.
    waiting: whether somebody waited then.
    """

    idle: Mapping[str, IdleShare] = field(default_factory=dict)
    at: float = -math.inf
    wanted: Mapping[str, AskedBack] = field(default_factory=dict)
    waiting: bool = False

    def suffices(self, idle: Mapping[str, IdleShare], at: float) -> bool:
        """Whether there is nothing else to say, nobody waited, and it is not long ago."""
        return not self.waiting and self.idle == idle and at < self.at + _INTERVAL

    def still_wanted(self, idle: Mapping[str, IdleShare]) -> dict[str, AskedBack]:
        """What is asked back of these while the broker is away."""
        return {key: asked for key, asked in self.wanted.items() if key in idle}


def answered(
    answer: Mapping[str, Any], idle: Mapping[str, IdleShare], at: float, now: datetime
) -> ToldOfIdle:
    """What a broker's answer to these words means.

    Parameters
    ----------
    at, now: when it came; monotonic seconds, and an aware time.
    """
    wanted = {
        str(kernel_id): AskedBack(
            None if seconds is None else now + timedelta(seconds=float(seconds))
        )
        for kernel_id, seconds in answer["wanted"].items()
    }
    wanted |= {str(one): AskedBack(now, taken=True) for one in answer.get("taken") or ()}
    return ToldOfIdle(dict(idle), at, wanted, bool(answer.get("waiting")))
