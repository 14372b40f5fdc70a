"""What becomes of a share that nobody uses: shown as idle, warned about, given back; culled last.

Pure: the controller tells what happens and what time it is, and gets a decision with the moment of
the next one. Every step but the last is undone by running a cell.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

from ..allocations import Kept, NextAction, State
from ..engines.idle_shares import AskedBack
from ..idle import History, IdlePolicy, Plan, Situation
from ..relay import Activity
from ..sentences import paragraph, say, words_of
from ..size import Size
from ._checkpoint import Look
from .facts import Event

__all__ = ["Decision", "IdleRule", "Use"]

#: Seconds until a kernel is looked at again that works in the background, or could not leave its
#: share.
_AGAIN = 60.0
#: Seconds until a plan is made anew that leaves the share alone: windows of time come and go.
_PLAN_AGAIN = 300.0
#: Seconds: cells that follow each other sooner are one burst of work, as in the trace that the
#: adaptive rule was learnt from.
_SAME_WORK = 60.0
#: A moment that is told as seconds from now differs by less from one look to the next.
_JITTER = timedelta(seconds=2)
#: Part of its time that a GPU is used by programs that draw a screen or keep a clock at most.
_RESTING = 0.02


@dataclass(frozen=True)
class Use:
    """A reading of the GPU. ``own``: it is the kernel's alone, else of the whole GPU."""

    utilization: float | None = None
    own: bool = False

    @property
    def working(self) -> bool:
        """Whether the kernel itself is known to use its GPU."""
        return self.own and self.utilization is not None and self.utilization > _RESTING

    @property
    def words(self) -> str:
        """What it is."""
        if self.utilization is None:
            return say("use-unknown")
        return say("use" if self.own else "use-of-all", use=self.utilization)

    def unused(self, since: datetime) -> str:
        """That no cell has run since a moment, and what else says that nothing is used."""
        if self.utilization is None:
            return say("unused-use-unknown", since=since)
        code = "unused-without-use" if self.own else "unused-without-use-of-all"
        return say(code, since=since, use=self.utilization)


@dataclass(frozen=True)
class Decision:
    """What is shown of a kernel, and what follows.

    Attributes
    ----------
    state: ``ACTIVE`` or ``IDLE``; None: as the kernel's phase says.
    kept: what a release would keep, where that was found out.
    wish: ``LOOK``, ``UNUSED`` or ``CULL``: what the controller is asked to do.
    at: when to decide again, if nothing happens; None: only then.
    """

    state: State | None = None
    reason: str | None = None
    idle_since: datetime | None = None
    next: NextAction | None = None
    kept: Kept | None = None
    wish: Event | None = None
    cull: bool = False
    at: datetime | None = None


@dataclass
class _Found:
    """A look at the kernel, or the failure of one, and until when it holds."""

    look: Look | None
    until: datetime | None = None
    reason: str = ""
    works: bool = False


@dataclass(frozen=True)
class _Wanted:
    """The share is asked back, and since when."""

    since: datetime
    asked: AskedBack


