"""What the broker does about processes that use a GPU without a share.

They are shown to administrators, charged to the account of their users, and ended, each where the
administrator wants it. They are looked for now and then: what comes and goes between two looks is
not seen.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

from .._text import one_line
from ..engines._processes import Holder
from ..engines.local._gpu import Gpu
from ..engines.local._outsiders import Outsider
from ..size import format_bytes
from ._ends import kill
from .demand import whole
from .given_back import Held
from .identity import Account, Accounts

__all__ = ["LEAST_GRACE", "Unshared"]

_log = logging.getLogger(__name__)

#: Seconds: less would not be a warning, and a single look may err.
LEAST_GRACE = 15.0
#: Between the signal that asks a process to end and the one that ends it.
_LAST_WORDS = timedelta(seconds=10)


@dataclass(frozen=True)
class _Seen:
    """An outsider, whose it is, since when it is known, and when it was asked to end."""

    outsider: Outsider
    owner: Account
    since: datetime
    asked: datetime | None = None


class Unshared:
    """The processes that use GPUs without a share, as they were last seen.

    Parameters
    ----------
    accounts: the users by number.
    grace: for how long such a process may run; None: as long as it likes. Root's processes are left
        alone, and so is what draws, as a desktop does.
    end: sends a signal to a process.
    """

    def __init__(
        self,
        accounts: Accounts,
        grace: timedelta | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        end: Callable[[Holder, int], None] = kill,
    ) -> None:
        self._accounts = accounts
        self._grace = grace
        self._clock = clock
        self._end = end
        self._seen: dict[Holder, _Seen] = {}

    def see(self, outsiders: Sequence[Outsider]) -> None:
        """All that there are now. Those whose grace is over are ended. Blocks on the accounts."""
        now, found = self._clock(), {}
        for each in outsiders:
            seen = self._seen.get(each.process)
            if seen is None:
                seen = _Seen(each, self._accounts.of(each.uid), now)
                self._announce(seen)
            found[each.process] = self._judged(replace(seen, outsider=each), now)
        self._seen = found

    def _judged(self, seen: _Seen, now: datetime) -> _Seen:
        if self._grace is None or _is_spared(seen.outsider):
            return seen
        process = seen.outsider.process
        if seen.asked is None and now - seen.since >= self._grace:
            _log.warning("%s is ended, as it has no share", _words(seen))
            self._end(process, signal.SIGTERM)
            return replace(seen, asked=now)
        if seen.asked is not None and now - seen.asked >= _LAST_WORDS:
            self._end(process, signal.SIGKILL)
        return seen

    def _announce(self, seen: _Seen) -> None:
        if self._grace is not None and not _is_spared(seen.outsider):
            seconds = self._grace.total_seconds()
            _log.warning("%s has no share; it is ended in %g s", _words(seen), seconds)

    def rows(self) -> list[dict[str, Any]]:
        """As the API tells them, the first seen first."""
        return [
            {
                "pid": process.pid,
                "uid": seen.outsider.uid,
                "user": seen.owner.user,
                "command": one_line(seen.outsider.command),
                "used_bytes": dict(seen.outsider.used),
                "since": seen.since.isoformat(),
            }
            for process, seen in self._seen.items()
        ]

    def charges(self, gpus: Sequence[Gpu]) -> Mapping[str, Held]:
        """What each process is to be charged for, by a name that no kernel has.

        The part of the memory of each of its GPUs; a whole one where that is not told.
        """
        known = {gpu.uuid: gpu for gpu in gpus}
        return {
            f"process {process.pid} {process.start_time}": Held(
                seen.owner.user,
                seen.owner.groups,
                sum(
                    (
                        _part(known[uuid], used)
                        for uuid, used in seen.outsider.used.items()
                        if uuid in known
                    ),
                    Fraction(0),
                ),
                idle=False,
            )
            for process, seen in self._seen.items()
        }


def _part(gpu: Gpu, used: int | None) -> Fraction:
    everything = whole(gpu)
    if used is None:
        return everything
    return everything * min(Fraction(1), Fraction(used, gpu.memory_bytes))


def _is_spared(outsider: Outsider) -> bool:
    return outsider.draws or outsider.uid in (0, os.geteuid())


def _words(seen: _Seen) -> str:
    known = [used for used in seen.outsider.used.values() if used is not None]
    memory = format_bytes(sum(known)) if known else "an amount that is not known"
    command = one_line(seen.outsider.command)
    pid = seen.outsider.process.pid
    return f"Process {pid} ({command}) of {seen.owner.user}, which uses {memory} of GPUs,"
