"""What is asked of the policy about one share, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ..size import Size

__all__ = ["Plan", "Situation"]


@dataclass(frozen=True)
class Situation:
    """One unused share at a moment. Times are aware.

    Attributes
    ----------
    idle_since: when the last burst ended.
    group: the administrator's group of the user, see ``IdlePolicy.group_of``.
    keep_until: until when the user keeps the share even if unused.
    waiting_since: when it was first known that somebody waits for a share that this one's return
        would make room for; None where nobody does.
    kept: whether a release would keep the variables.
    released_at: when the share was given back; None while it is held.
    shifts: what the adaptive rule had found out when the share became unused, as
        ``Calibration.shifts`` was then, so that the plan stays; None for what it knows now.
    """

    now: datetime
    idle_since: datetime
    size: Size
    group: str = ""
    keep_until: datetime | None = None
    waiting_since: datetime | None = None
    kept: bool = True
    released_at: datetime | None = None
    shifts: Mapping[float, float] | None = None


@dataclass(frozen=True)
class Plan:
    """What happens to a share that stays unused. Moments that are due are not in the past.

    Attributes
    ----------
    warn_at: when the user is warned; None where nothing is released.
    release_at: when the share goes back; None for never, as things stand.
    cull_at: when the kernel is ended; None for never.
    why: a sentence for the user.
    """

    warn_at: datetime | None
    release_at: datetime | None
    cull_at: datetime | None
    why: str
