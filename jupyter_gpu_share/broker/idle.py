"""Whose shares are idle, as users' servers say, and what was promised to whoever has one.

Pure but for what it remembers: the time is told.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ..engines.base import Snapshot
from ..engines.idle_shares import IdleShare
from ..idle import IdlePolicy
from ..kernels.reclaim import whose_turn
from .claim import Claim
from .order import asked_back

__all__ = ["GRACE", "LIFETIME", "RECALLED", "IdleShares", "Promise"]

#: For how long a server's word counts: it speaks again every few seconds.
LIFETIME = timedelta(seconds=30)
#: After its promise is over a share is left to its server for so long, and then taken.
GRACE = timedelta(minutes=1)
#: For so long what an earlier broker has promised may be gone on with: by then all servers have
#: spoken again, and all who wait have asked again.
RECALLED = timedelta(minutes=1)
#: Moments that servers tell as seconds from now differ by less from one word to the next.
_JITTER = timedelta(seconds=2)


@dataclass(frozen=True)
class Promise:
    """A share that is asked back: since when, and until when its server has time to give it.

    Attributes
    ----------
    to: names of those who wait, and get no share without this one; none where an administrator
        asks it back.
    firm: an earlier broker has promised it: it is due when that one has said, whatever the rules
        are by now.
    """

    asked: datetime
    due: datetime
    to: frozenset[str] = frozenset()
    firm: bool = False


@dataclass(frozen=True)
class _Heard:
    """A word, by whom it was said, and how long it counts.

    Attributes
    ----------
    word: with ``keep_until`` as far as the administrator allows; ``keep``: as it was said.
    """

    word: IdleShare
    keep: datetime | None
    server: Hashable
    until: datetime


class IdleShares:
    """The idle shares of all users. Kernels have names that begin with their user.

    All methods but :meth:`decide` are for one thread.

    Parameters
    ----------
    policy: the administrator's rules; what users have configured does not count.
    """

    def __init__(self, policy: IdlePolicy) -> None:
        self._policy = policy
        self._heard: Mapping[str, _Heard] = {}
        self._promises: Mapping[str, Promise] = {}
        #: Shares that nothing came of when they were taken; others are asked before them.
        self._vain: frozenset[str] = frozenset()
        #: What an earlier broker has promised, and till when that may be gone on with.
        self._earlier: Mapping[str, Promise] = {}
        self._recalled: datetime | None = None

    def recall(self, promises: Mapping[str, Promise], now: datetime) -> None:
        """Go on with what an earlier broker promised, as soon as it is needed for who waits.

        Whose share it is speaks again, and who waits asks again: nothing is taken before that, and
        the time that has passed counts.
        """
        self._earlier = {name: replace(each, firm=True) for name, each in promises.items()}
        self._recalled = now + RECALLED

    def earlier(self, now: datetime) -> Mapping[str, Promise]:
        """What of :meth:`recall` may be gone on with."""
        if self._recalled is None or now >= self._recalled:
            return {}
        return self._earlier

    def restore(
        self,
        rows: Mapping[str, tuple[IdleShare, Promise | None]],
        servers: Mapping[str, Hashable],
        now: datetime,
    ) -> None:
        """Go on with what an earlier broker heard and promised."""
        self._heard = {
            name: _Heard(word, word.keep_until, servers[name], now + LIFETIME)
            for name, (word, _) in rows.items()
            if name in servers
        }
        self._promises = {
            name: promise
            for name, (_, promise) in rows.items()
            if promise is not None and name in self._heard
        }

    def rows(self) -> dict[str, tuple[IdleShare, Promise | None]]:
        """What :meth:`restore` takes."""
        return {name: (heard.word, self._promises.get(name)) for name, heard in self._heard.items()}

    # -- what servers say ------------------------------------------------------------------------

    def hear(
        self, of: str, server: Hashable, words: Mapping[str, IdleShare], now: datetime
    ) -> None:
        """A server names all of its idle kernels. One that it names no more is used again.

        Parameters
        ----------
        of: with what the names of the user's kernels begin.
        server: the process that says so; of two one does not take back what the other has said.
        words: by name, of kernels that hold a share.
        """
        until = now + LIFETIME
        heard = {
            name: each
            for name, each in self._heard.items()
            if not (each.server == server and name.startswith(of))
        }
        used = set()
        for name, word in words.items():
            known = self._heard.get(name)
            heard[name] = _Heard(self._again(known, word, now), word.keep_until, server, until)
            if known is not None and heard[name].word.since > known.word.since:
                used.add(name)  # between two words; nothing was heard of it
        self._heard = heard
        self._forget(heard.keys() - used)

    def _again(self, known: _Heard | None, word: IdleShare, now: datetime) -> IdleShare:
        """A word beside the one before it: what it says again is as it was."""
        since, keep = word.since, word.keep_until
        if known is not None and abs(known.word.since - since) < _JITTER:
            since = known.word.since
        if known is not None and keep and known.keep and abs(keep - known.keep) < _JITTER:
            # Else a moment far away would always be within the limit, counted from now.
            keep = known.word.keep_until
        elif keep is not None:
            keep = min(keep, now + self._policy.longest_keep)
        return replace(word, since=since, keep_until=keep)

    def keep(self, there: Collection[str]) -> None:
        """Forget shares that are not held any more."""
        if not self._heard.keys() <= set(there):
            self._heard = {name: each for name, each in self._heard.items() if name in there}
            self._forget(self._heard.keys())

    def remove(self, name: str) -> None:
        """Forget a share that is not held any more."""
        self._earlier = {key: each for key, each in self._earlier.items() if key != name}
        if name in self._heard:
            self._heard = {key: each for key, each in self._heard.items() if key != name}
            self._forget(self._heard.keys())

    def _forget(self, left: AbstractSet[str]) -> None:
        self._promises = {name: each for name, each in self._promises.items() if name in left}
        self._vain &= left

    def since(self, now: datetime) -> dict[str, datetime]:
        """Since when shares are idle, by name: those of which word was heard a moment ago, and
        those that were asked back and of which nothing was heard since."""
        return {
            name: self._heard[name].word.since
            for name in _counting(self._heard, self._promises, now)
        }

    # -- what is decided -------------------------------------------------------------------------

    def decide(
        self,
        snapshot: Snapshot | None,
        claims: Collection[Claim],
        now: datetime,
        *,
        spent: frozenset[str] = frozenset(),
        ordered: frozenset[str] = frozenset(),
    ) -> Mapping[str, Promise]:
        """What is to be promised so that those who wait get what they need, by name.

        It changes nothing, and may be called in any thread.

        Parameters
        ----------
        claims: that are held.
        spent, ordered: see :func:`asked_back <jupyter_gpu_share.broker.order.asked_back>`.
        """
        heard, promises = self._heard, self._promises
        counts = {name: heard[name] for name in _counting(heard, promises, now)}
        # Of the same idle time: a share that was used since is promised anew.
        recalled = {
            name: each
            for name, each in self.earlier(now).items()
            if name in counts and counts[name].word.since <= each.asked + _JITTER
        }
        promises = {**recalled, **promises}
        idle = [
            replace(
                claim,
                idle_since=counts[claim.kernel_id].word.since,
                keep_until=counts[claim.kernel_id].word.keep_until,
                kept=counts[claim.kernel_id].word.kept,
            )
            for claim in claims
            if claim.kernel_id in counts
        ]
        due = asked_back(
            snapshot,
            idle,
            self._policy,
            now,
            asked={name: each.asked for name, each in promises.items()},
            spent=spent,
            leaving=frozenset(name for name, each in counts.items() if each.word.leaving),
            ordered=ordered,
            vain=self._vain,
        )
        to = whose_turn(snapshot, due) if snapshot is not None else {}
        found = {}
        for name, moment in due.items():
            known = promises.get(name)
            whom = to.get(name, frozenset())
            if known is None:
                found[name] = Promise(now, moment, whom)
            else:
                ends = known.due if known.firm else min(known.due, moment)
                found[name] = Promise(known.asked, ends, whom, known.firm)
        return found

    def promise(self, decided: Mapping[str, Promise]) -> None:
        """Have these promises hold, but for shares that are used since they were decided."""
        self._promises = decided
        self._forget(self._heard.keys())

    @property
    def promises(self) -> Mapping[str, Promise]:
        """Those that hold, by name."""
        return self._promises

    def kept_until(self, name: str) -> datetime | None:
        """Until when a user was promised to keep an idle share; None: they were not."""
        heard = self._heard.get(name)
        return heard.word.keep_until if heard is not None else None

    def overdue(self, now: datetime) -> frozenset[str]:
        """Shares that their servers should have given back long since."""
        return frozenset(name for name, each in self._promises.items() if each.due + GRACE <= now)

    def tried(self, name: str) -> None:
        """A share was taken, or could not be: its promise is over."""
        self._earlier = {key: each for key, each in self._earlier.items() if key != name}
        self._promises = {key: each for key, each in self._promises.items() if key != name}
        self._vain |= {name} & self._heard.keys()


def _counting(
    heard: Mapping[str, _Heard], promises: Mapping[str, Promise], now: datetime
) -> list[str]:
    return [name for name, each in heard.items() if each.until > now or name in promises]
