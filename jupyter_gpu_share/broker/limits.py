"""What users, groups and all together may hold. Pure: nothing here does I/O or has a clock.

::

    c.Broker.limits = [
        {"resource": "gpus", "limit": 1, "scope": {"user": ["*"]}},
        {"resource": "gpus", "limit": 2, "scope": {"members_of": ["staff"]}},
        {"resource": "memory_bytes", "limit": "320GiB", "scope": {"group": ["course"]}},
        {"resource": "gpu_hours", "limit": 40, "window": 7, "scope": {"user": ["*"]}},
        {"resource": "kernels", "limit": 100, "scope": "total"},
    ]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, Protocol

from .._text import one_line
from ..engines.user_limits import UserLimit
from ..sentences import Said, paragraph, say
from ._entries import SEVERAL, LimitsError, Rule, read_rules
from .claim import Claim, words_of
from .meters import Meter, Subject, Use, covers

__all__ = ["HELD", "Counted", "Limits", "LimitsError", "Refusal", "Tally", "Use", "amount_of"]

_NONE = Fraction(0)
_LISTED = 5


@dataclass(frozen=True)
class Refusal:
    """Why a claim may not be served now.

    Attributes
    ----------
    text: one line for the person who asked. It names no kernel of anybody else.
    resource: of which there would be too much.
    scope, subject: ``user``, ``group`` or ``total``, and whose limit it is; empty for the total.
    limit, held: in the resource's unit; ``held`` without what was asked for.
    kernels: those of the same user that count, in the order of their ids.
    free_at: when a window has room again if nothing is used until then; None where none is meant.
    for_ever: nothing that is given back makes room for this claim.
    """

    text: str
    resource: str
    scope: str
    subject: str
    limit: Fraction
    held: Fraction
    kernels: tuple[str, ...]
    free_at: datetime | None = None
    for_ever: bool = False


@dataclass(frozen=True)
class _Bound:
    """One limit as it holds for one subject."""

    resource: str
    window: timedelta | None
    limit: Fraction
    scope: str
    subject: str
    own: bool = False

    @property
    def whose(self) -> Subject:
        """Whose it is, as tallies name them."""
        return self.scope, self.subject


class Tally(Protocol):
    """What all users hold and have used, as limits ask for it."""

    def held(self, resource: str, whose: Subject, but: str) -> Fraction:
        """Of ``gpus``, ``memory_bytes`` or ``kernels``, without the kernel ``but``."""

    def claims(self, user: str) -> Iterable[Claim]:
        """The shares of one user."""

    def meter(self, whose: Subject, window: timedelta) -> Meter:
        """The GPU-hours of a window."""


class Counted:
    """A tally of lists.

    Parameters
    ----------
    held: the shares of all users.
    used: what all users held in the longest window, and hold.
    """

    def __init__(self, held: Iterable[Claim], used: Iterable[Use], now: datetime) -> None:
        self._held = list(held)
        self._used = used
        self._past: list[Use] | None = None
        self._now = now
        self._sums: dict[tuple[str, Subject, str], Fraction] = {}

    def held(self, resource: str, whose: Subject, but: str) -> Fraction:
        """See :meth:`Tally.held`. Of many sizes one kernel may ask at once: it is summed once."""
        asked = resource, whose, but
        if asked not in self._sums:
            self._sums[asked] = sum(
                (
                    amount_of(resource, each)
                    for each in self._held
                    if each.kernel_id != but and covers(whose, each.user, each.groups)
                ),
                _NONE,
            )
        return self._sums[asked]

    def claims(self, user: str) -> list[Claim]:
        """See :meth:`Tally.claims`."""
        return [each for each in self._held if each.user == user]

    def meter(self, whose: Subject, window: timedelta) -> Meter:
        """See :meth:`Tally.meter`."""
        self._past = list(self._used) if self._past is None else self._past
        return Meter.of(self._past, whose, window, self._now)


class Limits:
    """The administrator's limits.

    Parameters
    ----------
    rules: see the module's docstring. ``scope`` is ``"total"``, or has one key: ``user`` (each of
        these users over all of its servers; ``*`` for everybody), ``members_of`` (each user who is
        in one of these groups) or ``group`` (all members of each of these groups together).
        ``window`` is in days, and belongs to ``gpu_hours`` alone.
    several: which of the limits counts where several are about the same resource, window and
        subject: ``max``, ``min``, or their ``sum``. Limits of a user, a group and the total hold
        side by side.

    Raises
    ------
    LimitsError: a rule cannot be understood, in one line.
    """

    def __init__(self, rules: Any = (), several: str = "max") -> None:
        if several not in SEVERAL:
            raise LimitsError(f"Limits are joined by one of {', '.join(SEVERAL)}, not {several!r}.")
        self._rules = read_rules(rules)
        self._join = SEVERAL[several]

    @property
    def longest_window(self) -> timedelta:
        """For how long what was used has to be known."""
        windows = (rule.window for rule in self._rules if rule.window is not None)
        return max(windows, default=timedelta(0))

    def check(
        self,
        claim: Claim,
        held: Iterable[Claim],
        used: Iterable[Use],
        now: datetime,
        own: Any = (),
    ) -> Refusal | None:
        """Whether a claim may be served; None: it may.

        To be called in the transaction that serves it. A claim of a kernel that holds a share
        already, as at a change of size, counts instead of that share.

        Parameters
        ----------
        held: the shares of all users.
        used: what all users held in the longest window, and hold.
        own: further limits from the user's own configuration, as ``rules`` but without ``scope``.
            They can only narrow.

        Raises
        ------
        LimitsError: ``own`` cannot be understood.
        """
        return self.weigh(claim, Counted(held, used, now), now, own)

    def weigh(self, claim: Claim, tally: Tally, now: datetime, own: Any = ()) -> Refusal | None:
        """As :meth:`check`, by a tally that is kept up at each change."""
        for bound in self._bounds(claim.user, claim.groups, read_rules(own, own=True)):
            refusal = (
                _too_much(bound, claim, tally)
                if bound.window is None
                else _spent(bound, claim, tally, now)
            )
            if refusal is not None:
                return refusal
        return None

    def spent(self, held: Iterable[Claim], used: Iterable[Use], now: datetime) -> frozenset[str]:
        """The kernels that hold a share though the hours of a window are used up.

        Theirs are the first that are asked back when somebody waits.
        """
        claims = list(held)
        return self.spent_of(claims, Counted(claims, used, now), now)

    def spent_of(self, held: Iterable[Claim], tally: Tally, now: datetime) -> frozenset[str]:
        """As :meth:`spent`, by a tally that is kept up at each change."""
        known: dict[_Bound, bool] = {}
        found = set()
        for claim in held:
            for bound in self._bounds(claim.user, claim.groups):
                if bound.window is None:
                    continue
                if bound not in known:
                    hours = tally.meter(bound.whose, bound.window).hours(now)
                    known[bound] = hours >= bound.limit
                if known[bound]:
                    found.add(claim.kernel_id)
        return frozenset(found)

    def of_user(
        self, user: str, groups: frozenset[str], tally: Tally, now: datetime
    ) -> list[UserLimit]:
        """What holds for a user, and how much of it is taken, each resource and subject once."""
        return [_standing(bound, tally, now) for bound in self._bounds(user, groups)]

    def _bounds(
        self, user: str, groups: frozenset[str], own: Iterable[Rule] = ()
    ) -> Iterator[_Bound]:
        """What holds for who asks, each resource and subject once."""
        found: dict[tuple[str, timedelta | None, str, str], list[Fraction]] = {}
        for rule in self._rules:
            for scope, subject in rule.subjects(user, groups):
                key = rule.resource, rule.window, scope, subject
                found.setdefault(key, []).append(rule.limit)
        for (resource, window, scope, subject), limits in found.items():
            yield _Bound(resource, window, self._join(limits), scope, subject)
        for rule in own:
            yield _Bound(rule.resource, rule.window, rule.limit, "user", user, own=True)


# -- what is held now --------------------------------------------------------------------------


_AMOUNTS: Mapping[str, Callable[[Claim], Fraction]] = {
    "gpus": lambda claim: claim.gpus,
    "memory_bytes": lambda claim: Fraction(claim.memory_bytes),
    "kernels": lambda claim: Fraction(not claim.size.is_none),
}


#: The resources of which something is held at a moment.
HELD = tuple(_AMOUNTS)


def amount_of(resource: str, claim: Claim) -> Fraction:
    """How much of ``gpus``, ``memory_bytes`` or ``kernels`` a claim is."""
    return _AMOUNTS[resource](claim)


def _too_much(bound: _Bound, claim: Claim, tally: Tally) -> Refusal | None:
    asked = amount_of(bound.resource, claim)
    if not asked:
        return None
    held = tally.held(bound.resource, bound.whose, claim.kernel_id)
    if held + asked <= bound.limit:
        return None
    mine = _mine(bound, claim, tally)
    alone = asked > bound.limit
    words = _UNITS[bound.resource]
    limit = words(bound.limit)
    if alone:
        text = _about("never", bound, asked=words(asked), limit=limit)
        hint = say("ask-for-less") if bound.limit else ""
    else:
        text = _about("has", bound, limit=limit, held=words(held))
        hint = say("give-some-back", asked=words(asked))
    return _refusal(bound, mine, held, paragraph(text, _listed(mine), hint), alone)


def _mine(bound: _Bound, claim: Claim, tally: Tally) -> list[Claim]:
    """The other kernels of the one who asks that count, in the order of their ids."""
    mine = (
        each
        for each in tally.claims(claim.user)
        if each.kernel_id != claim.kernel_id and covers(bound.whose, each.user, each.groups)
    )
    return sorted(mine, key=lambda each: (each.shown, each.kernel_id))


def _refusal(
    bound: _Bound,
    mine: Sequence[Claim],
    held: Fraction,
    text: str,
    for_ever: bool,
    free_at: datetime | None = None,
) -> Refusal:
    return Refusal(
        text=text,
        resource=bound.resource,
        scope=bound.scope,
        subject=bound.subject,
        limit=bound.limit,
        held=held,
        kernels=tuple(each.shown for each in mine),
        free_at=free_at,
        for_ever=for_ever,
    )


def _standing(bound: _Bound, tally: Tally, now: datetime) -> UserLimit:
    free_at = None
    if bound.window is None:
        held = tally.held(bound.resource, bound.whose, "")
    else:
        meter = tally.meter(bound.whose, bound.window)
        held = meter.hours(now)
        if held >= bound.limit:
            free_at = meter.free_at(bound.limit, now)
    return UserLimit(
        resource=bound.resource,
        scope=bound.scope,
        group=bound.subject if bound.scope == "group" else None,
        window_days=None if bound.window is None else float(_days(bound.window)),
        limit=float(bound.limit),
        held=float(held),
        free_at=free_at,
    )


def _days(window: timedelta) -> Fraction:
    return Fraction(window // timedelta(seconds=1), 86400)


# -- what was used in a window -----------------------------------------------------------------


def _spent(bound: _Bound, claim: Claim, tally: Tally, now: datetime) -> Refusal | None:
    assert bound.window is not None
    if not claim.gpus:
        return None
    meter = tally.meter(bound.whose, bound.window)
    hours = meter.hours(now)
    if hours < bound.limit:
        return None
    free_at = meter.free_at(bound.limit, now)
    mine = _mine(bound, claim, tally)
    days = _days(bound.window)
    text = _about(
        "hours",
        bound,
        limit=_amount("hour", bound.limit),
        window=_amount("day", days),
        held=_amount("hour", hours),
    )
    again = "" if free_at is None else say("room-again", at=f"{free_at:%Y-%m-%d %H:%M}")
    return _refusal(
        bound, mine, hours, paragraph(text, _listed(mine), again), free_at is None, free_at
    )


# -- words -------------------------------------------------------------------------------------


def _about(what: str, bound: _Bound, **values: str) -> Said:
    """A sentence about a limit: whose it is makes another sentence, not another word."""
    whose = {} if bound.scope == "total" else {"name": bound.subject}
    return say(f"limit-{'own' if bound.own else bound.scope}-{what}", **whose, **values)


def _listed(mine: Sequence[Claim]) -> str:
    """The kernels of the one who asks; other people's are none of their business."""
    if not mine:
        return ""
    names = [one_line(f"{each.shown[:8]} ({each.size})") for each in mine[:_LISTED]]
    if len(mine) > _LISTED:
        return say("yours-and-more", kernels=names, more=len(mine) - _LISTED)
    return say("yours", kernels=names)


def _amount(unit: str, amount: Fraction, *, one: bool | None = None) -> Said:
    """An amount in a unit; ``one``: whether it takes the singular."""
    single = amount == 1 if one is None else one
    return say(f"amount-{unit}{'' if single else 's'}", number=words_of(amount))


_UNITS: Mapping[str, Callable[[Fraction], Said]] = {
    "gpus": lambda n: _amount("gpu", n, one=0 < n <= 1),
    "memory_bytes": lambda n: say("amount-memory", amount=int(n)),
    "kernels": lambda n: _amount("kernel", n),
}
