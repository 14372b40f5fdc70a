"""The administrator's rules about shares that nobody uses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Any, TypeVar

from traitlets import All, TraitError, observe, validate

from ..errors import SizeError
from ..sentences import say
from ..size import Size
from ._adaptive import Model, weight
from ._calibration import Calibration
from ._history import History
from ._keeping import KeepingSettings
from ._learnt import LEARNT
from ._settings import FIGURES, IdleSettings
from ._situation import Plan, Situation
from ._terms import Entry, Terms, read_entries
from ._windows import zone

__all__ = ["IdlePolicy"]

_Key = TypeVar("_Key")
_NEVER = math.inf
_WEEK = timedelta(days=8)  # with a day to spare for the change of summer time


@dataclass(frozen=True)
class _Settled:
    """The settings as they are used."""

    terms: Terms
    rules: tuple[Entry, ...]
    windows: tuple[Entry, ...]
    zone: tzinfo | None
    usual: Size


@dataclass(frozen=True)
class _Due:
    """When a share goes back, after how many seconds without use, and whether for others."""

    at: datetime
    waited: float
    for_others: bool = False


class IdlePolicy(IdleSettings, KeepingSettings):
    """When an unused share goes back, and for how long a user may keep it.

    It is pure: what it answers depends on the settings and on what it is told, so that the same
    rules run in a server and in a simulation.
    """

    #: What the adaptive rule knows of notebooks in general; a benchmark puts another in.
    model: Model = LEARNT
    _known: _Settled | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        #: What the adaptive rule finds out about its own waits. It is kept by who runs the rules.
        self.calibration = Calibration()

    @property
    def longest_keep(self) -> timedelta:
        """``keep_limit`` as a span of time."""
        return timedelta(seconds=self.keep_limit)

    def group_of(self, *names: str) -> str:
        """The administrator's group of the first of these names that has one; else empty.

        Parameters
        ----------
        names: of the user, then of the groups that the user is in.
        """
        return next((self.groups[name] for name in names if name in self.groups), "")

    def plan(self, situation: Situation, history: History) -> Plan:
        """What happens to a share if it stays unused and nothing else changes.

        Called when a burst has ended, and again when the situation has changed. It takes some
        microseconds.
        """
        if situation.released_at is not None:
            return self._plan_released(situation, situation.released_at)
        if situation.size.is_none:
            return Plan(None, None, None, say("no-share"))
        pin = self._pin(situation)
        begin = situation.idle_since + timedelta(seconds=self.idle_after)
        found = self._first(situation, history, max(situation.now, begin, pin or begin))
        if found is None:
            return Plan(None, None, None, self._why_not(situation))
        release, terms, due = found
        warn = cull = None
        if terms.warn_before:
            warn = max(begin, release - timedelta(seconds=terms.warn_before))
        if terms.cull_after:
            cull = release + timedelta(seconds=terms.cull_after)
        why = self._why(terms, history, due)
        if pin and release <= pin:
            why = say("kept-as-asked")
        return Plan(warn, release, cull, why)

    def order(self, candidates: Iterable[tuple[_Key, Situation]]) -> list[_Key]:
        """Whose share goes back first now that somebody waits: the least recently used.

        Those whose share does not go back for others, or not yet, are left out: used a moment ago,
        kept, or with variables that would be lost. When one of them goes, after its user was
        warned, is what :meth:`plan` says once ``waiting_since`` is set.
        """
        ready: list[tuple[datetime, int, _Key]] = []
        for key, situation in candidates:
            terms = self._terms_at(situation, situation.now)
            pin = self._pin(situation)
            if (
                situation.released_at is None
                and not situation.size.is_none
                and terms.rule != "never"
                and terms.demand_after is not None
                and (situation.kept or terms.lose_variables)
                and (pin is None or pin <= situation.now)
                and situation.now - situation.idle_since
                >= timedelta(seconds=max(terms.demand_after, self.idle_after))
            ):
                ready.append((situation.idle_since, len(ready), key))
        return [key for _, _, key in sorted(ready, key=lambda row: row[:2])]

    def watch(self, situation: Situation, history: History, pause: float) -> None:
        """A pause is over: the adaptive rule sees whether the share would have gone by then.

        It is told for every pause, also where the share was kept or went for others, so that what
        people do with the buttons does not look like the rule's own success.

        Parameters
        ----------
        situation: as it was when the share became unused, and ``history``, too.
        pause: its length in seconds.
        """
        terms = self._terms_at(situation, situation.idle_since)
        if terms.rule == "adaptive" and not situation.size.is_none:
            watch = self.calibration.of(terms.aim)
            gone = pause > self._waited(terms, situation, history)
            (watch.waited if gone else watch.found)()

    def steady(self, size: Size, group: str = "") -> Terms | None:
        """What holds for a share at all times; None where that depends on the time."""
        settled = self._settled
        if any(entry.covers(size, group) for entry in settled.windows):
            return None
        rule = next((entry for entry in settled.rules if entry.covers(size, group)), None)
        return rule.apply(settled.terms) if rule else settled.terms

    def taken_at(self, situation: Situation) -> datetime | None:
        """When a share that was asked back goes, whatever its own rule; None where it stays.

        Its user was warned by then, from ``waiting_since`` on. It is asked by who owns the shares
        of all users and does not know their notebooks.
        """
        if not self.order([("", situation)]):
            return None
        due = self._for_others(self._terms_at(situation, situation.now), situation)
        return None if due is None else max(due.at, situation.now)

    # -- when ----------------------------------------------------------------------------------

    def _first(
        self, situation: Situation, history: History, start: datetime
    ) -> tuple[datetime, Terms, _Due] | None:
        """The first moment from ``start`` at which a share goes back, with what held then."""
        base, windows = self._covering(situation)
        if not windows:
            due = self._due(base, situation, history)
            return None if due is None else (max(start, due.at), base, due)
        found: dict[Terms, _Due | None] = {}

        def due_under(terms: Terms) -> _Due | None:
            if terms not in found:
                found[terms] = self._due(terms, situation, history)
            return found[terms]

        # Weeks are alike: if terms let it go at all, then within one from when they first could.
        starts = {start}
        for terms in (base, *(entry.apply(base) for entry in windows)):
            if due := due_under(terms):
                starts.add(max(start, due.at))
        for first in sorted(starts):
            for begin, end, terms in self._segments(base, windows, first):
                due = due_under(terms)
                if due is not None and (moment := max(begin, due.at)) < end:
                    return moment, terms, due
        return None

    def _due(self, terms: Terms, situation: Situation, history: History) -> _Due | None:
        """When a share goes back under some terms; None for never."""
        if terms.rule == "never" or not (situation.kept or terms.lose_variables):
            return None
        own = None
        waited = self._waited(terms, situation, history)
        if waited != _NEVER:
            own = _Due(situation.idle_since + timedelta(seconds=waited), waited)
        asked = self._for_others(terms, situation)
        return own if asked is None or (own and own.at <= asked.at) else asked

    def _waited(self, terms: Terms, situation: Situation, history: History) -> float:
        """The seconds without use after which a share goes back by its own rule."""
        waited = _NEVER
        if terms.rule == "fixed":
            waited = terms.timeout
        elif terms.rule == "adaptive":
            known = self.calibration.shifts if situation.shifts is None else situation.shifts
            price = self.price(terms.aim, situation.size) + known.get(terms.aim, 0.0)
            waited = self.model.release_of(self.model.kind(history), price)
        return max(waited, self.idle_after)

    def price(self, aim: float, size: Size) -> float:
        """The logarithm of a wait's price, for a share of that size, before any is watched."""
        share = weight(size, self._settled.usual)
        return math.log(self.model.price(aim) / share)

    def _for_others(self, terms: Terms, situation: Situation) -> _Due | None:
        """When a share goes for somebody who waits; None where it does not."""
        if situation.waiting_since is None or terms.demand_after is None:
            return None
        waited = max(terms.demand_after, self.idle_after)
        # The user is warned of this as of everything else.
        warned = situation.waiting_since + timedelta(seconds=terms.warn_before)
        at = max(situation.idle_since + timedelta(seconds=waited), warned)
        return _Due(at, waited, for_others=True)

    def _segments(
        self, base: Terms, windows: tuple[Entry, ...], first: datetime
    ) -> list[tuple[datetime, datetime, Terms]]:
        """Spans of a week from ``first`` in each of which the same terms hold."""
        last = first + _WEEK
        where = self._settled.zone
        spans = [
            (begin, end, entry)
            for entry in windows
            if entry.window
            for begin, end in entry.window.spans(first, last, where)
        ]
        bounds = {moment for begin, end, _ in spans for moment in (begin, end)}
        edges = [first, *sorted(moment for moment in bounds if first < moment < last), last]
        found = []
        for begin, end in pairwise(edges):
            holds = {id(entry) for low, high, entry in spans if low <= begin < high}
            entry = next((entry for entry in windows if id(entry) in holds), None)
            found.append((begin, end, entry.apply(base) if entry else base))
        return found

    def _covering(self, situation: Situation) -> tuple[Terms, tuple[Entry, ...]]:
        """What holds for a share without windows, and the windows that are about it."""
        settled = self._settled
        size, group = situation.size, situation.group
        rule = next((entry for entry in settled.rules if entry.covers(size, group)), None)
        windows = tuple(entry for entry in settled.windows if entry.covers(size, group))
        return (rule.apply(settled.terms) if rule else settled.terms), windows

    def _terms_at(self, situation: Situation, moment: datetime) -> Terms:
        base, windows = self._covering(situation)
        return self._segments(base, windows, moment)[0][2] if windows else base

    def _pin(self, situation: Situation) -> datetime | None:
        """Until when the share is kept, as far as the limit allows."""
        if situation.keep_until is None:
            return None
        return min(situation.keep_until, situation.now + self.longest_keep)

    def _plan_released(self, situation: Situation, released: datetime) -> Plan:
        terms = self._terms_at(situation, released)
        if not terms.cull_after:
            return Plan(None, None, None, say("cell-takes-back"))
        moments = [released + timedelta(seconds=terms.cull_after), situation.now]
        if pin := self._pin(situation):
            moments.append(pin)
        why = say("ends-after-release", after=terms.cull_after)
        return Plan(None, None, max(moments), why)

    # -- why -----------------------------------------------------------------------------------

    def _why(self, terms: Terms, history: History, due: _Due) -> str:
        if due.for_others:
            return say("goes-for-others", after=due.waited)
        if terms.rule == "fixed":
            return say("goes-after", after=due.waited)
        if not history.pauses:
            return say("seldom-soon", after=due.waited)
        usual = history.usual(self.model.expected, 0.0)  # its own pauses, nobody else's
        return say("seldom-soon-here", usual=usual, after=due.waited)

    def _why_not(self, situation: Situation) -> str:
        terms = self._terms_at(situation, situation.now)
        if terms.rule == "never":
            return say("never-goes")
        if not (situation.kept or terms.lose_variables):
            return say("not-kept-so-stays")
        if terms.rule == "demand" and terms.demand_after is not None:
            return say("goes-if-wanted", after=terms.demand_after)
        return say("soon-so-stays")

    # -- settings ------------------------------------------------------------------------------

    @property
    def _settled(self) -> _Settled:
        if self._known is None:
            self._known = _Settled(
                terms=Terms(
                    rule=self.rule,
                    timeout=self.timeout,
                    aim=self.aim,
                    demand_after=self.demand_after,
                    warn_before=self.warn_before,
                    cull_after=self.cull_after,
                    lose_variables=self.lose_variables,
                ),
                rules=read_entries(self.rules, timed=False),
                windows=read_entries(self.windows, timed=True),
                zone=zone(self.time_zone),
                usual=Size.parse(self.usual_size),
            )
        return self._known

    @observe(All)
    def _changed(self, change: dict[str, Any]) -> None:
        self._known = None

    @validate(*FIGURES)
    def _validate_figure(self, proposal: dict[str, Any]) -> float | None:
        value: float | None = proposal["value"]
        if value is not None and not math.isfinite(value):
            raise TraitError(f"IdlePolicy.{proposal['trait'].name} is a number, not {value}.")
        return value

    @validate("aim")
    def _validate_aim(self, proposal: dict[str, Any]) -> float:
        value: float = proposal["value"]
        if not 0 < value < 1:
            raise TraitError(f"IdlePolicy.aim is a number between 0 and 1, not {value}.")
        return value

    @validate("rules", "windows")
    def _validate_entries(self, proposal: dict[str, Any]) -> list[dict[str, Any]]:
        value: list[dict[str, Any]] = proposal["value"]
        name: str = proposal["trait"].name
        try:
            read_entries(value, timed=name == "windows")
        except ValueError as error:
            raise TraitError(f"IdlePolicy.{name}: {error}.") from error
        return value

    @validate("time_zone")
    def _validate_zone(self, proposal: dict[str, Any]) -> str:
        value: str = proposal["value"]
        try:
            zone(value)
        except ValueError as error:
            raise TraitError(f"IdlePolicy.time_zone: {error}.") from error
        return value

    @validate("usual_size")
    def _validate_size(self, proposal: dict[str, Any]) -> str:
        value: str = proposal["value"]
        try:
            size = Size.parse(value)
        except SizeError as error:
            raise TraitError(f"IdlePolicy.usual_size: {error}.") from error
        if size.is_none:
            raise TraitError("IdlePolicy.usual_size is a size above 0.")
        return value
