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
from itertools import pairwise
from typing import Any

from .._text import one_line
from ..size import format_bytes
from ._entries import SEVERAL, LimitsError, Rule, read_rules
from .claim import Claim, words_of

__all__ = ["Limits", "LimitsError", "Refusal", "Use"]

_HOUR = timedelta(hours=1)
_LISTED = 5


@dataclass(frozen=True)
class Use:
    """A share that was held, for the hours of a window. Times are aware.

    Attributes
    ----------
    end: when it went back; None while it is held.
    """

    user: str
    groups: frozenset[str]
    gpus: Fraction
    begin: datetime
    end: datetime | None = None


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

    def covers(self, user: str, groups: frozenset[str]) -> bool:
        """Whether what such a user holds counts."""
        if self.scope == "total":
            return True
        return self.subject == user if self.scope == "user" else self.subject in groups


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
        others = [each for each in held if each.kernel_id != claim.kernel_id]
        past: Sequence[Use] | None = None
        for bound in self._bounds(claim, read_rules(own, own=True)):
            if bound.window is not None:
                past = list(used) if past is None else past
                refusal = _spent(bound, claim, others, past, now)
            else:
                refusal = _too_much(bound, claim, others)
            if refusal is not None:
                return refusal
        return None

    def spent(self, held: Iterable[Claim], used: Iterable[Use], now: datetime) -> frozenset[str]:
        """The kernels that hold a share though the hours of a window are used up.

        Theirs are the first that are asked back when somebody waits.
        """
        past = list(used)
        known: dict[_Bound, bool] = {}
        found = set()
        for claim in held:
            for bound in self._bounds(claim, ()):
                if bound.window is None:
                    continue
                if bound not in known:
                    known[bound] = _hours(bound, past, now) >= bound.limit
                if known[bound]:
                    found.add(claim.kernel_id)
        return frozenset(found)

    def _bounds(self, claim: Claim, own: Iterable[Rule]) -> Iterator[_Bound]:
        """What holds for a claim, each resource and subject once."""
        found: dict[tuple[str, timedelta | None, str, str], list[Fraction]] = {}
        for rule in self._rules:
            for scope, subject in rule.subjects(claim.user, claim.groups):
                key = rule.resource, rule.window, scope, subject
                found.setdefault(key, []).append(rule.limit)
        for (resource, window, scope, subject), limits in found.items():
            yield _Bound(resource, window, self._join(limits), scope, subject)
        for rule in own:
            yield _Bound(rule.resource, rule.window, rule.limit, "user", claim.user, own=True)


# -- what is held now --------------------------------------------------------------------------


_AMOUNTS: Mapping[str, Callable[[Claim], Fraction]] = {
    "gpus": lambda claim: claim.gpus,
    "memory_bytes": lambda claim: Fraction(claim.memory_bytes),
    "kernels": lambda claim: Fraction(1),
}


def _too_much(bound: _Bound, claim: Claim, others: Sequence[Claim]) -> Refusal | None:
    amount = _AMOUNTS[bound.resource]
    counted = [each for each in others if bound.covers(each.user, each.groups)]
    held, asked = sum(map(amount, counted), Fraction(0)), amount(claim)
    if not asked or held + asked <= bound.limit:
        return None
    alone = asked > bound.limit
    words = _UNITS[bound.resource]
    if alone:
        text = f"{words(asked)} is more than {_whose(bound)} may have: {words(bound.limit)}."
        hint = "Ask for less." if bound.limit else ""
    else:
        text = f"{_subject(bound)} may have {words(bound.limit)} and now has {words(held)}."
        hint = f"{words(asked)} more is too much; give some back first."
    return _refusal(bound, claim, counted, held, f"{text}{_listed(claim, counted)} {hint}", alone)


def _refusal(
    bound: _Bound,
    claim: Claim,
    counted: Iterable[Claim],
    held: Fraction,
    text: str,
    for_ever: bool,
    free_at: datetime | None = None,
) -> Refusal:
    return Refusal(
        text=one_line(text),
        resource=bound.resource,
        scope=bound.scope,
        subject=bound.subject,
        limit=bound.limit,
        held=held,
        kernels=tuple(sorted(each.kernel_id for each in counted if each.user == claim.user)),
        free_at=free_at,
        for_ever=for_ever,
    )