@dataclass
class IdleRule:
    """The rule's view of one kernel. Times are aware."""

    policy: IdlePolicy
    history: History = field(default_factory=History)
    #: How many cells had been sent when the last decision was made.
    seen: int = 0
    _busy: bool = False
    _began: float | None = None
    _since: datetime | None = None
    _released: datetime | None = None
    _wanted: _Wanted | None = None
    _kept: bool = True
    _found: _Found | None = None
    #: The share as it was when the pause began; None where the kernel works by itself.
    _paused: Situation | None = None

    # -- what happens ----------------------------------------------------------------------------

    def used(self, activity: Activity, now: datetime) -> None:
        """What clients have done up to now, to be told whenever a number of it changes.

        A cell counts however short it is, and whether or not it still runs.
        """
        sent = activity.cells_sent - self.seen
        self.seen = activity.cells_sent
        if sent and self._began is None:
            self._began = activity.last_sent
            self._watch(now)
        if sent or activity.busy or self._busy:
            self._since = self._wanted = self._found = self._paused = None
        if activity.busy:
            self._busy = True
            return
        if self._began is not None:
            self.history.burst(self._began, max(self._began, activity.last_done or self._began))
            self._began = None
        self._busy = False
        if self._since is None:
            self._since = now

    def _watch(self, now: datetime) -> None:
        """Tell the policy that a cell ends a pause, unless the kernel worked by itself in it."""
        works = self._found is not None and self._found.works
        if self._paused is None or works:
            return
        pause = (now - self._paused.idle_since).total_seconds()
        if pause >= _SAME_WORK:
            self.policy.watch(self._paused, self.history, pause)

    def returned(self, now: datetime) -> None:
        """The kernel has its share, for the first time or again."""
        self._released = self._found = self._wanted = None
        if not self._busy:
            self._since = now

    def released(self, now: datetime) -> None:
        """The share was given back, by the rule or by a person."""
        self._released = now
        self._found = self._wanted = None

    def looked(self, look: Look, use: Use, now: datetime) -> None:
        """The kernel was asked, as wished."""
        if look.background or use.working:
            what = [*look.background, *([use.words] if use.working else [])]
            self._works(what, now)
            return
        self._kept = not look.kept.lost
        self._found = _Found(look)

    def refused(self, error: BaseException, now: datetime, *, busy: bool = False) -> None:
        """The kernel could not be asked, or did not leave its share."""
        if busy:
            self._works([say("cell-runs")], now)
            return
        why = paragraph(say("share-stays"), words_of(error))
        self._found = _Found(None, now + timedelta(seconds=_AGAIN), why)

    def cut_short(self, now: datetime) -> None:
        """What was wished was left for somebody; where that was no cell, it is not tried at once.

        A widget that is moved would have the kernel asked again and again.
        """
        idle_after = timedelta(seconds=self.policy.idle_after)
        if self.unused and self._since is not None and now >= self._since + idle_after:
            self._works([say("somebody-uses")], now)

    def wanted(self, asked: AskedBack | None, now: datetime) -> bool:
        """Somebody waits for a share that this one's return makes room for; True if that is new.

        None: nobody does any more.
        """
        known = self._wanted
        if asked is None:
            self._wanted = None
            return known is not None
        if asked.taken and (known is None or not known.asked.taken):
            self._found = None  # whatever kept it before, it is gone
        elif known is not None and _alike(known.asked.due, asked.due):
            return False
        self._wanted = _Wanted(known.since if known is not None else now, asked)
        return True

    def _works(self, what: list[str], now: datetime) -> None:
        reason = say("works", what=what)
        self._found = _Found(None, now + timedelta(seconds=_AGAIN), reason, works=True)

    # -- what follows ------------------------------------------------------------------------------

    @property
    def unused(self) -> bool:
        """True while the kernel holds a share that no cell uses."""
        return not self._busy and self._since is not None and self._released is None

    def situation(
        self, now: datetime, *, size: Size, group: str, keep_until: datetime | None
    ) -> Situation:
        """The share as the policy is to judge it."""
        return Situation(
            now=now,
            idle_since=self._since or now,
            size=size,
            group=group,
            keep_until=keep_until,
            waiting_since=self._wanted.since if self._wanted else None,
            kept=self._kept,
            released_at=self._released,
            shifts=self._paused.shifts if self._paused else None,
        )

    def release_at(self, situation: Situation) -> datetime | None:
        """When the share goes back if it stays unused; None: not by itself."""
        return self._plan(situation).release_at

    def decide(self, situation: Situation, use: Use) -> Decision:
        """What is shown now, and what is to be done."""
        now = situation.now
        if self._released is not None:
            return self._after_release(situation)
        if self._busy or self._since is None:
            return Decision(State.ACTIVE, reason="")
        if self._paused is None:
            # What the rule finds out from now on does not change what the user is told of this one.
            self._paused = replace(
                self._anew(situation), now=self._since, shifts=self.policy.calibration.shifts
            )
            situation = self._anew(situation)
        idle_at = self._since + timedelta(seconds=self.policy.idle_after)
        if now < idle_at:
            return Decision(State.ACTIVE, idle_since=self._since, at=idle_at)
        found = self._found
        if found is not None and found.until is not None and found.until <= now:
            self._found = None
            if found.works:  # it has worked up to now, so it is unused from now on
                self._since = now
                self._paused = None
                return self.decide(self._anew(situation), use)
            found = None
        if found is not None and found.look is None:
            state = State.ACTIVE if found.works else State.IDLE
            since = None if found.works else self._since
            return Decision(state, found.reason, since, at=found.until)
        return self._idle(situation, use, found.look if found else None)

    def _idle(self, situation: Situation, use: Use, look: Look | None) -> Decision:
        now, since = situation.now, self._since or datetime.now(timezone.utc)
        no_cell = say("unused", since=since)
        if look is None:
            self._kept = True  # until a look says otherwise
            situation = self._anew(situation)
        plan = self._plan(situation)
        if plan.release_at is None:
            if look is not None:
                stays = say("share-stays-for-variables", lost=look.kept.lost)
                self._found = _Found(
                    None, now + timedelta(seconds=_AGAIN), paragraph(stays, look.why)
                )
                return Decision(
                    State.IDLE,
                    self._found.reason,
                    self._since,
                    kept=look.kept,
                    at=self._found.until,
                )
            again = now + timedelta(seconds=_PLAN_AGAIN)
            return Decision(State.IDLE, paragraph(no_cell, plan.why), self._since, at=again)
        warn_at = min(plan.warn_at or plan.release_at, plan.release_at)
        if now < warn_at:
            warn = NextAction("warn", warn_at)
            return Decision(State.IDLE, no_cell, self._since, warn, at=warn_at)
        if look is None:
            return Decision(State.IDLE, no_cell, self._since, wish=Event.LOOK)
        if use.working:
            self._works([use.words], now)
            return self.decide(situation, use)
        due = now >= plan.release_at
        return Decision(
            State.IDLE,
            paragraph(use.unused(since), plan.why),
            self._since,
            NextAction("release", plan.release_at),
            look.kept,
            wish=Event.UNUSED if due else None,
            at=None if due else plan.release_at,
        )

    def _after_release(self, situation: Situation) -> Decision:
        cull_at = self._plan(situation).cull_at
        if cull_at is None:
            return Decision()
        due = cull_at <= situation.now
        return Decision(
            next=None if due else NextAction("cull", cull_at),
            cull=due,
            at=None if due else cull_at,
        )

    def _anew(self, known: Situation) -> Situation:
        """The same share, as it is judged now."""
        return self.situation(
            known.now, size=known.size, group=known.group, keep_until=known.keep_until
        )

    def _plan(self, situation: Situation) -> Plan:
        """What the user's rule says, or what was asked for all users where that is earlier.

        Variables are lost by the user's rule only.
        """
        plan = self.policy.plan(situation, self.history)
        due = self._wanted.asked.due if self._wanted else None
        stays = plan.release_at is None and not situation.kept
        if due is None or stays:
            return plan
        due = max(due, situation.now)
        if plan.release_at is not None and plan.release_at <= due:
            return plan
        after = (due - situation.idle_since).total_seconds()
        why = say("goes-for-others", after=after)
        return replace(plan, warn_at=situation.waiting_since, release_at=due, why=why)

    @property
    def lose_variables(self) -> bool:
        """Whether the release that is wished for loses variables, as the administrator allows."""
        return not self._kept


def _alike(one: datetime | None, other: datetime | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) < _JITTER
