"""Who held what, and who held how much of late, in a file of the broker's folder.

For one thread.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..kernels._private import new_file
from .account import Account, AccountError, Figures, Mode, Subject
from .given_back import GivenBack, Held
from .limits import Use
from .standing import Standing

__all__ = ["Books", "Held"]

_log = logging.getLogger(__name__)

_FILE = "account.json"
#: Days whose rows are kept.
_DAYS = 400


def _now() -> datetime:
    return datetime.now(timezone.utc)


class Books:
    """Counts what is held.

    A broker that was killed goes on where it last saved: a share that is held still was held all
    the time, and one that is not was until now.

    Parameters
    ----------
    folder: the broker's own.
    window: for how long each share that was held is known by itself, for limits of hours.
    most: kernels of one user whose share is given back, and that are counted.
    """

    def __init__(
        self,
        folder: Path,
        window: timedelta,
        clock: Callable[[], datetime] = _now,
        most: int = 200,
    ) -> None:
        self._path = folder / _FILE
        self._window = window
        self._clock = clock
        self._account = Account(window)
        self._standing = Standing()
        #: Kernels that live on without their share.
        self.given_back = GivenBack(most)
        self._seen: dict[str, tuple[Mode, Held]] | None = None  # not known yet
        self._dirty = False

    def open(self) -> None:
        """Go on with what was saved. A file that cannot be read is put aside, and that is said."""
        try:
            data = json.loads(self._path.read_text())
            self._account = Account.from_json(data, self._window)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:  # an AccountError is one
            aside = self._path.with_suffix(".unread")
            with suppress(OSError):
                self._path.replace(aside)
            why = error if isinstance(error, AccountError) else type(error).__name__
            _log.error("The account begins anew: %s cannot be read (%s).", aside, why)
            return
        try:
            self._standing = Standing.from_json(data["standing"])
        except (KeyError, ValueError):  # of a version before
            self._standing = Standing.of(self._account.used(), self._clock())
        try:
            self.given_back.read(data["given_back"])
        except KeyError:  # of a version before
            return
        except ValueError as error:
            _log.error("What is given back now is not counted: %s", error)

    def see(self, held: Mapping[str, Held], waiting: Collection[str] = ()) -> None:
        """All shares that are held now, by kernel. What is as it was costs nothing.

        Parameters
        ----------
        waiting: kernels that wait for a share; they do not do without one.
        """
        self.given_back.remove(held.keys())
        seen = {
            name: (Mode.GIVEN_BACK, each)
            for name, each in self.given_back.shares.items()
            if name not in waiting
        }
        for name, each in held.items():
            seen[name] = Mode.IDLE if each.idle else Mode.USED, each
        if seen == self._seen:
            return
        now, before = self._clock(), self._seen
        gone = (self._account.open_kernels if before is None else before.keys()) - seen.keys()
        for name in gone:
            self._account.end(name, now)
        changed = [
            (name, each)
            for name, each in seen.items()
            if before is None or before.get(name) != each
        ]
        for name, (mode, each) in changed:
            self._account.change(
                name, mode, now, user=each.user, groups=each.groups, gpus=each.gpus
            )
        self._seen, self._dirty = seen, True
        users = {each.user for _, (_, each) in changed}
        if before is None:
            users |= self._standing.holders
        else:
            users |= {before[name][1].user for name in before.keys() - seen.keys()}
            users |= {before[name][1].user for name, _ in changed if name in before}
        sums = dict.fromkeys(users, Fraction(0))
        for each in held.values():
            if each.user in sums:
                sums[each.user] += each.gpus
        for user, gpus in sums.items():
            self._standing.hold(user, float(gpus), now)

    def mean(self, user: str, at: datetime) -> float:
        """The GPUs that a user held of late; see :meth:`Standing.mean`."""
        return self._standing.mean(user, at)

    def used(self) -> list[Use]:
        """What was held in the window, and is."""
        return self._account.used()

    def held_since(self) -> dict[str, datetime]:
        """Since when each share is held that is held now, by kernel."""
        return self._account.held_since()

    def rows(self, user: str | None = None) -> list[dict[str, Any]]:
        """GPU-seconds of each day in UTC up to now: of one user, or of all users and groups."""
        self._account.settle(self._clock())
        return [
            {
                "day": day.isoformat(),
                "of": kind,
                "name": name,
                "held": float(figures.held),
                "used": float(figures.used),
                "idle": float(figures.idle),
                "given_back": float(figures.given_back),
            }
            for day, kind, name, figures in self._account.rows()
            if user is None or (kind, name) == ("user", user)
        ]

    def totals(self) -> dict[Subject, Figures]:
        """GPU-seconds of users and groups up to now, of days that are forgotten, too."""
        self._account.settle(self._clock())
        return self._account.totals()

    def save(self) -> None:
        """Write what has changed.

        Raises
        ------
        OSError
        """
        if not self._dirty:
            return
        now = self._clock()
        self._account.settle(now)
        self._account.forget((now - timedelta(days=_DAYS)).date())
        partial = self._path.with_suffix(".part")
        with new_file(partial) as file:
            saved = {
                **self._account.to_json(),
                "standing": self._standing.to_json(now),
                "given_back": self.given_back.to_json(),
            }
            file.write(json.dumps(saved).encode())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)
        self._dirty = False