# -- what was used in a window -----------------------------------------------------------------


def _spent(
    bound: _Bound, claim: Claim, others: Sequence[Claim], used: Sequence[Use], now: datetime
) -> Refusal | None:
    hours = _hours(bound, used, now)
    if not claim.gpus or hours < bound.limit:
        return None
    assert bound.window is not None
    free_at = _free_at(bound, used, now)
    counted = [each for each in others if bound.covers(each.user, each.groups)]
    days = Fraction(bound.window // timedelta(seconds=1), 86400)
    text = (
        f"{_subject(bound)} may use {_words(bound.limit, 'GPU-hour')} in {_words(days, 'day')} and "
        f"has used {_words(hours, 'GPU-hour')}.{_listed(claim, counted)} "
    )
    if free_at is not None:
        text += f"If nothing is used until then, there is room at {free_at:%Y-%m-%d %H:%M} UTC."
    return _refusal(bound, claim, counted, hours, text, free_at is None, free_at)


def _hours(bound: _Bound, used: Iterable[Use], now: datetime) -> Fraction:
    """GPU-hours of a subject in the window that ends now."""
    return sum((_of(gpus, end - begin) for begin, end, gpus in _within(bound, used, now)), _NONE)


_NONE = Fraction(0)
_Part = tuple[datetime, datetime, Fraction]


def _within(bound: _Bound, used: Iterable[Use], now: datetime) -> Iterator[_Part]:
    assert bound.window is not None
    first = now - bound.window
    for use in used:
        begin, end = max(use.begin, first), min(use.end or now, now)
        if begin < end and bound.covers(use.user, use.groups):
            yield begin, end, use.gpus


def _of(gpus: Fraction, span: timedelta) -> Fraction:
    micro = timedelta(microseconds=1)
    return gpus * (span // micro) / (_HOUR // micro)


def _free_at(bound: _Bound, used: Iterable[Use], now: datetime) -> datetime | None:
    """The first moment after which less than the limit is in the window, if nothing is added.

    None where the limit is 0. Rounded up to microseconds.
    """
    if bound.limit <= 0:
        return None
    assert bound.window is not None
    parts = list(_within(bound, used, now))
    excess = sum((_of(gpus, end - begin) for begin, end, gpus in parts), _NONE) - bound.limit
    edges = sorted({moment for begin, end, _ in parts for moment in (begin, end)})
    for begin, end in pairwise(edges):
        rate = sum((gpus for low, high, gpus in parts if low <= begin < high), _NONE)
        leaves = _of(rate, end - begin)
        if leaves > excess:
            part = excess / rate * (_HOUR // timedelta(microseconds=1))
            return begin + bound.window + timedelta(microseconds=-(-part // 1))
        excess -= leaves
    return None


# -- words -------------------------------------------------------------------------------------


def _subject(bound: _Bound) -> str:
    if bound.own:
        return f"By your own configuration {bound.subject}"
    return {"user": bound.subject, "group": f"Group {bound.subject}"}.get(
        bound.scope, "Everybody together"
    )


def _whose(bound: _Bound) -> str:
    text = _subject(bound)
    return text if bound.scope == "user" and not bound.own else text[0].lower() + text[1:]


def _listed(claim: Claim, counted: Iterable[Claim]) -> str:
    """The kernels of the one who asks; other people's are none of their business."""
    mine = sorted((e for e in counted if e.user == claim.user), key=lambda each: each.kernel_id)
    if not mine:
        return ""
    names = [f"{each.kernel_id[:8]} ({each.size})" for each in mine[:_LISTED]]
    more = f" and {len(mine) - _LISTED} more" if len(mine) > _LISTED else ""
    return f" Yours: {', '.join(names)}{more}."


def _words(amount: Fraction, unit: str) -> str:
    return f"{words_of(amount)} {unit}{'' if amount == 1 else 's'}"


_UNITS: Mapping[str, Callable[[Fraction], str]] = {
    "gpus": lambda n: f"{words_of(n)} GPU{'' if n <= 1 and n else 's'}",
    "memory_bytes": lambda n: format_bytes(int(n)),
    "kernels": lambda n: _words(n, "kernel"),
}
