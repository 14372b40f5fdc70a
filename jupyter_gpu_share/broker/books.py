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

from ..kernels._private import replace_file
from .account import Account, AccountError, Figures, Mode, Subject
from .given_back import GivenBack, Held
from .limits import Use
from .meters import Meters
from .standing import Standing

__all__ = ["Books", "Held"]

_log = logging.getLogger(__name__)

_FILE = "account.json"
#: Days whose rows are kept.
_DAYS = 400
_NONE = Fraction(0)


def _now() -> datetime:
    return datetime.now(timezone.utc)


class Books:
    """Counts what is held.

    A broker that was killed goes on where it last saved: a share that is held still was held all
    the time, and one that is not was until now. Where the machine has booted since, all were held
    until the broker was there last.

    Parameters
    ----------
    folder: the broker's own.
    window: for how long each share that was held is known by itself, for limits of hours.
    most: kernels of one user whose share is given back, and that are counted.
    boot: names the machine's boot, with which all that is held ends; empty: it does not, as in a
        cluster.
    """

    def __init__(
        self,
        folder: Path,
        window: timedelta,
        clock: Callable[[], datetime] = _now,
        most: int = 200,
        boot: str = "",
    ) -> None:
        self._path = folder / _FILE
        self._boot = boot
        self._window = window
        self._clock = clock
        self._account = Account(window)
        self._standing = Standing()
        #: Kernels that live on without their share.
        self.given_back = GivenBack(most)
        self._seen: dict[str, tuple[Mode, Held]] | None = None  # not known yet
        #: GPU-hours of windows.
        self.meters = Meters(self.used)
        #: The GPUs that each user holds now.
        self._sums: dict[str, Fraction] = {}
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
        if data.get("boot", self._boot) != self._boot:
            self._end_all(self._last_seen())
        try:
            self.given_back.read(data["given_back"])
        except KeyError:  # of a version before
            return
        except ValueError as error:
            _log.error("What is given back now is not counted: %s", error)

    def _end_all(self, at: datetime) -> None:
        """The machine went down: nobody held anything while it was off."""
        for name in self._account.open_kernels:
            self._account.end(name, at)
        for user in self._standing.holders:
            self._standing.hold(user, 0.0, at)

    def _last_seen(self) -> datetime:
        """When the broker before this one was there last."""
        now = self._clock()
        try:
            return min(datetime.fromtimestamp(self._path.stat().st_mtime, timezone.utc), now)
        except OSError:
            return now

    def note_seen(self) -> None:
        """Note that the broker is there: what is held is held until now, whatever comes."""
        now = self._clock().timestamp()
        with suppress(OSError):
            if self._boot:
                os.utime(self._path, (now, now))

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
        if self._seen is None:
            self.begin(seen)
            return
        for name in self._seen.keys() - seen.keys():
            self.end(name)
        for name, (mode, each) in seen.items():
            self.change(name, mode, each)

    def begin(self, seen: Mapping[str, tuple[Mode, Held]]) -> None:
        """All kernels that there are at the first look: whatever else was open has ended."""
        now = self._clock()
        for name in self._account.open_kernels - seen.keys():
            self._account.end(name, now)
        self._seen, self._dirty = {}, True
        self.meters = Meters(self.used)
        self._sums = {user: Fraction(0) for user in self._standing.holders}
        for name, (mode, each) in seen.items():
            self._note(name, mode, each, now)
        for user, gpus in self._sums.items():
            self._standing.hold(user, float(gpus), now)

    def change(self, name: str, mode: Mode, held: Held) -> None:
        """From now on a kernel has its share in this way. What is as it was costs nothing."""
        seen = self._looked()
        before = seen.get(name)
        if before == (mode, held):
            return
        now = self._clock()
        self._note(name, mode, held, now)
        for user in {held.user, *([before[1].user] if before is not None else ())}:
            self._standing.hold(user, float(self._sums.get(user, _NONE)), now)

    def end(self, name: str) -> None:
        """A kernel has ended. One that is not known has ended before."""
        before = self._looked().pop(name, None)
        if before is None:
            return
        now = self._clock()
        self._account.end(name, now)
        self._add(before, -1, now)
        user = before[1].user
        self._standing.hold(user, float(self._sums.get(user, _NONE)), now)
        self._dirty = True

    def _looked(self) -> dict[str, tuple[Mode, Held]]:
        if self._seen is None:
            self.begin({})
        assert self._seen is not None
        return self._seen

    def _note(self, name: str, mode: Mode, held: Held, now: datetime) -> None:
        assert self._seen is not None
        before, after = self._seen.get(name), (mode, held)
        self._account.change(name, mode, now, user=held.user, groups=held.groups, gpus=held.gpus)
        if before is None or _counted(before) != _counted(after):
            if before is not None:
                self._add(before, -1, now)
            self._add(after, 1, now)
        self._seen[name], self._dirty = after, True

    def _add(self, seen: tuple[Mode, Held], sign: int, now: datetime) -> None:
        if (counted := _counted(seen)) is None:
            return
        user, groups, gpus = counted
        self.meters.change(user, groups, sign * gpus, now)
        left = self._sums.get(user, _NONE) + sign * gpus
        if left:
            self._sums[user] = left
        else:
            self._sums.pop(user, None)

    def mean(self, user: str, at: datetime) -> float:
        """The GPUs that a user held of late; see :meth:`Standing.mean`."""
        return self._standing.mean(user, at)

    @property
    def gpus_by_user(self) -> dict[str, float]:
        """The GPUs that each user holds now."""
        return {user: float(gpus) for user, gpus in self._sums.items()}

    @property
    def holding(self) -> frozenset[str]:
        """Kernels that hold a share by the account."""
        return frozenset(self._account.held_since())

    def used(self) -> list[Use]:
        """What was held in the window, and is."""
        return self._account.used()

    def held_since(self) -> dict[str, datetime]:
        """Since when each share is held that is held now, by kernel."""
        return self._account.held_since()

    def rows(self, user: str | None = None) -> list[dict[str, Any]]:
        """GPU-seconds of each day in UTC up to now: of one user, or of all users and groups."""
        return self.later_rows(user)()

    def later_rows(self, user: str | None = None) -> Callable[[], list[dict[str, Any]]]:
        """Gives :meth:`rows` of now when it is called, in whatever thread."""
        account, now = self._account.copy(), self._clock()
        return lambda: _rows(account, now, user)

    def totals(self) -> dict[Subject, Figures]:
        """GPU-seconds of users and groups up to now, of days that are forgotten, too."""
        return self.later_totals()()

    def later_totals(self) -> Callable[[], dict[Subject, Figures]]:
        """Gives :meth:`totals` of now when it is called, in whatever thread."""
        account, now = self._account.copy(), self._clock()

        def totals() -> dict[Subject, Figures]:
            account.settle(now)
            return account.totals()

        return totals

    def save(self) -> None:
        """Write what has changed; to be called now and then.

        Raises
        ------
        OSError
        """
        write = self.later_save()
        try:
            if write is not None:
                write()
        except BaseException:
            self.unsaved()
            raise
        self.note_seen()

    def unsaved(self) -> None:
        """What :meth:`later_save` gave was not written: the next one writes it."""
        self._dirty = True

    def later_save(self) -> Callable[[], None] | None:
        """Writes what is known now when it is called, in whatever thread; None: nothing is new.

        One of them at a time.
        """
        if not self._dirty:
            return None
        now, self._dirty = self._clock(), False
        self._account.trim(now)
        self.meters.trim(now)
        self._account.forget((now - timedelta(days=_DAYS)).date())
        account, standing = self._account.copy(), self._standing.copy()
        given_back = self.given_back.to_json()
        path, boot = self._path, self._boot

        def write() -> None:
            account.settle(now)
            saved = {
                **account.to_json(),
                "standing": standing.to_json(now),
                "given_back": given_back,
                "boot": boot,
            }
            replace_file(path, json.dumps(saved).encode())

        return write


def _counted(seen: tuple[Mode, Held]) -> tuple[str, frozenset[str], Fraction] | None:
    """Who holds how much by it; None where it is given back."""
    mode, held = seen
    return None if mode is Mode.GIVEN_BACK else (held.user, held.groups, held.gpus)


def _rows(account: Account, now: datetime, user: str | None) -> list[dict[str, Any]]:
    account.settle(now)
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
        for day, kind, name, figures in account.rows()
        if user is None or (kind, name) == ("user", user)
    ]
