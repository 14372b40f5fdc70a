"""Who is served next of all users, and whose idle shares are asked back. Pure.

Whoever has least comes first: what a user holds now and held in the mean of late, both in GPUs. A
claim for which there is no room lets smaller ones behind it pass, but only for so long: then it
comes first, and room is held for it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from ..engines.base import Snapshot
from ..idle import IdlePolicy, Situation
from ..kernels.reclaim import chosen
from .claim import Claim

__all__ = [
    "PATIENCE",
    "Room",
    "Served",
    "Turn",
    "asked_back",
    "gpus_by_user",
    "line",
    "passed_by",
    "serve",
]

#: Digits after the point of GPUs that make a difference. Sums made in another order differ in later
#: ones, and among equals whoever came first is to be first.
_DIGITS = 9

#: For how long others may pass a claim for which there is no room yet.
PATIENCE = timedelta(minutes=10)


class Room(Protocol):
    """The GPUs, of which shares are taken while a decision is made."""

    def take(self, claim: Claim) -> bool:
        """Put a share somewhere; False where there is no room, and nothing has changed then."""

    def hold(self, claim: Claim) -> None:
        """Leave the GPUs to a claim on which the least has to be freed for it.

        Until the decision is made nobody else gets anything there.
        """


@dataclass(frozen=True)
class Turn:
    """One that waits, in its place.

    Attributes
    ----------
    overdue: others have passed it for long enough, so that room is held for it.
    """

    claim: Claim
    overdue: bool = False


@dataclass(frozen=True)
class Served:
    """What a decision came to.

    Attributes
    ----------
    granted: the claims that get a share, in their order.
    passed: ids of kernels that wait on though somebody behind them was served. Where
        ``Claim.passed_since`` is None it is to be set to this moment.
    limited: ids of kernels that wait because of a limit. Nobody has passed them.
    """

    granted: tuple[Claim, ...]
    passed: frozenset[str]
    limited: frozenset[str]


def gpus_by_user(held: Iterable[Claim]) -> dict[str, float]:
    """The GPUs that each user holds."""
    found: dict[str, float] = {}
    for claim in held:
        found[claim.user] = found.get(claim.user, 0.0) + float(claim.gpus)
    return found


def line(
    waiting: Iterable[Claim],
    held: Mapping[str, float],
    mean: Callable[[str], float],
    now: datetime,
    patience: timedelta = PATIENCE,
) -> list[Turn]:
    """All that wait, in the order in which they are served.

    Each that is put in line counts for its user as if it were held, so that one who asks for fifty
    shares is no further ahead than one who asks for one. Claims of one user keep their order; those
    of one process are in the order in which it asked for them, whenever they arrived. By that they
    change places among themselves alone: nobody else's place is another one, whatever is told.

    Parameters
    ----------
    waiting: those of the same moment in the order of arrival.
    held: the GPUs that each user holds.
    mean: the GPUs that a user held of late, as ``Standing.mean`` has them.
    """
    has = dict(held)
    arrived = sorted(waiting, key=lambda claim: claim.asked_at)  # it is stable
    overdue = _overdue(arrived, now, patience)
    for claim in overdue:
        has[claim.user] = has.get(claim.user, 0.0) + float(claim.gpus)
    first = {claim.kernel_id for claim in overdue}
    others = _numbered([claim for claim in arrived if claim.kernel_id not in first])
    place = {claim.kernel_id: number for number, claim in enumerate(others)}
    lists: dict[str, list[Claim]] = {}
    for claim in reversed(others):
        lists.setdefault(claim.user, []).append(claim)
    heap = []
    for user, claims in lists.items():
        has[user] = has.get(user, 0.0) + mean(user)
        heap.append((round(has[user], _DIGITS), place[claims[-1].kernel_id], user))
    heapq.heapify(heap)
    found = [Turn(claim, overdue=True) for claim in overdue]
    while heap:
        score, _, user = heapq.heappop(heap)
        claim = lists[user].pop()
        found.append(Turn(claim))
        if lists[user]:
            following = place[lists[user][-1].kernel_id]
            score = round(score + float(claim.gpus), _DIGITS)
            heapq.heappush(heap, (score, following, user))
    return found


def _numbered(arrived: Sequence[Claim]) -> list[Claim]:
    """Those who wait, with what one process asked for in the order in which it did."""
    found = list(arrived)
    places: dict[tuple[str, str, str], list[int]] = {}
    for place, claim in enumerate(arrived):
        if claim.number is not None:
            places.setdefault((claim.user, claim.server, claim.process), []).append(place)
    for own in places.values():
        in_order = sorted((arrived[place] for place in own), key=lambda each: each.number or 0)
        for place, claim in zip(own, in_order, strict=True):
            found[place] = claim
    return found


def _overdue(arrived: Sequence[Claim], now: datetime, patience: timedelta) -> list[Claim]:
    """Those that were passed for long enough, one of each user, who waits longest first."""
    found: dict[str, Claim] = {}
    for claim in arrived:
        if claim.passed_since is not None and now - claim.passed_since >= patience:
            found.setdefault(claim.user, claim)
    # Of those passed at one moment who came first: no id decides that, which a client chooses.
    return sorted(found.values(), key=lambda each: each.passed_since or now)


def serve(
    turns: Iterable[Turn],
    held: Iterable[Claim],
    room: Room,
    allowed: Callable[[Claim, Sequence[Claim]], bool] = lambda claim, held: True,
) -> Served:
    """Who of those in line gets a share now.

    Parameters
    ----------
    room: is changed: what is granted is taken from it.
    allowed: whether the limits allow a claim beside what is held. One that they do not allow waits,
        and holds nobody up.
    """
    has = list(held)
    granted: list[Claim] = []
    line: list[str] = []
    limited: set[str] = set()
    for turn in turns:
        claim = turn.claim
        if not allowed(claim, has):
            limited.add(claim.kernel_id)
        elif room.take(claim):
            granted.append(claim)
            has.append(claim)
        elif turn.overdue:
            room.hold(claim)
        if claim.kernel_id not in limited:
            line.append(claim.kernel_id)
    taken = {claim.kernel_id: bool(claim.gpus) for claim in granted}
    return Served(tuple(granted), passed_by(line, taken), frozenset(limited))


def passed_by(line: Iterable[str], granted: Mapping[str, bool]) -> frozenset[str]:
    """Those in a line that wait on though somebody behind them was served.

    Parameters
    ----------
    granted: those that were served, and whether they took room on a GPU.
    """
    left: list[str] = []
    passed: set[str] = set()
    for name in line:
        if name not in granted:
            left.append(name)
        elif granted[name]:
            passed.update(left)
            left.clear()
    return frozenset(passed)


def asked_back(
    snapshot: Snapshot | None,
    held: Iterable[Claim],
    policy: IdlePolicy,
    now: datetime,
    *,
    asked: Mapping[str, datetime],
    spent: frozenset[str] = frozenset(),
    leaving: frozenset[str] = frozenset(),
    ordered: frozenset[str] = frozenset(),
    vain: frozenset[str] = frozenset(),
) -> dict[str, datetime]:
    """Which idle shares go for those who wait, and when each is taken if its user does not return.

    Only as many as it takes, in sets that suffice; see :func:`chosen
    <jupyter_gpu_share.kernels.reclaim.chosen>`. Those that go anyway come first, then those that
    were asked back before, those of users whose hours are used up, and those that nobody has used
    for longest. A share that is used again, kept, or no longer needed is not among them: its
    promise is over.

    Parameters
    ----------
    snapshot: who waits, in the order of :func:`line`, and what would serve them; None: nobody.
    held: the shares of all users.
    policy: the broker's own; what users have configured does not count.
    asked: since when each share that was asked back before was so, by kernel id.
    spent: kernels of users whose hours are used up; see ``Limits.spent``.
    leaving: kernels whose servers give the share back already, by whatever rule.
    ordered: kernels whose share an administrator asks back, whether or not somebody waits.
    vain: kernels whose share was asked back before, and nothing came of it. They come last.
    """
    idle = [claim for claim in held if claim.held_since is not None and claim.idle_since]
    situations = {claim.kernel_id: situation_of(claim, policy, now) for claim in idle}
    ready = policy.order(situations.items())
    known = frozenset(ready)
    ready += [kernel for kernel in situations if kernel in leaving - known]
    going = leaving | ordered
    ready.sort(  # it is stable
        key=lambda kernel: (
            kernel in vain,
            kernel not in going,
            kernel not in asked,
            kernel not in spent,
        )
    )
    wanted = chosen(snapshot, ready) if snapshot is not None else frozenset()
    wanted |= ordered & known
    found = {}
    for claim in idle:
        if claim.kernel_id in wanted:
            since = asked.get(claim.kernel_id, now)
            due = policy.taken_at(situation_of(claim, policy, now, since))
            if due is None and claim.kernel_id in leaving:
                due = now
            if due is not None:
                found[claim.kernel_id] = due
    return found


def situation_of(
    claim: Claim, policy: IdlePolicy, now: datetime, asked: datetime | None = None
) -> Situation:
    """A share as the idle policy judges it."""
    return Situation(
        now=now,
        idle_since=claim.idle_since or now,
        size=claim.size,
        group=policy.group_of(claim.user, *sorted(claim.groups)),
        keep_until=claim.keep_until,
        waiting_since=asked,
        kept=claim.kept,
    )
