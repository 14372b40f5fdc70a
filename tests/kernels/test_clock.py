"""The idle rule over minutes of a simulated clock, told of use as the relay tells of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from jupyter_gpu_share.allocations import Kept, State
from jupyter_gpu_share.engines.idle_shares import AskedBack
from jupyter_gpu_share.errors import GpuShareError
from jupyter_gpu_share.idle import IdlePolicy
from jupyter_gpu_share.kernels._checkpoint import Look
from jupyter_gpu_share.kernels._idle_rule import IdleRule, Use
from jupyter_gpu_share.kernels.facts import Event
from jupyter_gpu_share.relay import Activity
from jupyter_gpu_share.size import Size

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)
#: Seconds of a cell, and until the relay tells of it.
CELL, TOLD = 0.001, 0.05


@dataclass
class Clock:
    """A kernel under the rule, on a clock that is moved by hand. Times are seconds from noon.

    Attributes
    ----------
    seen: the state, and what is announced, from when on it is shown.
    released: when the share was given back; None: never.
    lost: what a release would lose.
    """

    policy: IdlePolicy
    now: float = 0.0
    cells: int = 0
    seen: list[tuple[float, State | None, str]] = field(default_factory=list)
    released: float | None = None
    lost: tuple[str, ...] = ()
    _next: float | None = None

    def __post_init__(self) -> None:
        self.rule = IdleRule(self.policy)
        self.rule.returned(self._at(0))
        self._decide()

    def run(self, until: float) -> None:
        """Let time pass, with all decisions that are due in it."""
        while self._next is not None and self._next <= until:
            self.now = max(self.now, self._next)
            self._decide()
        self.now = until

    def cell(self, at: float, number: int = 1) -> None:
        """Cells run and end before the relay looks: it tells of counts that have changed."""
        self.run(at + TOLD)
        self.cells += number
        activity = Activity(
            cells_sent=self.cells, cells_done=self.cells, last_sent=at, last_done=at + CELL
        )
        assert not activity.busy
        self.rule.used(activity, self._at(self.now))
        self._decide()

    def wanted(
        self, by_others: bool, at: float, *, due: float | None = None, taken: bool = False
    ) -> None:
        """It is seen whether somebody waits for this share, and until when it has to go."""
        self.run(at)
        asked = AskedBack(None if due is None else self._at(due), taken) if by_others else None
        if self.rule.wanted(asked, self._at(at)):
            self._decide()

    def _decide(self) -> None:
        self._next = None
        while True:
            situation = self.rule.situation(
                self._at(self.now), size=Size.parse("1/4"), group="", keep_until=None
            )
            decision = self.rule.decide(situation, Use())
            action = decision.next.action if decision.next is not None else ""
            if not self.seen or self.seen[-1][1:] != (decision.state, action):
                self.seen.append((self.now, decision.state, action))
            if decision.wish is Event.LOOK:
                look = Look(kept=Kept("in-place", self.lost))
                self.rule.looked(look, Use(), self._at(self.now))
                continue
            if decision.wish is Event.UNUSED:
                self.released = self.now
                self.rule.released(self._at(self.now))
                continue
            break
        if decision.at is not None:
            self._next = (decision.at - NOON).total_seconds()

    @staticmethod
    def _at(seconds: float) -> datetime:
        return NOON + timedelta(seconds=seconds)


def fixed(**changes: Any) -> IdlePolicy:
    return IdlePolicy(
        **{"rule": "fixed", "timeout": 30, "idle_after": 5, "warn_before": 10, **changes}
    )


def test_a_cell_every_20_s_keeps_a_share_that_goes_after_30_s() -> None:
    clock = Clock(fixed())
    for turn in range(30):
        clock.cell(20.0 * turn)
    clock.run(600.0)
    assert clock.released is None
    assert {action for _, _, action in clock.seen} == {"", "warn", "release"}, "it was warned of"
    clock.run(1200.0)
    assert clock.released == pytest.approx(580 + TOLD + 30), "30 s after the last cell"


def test_without_cells_it_is_shown_as_idle_then_announced_then_given_back() -> None:
    clock = Clock(fixed())
    clock.run(600.0)
    assert clock.seen == [
        (0.0, State.ACTIVE, ""),
        (5.0, State.IDLE, "warn"),
        (20.0, State.IDLE, ""),  # the kernel is asked first
        (20.0, State.IDLE, "release"),
        (30.0, None, ""),
    ]
    assert clock.released == 30.0


def test_a_cell_after_the_warning_starts_the_time_anew() -> None:
    clock = Clock(fixed())
    clock.cell(29.9)
    clock.run(59.9)
    assert clock.released is None
    clock.run(60.0)
    assert clock.released == pytest.approx(29.9 + TOLD + 30)


def test_a_share_is_not_taken_for_somebody_who_left() -> None:
    policy = fixed(timeout=3600, demand_after=60)
    stays, goes = Clock(policy), Clock(policy)
    for clock in (stays, goes):
        clock.wanted(True, at=100.0)
    stays.wanted(False, at=109.0)
    for clock in (stays, goes):
        clock.run(3599.0)
    assert goes.released == 110.0, "when its user was warned for 10 s"
    assert stays.released is None
    stays.run(3600.0)
    assert stays.released == 3600.0, "its own time is up"


def test_whoever_waits_again_has_the_user_warned_again() -> None:
    clock = Clock(fixed(timeout=3600, demand_after=60))
    clock.wanted(True, at=100.0)
    clock.wanted(False, at=109.0)
    clock.wanted(True, at=200.0)
    clock.run(3600.0)
    assert clock.released == 210.0


@pytest.mark.parametrize("rule", ["never", "demand", "fixed"])
def test_a_share_that_is_due_for_all_users_goes_then_whatever_its_users_rule(rule: str) -> None:
    clock = Clock(fixed(rule=rule, timeout=3600, demand_after=1800))
    clock.wanted(True, at=100.0, due=160.0)
    clock.wanted(True, at=102.0, due=160.9)
    clock.run(159.0)
    assert clock.seen[-1] == (100.0, State.IDLE, "release"), (
        "it is announced as soon as it is asked"
    )
    clock.run(3600.0)
    assert clock.released == 160.0, "the moment that was promised first"


def test_a_share_whose_own_rule_gives_it_earlier_does_not_wait_until_it_is_due() -> None:
    clock = Clock(fixed(timeout=120))
    clock.wanted(True, at=100.0, due=160.0)
    clock.run(3600.0)
    assert clock.released == 120.0


def test_a_due_share_stays_that_is_used_or_not_asked_for_any_more() -> None:
    used, left = Clock(fixed(rule="never")), Clock(fixed(rule="never"))
    for clock in (used, left):
        clock.wanted(True, at=100.0, due=160.0)
    used.cell(150.0)
    left.wanted(False, at=150.0)
    for clock in (used, left):
        clock.run(7200.0)
        assert clock.released is None
    used.wanted(True, at=7300.0, due=7200.0)
    assert used.released == 7300.0, "a promise that was over meanwhile"


def test_a_share_that_was_taken_is_left_at_once_though_it_could_not_be_before() -> None:
    stays, goes = Clock(fixed()), Clock(fixed())
    for clock in (stays, goes):
        clock.run(25.0)
        clock.rule.refused(GpuShareError("It does not answer."), clock._at(25.0))
        clock.wanted(True, at=30.0, due=40.0)
        assert clock.released is None
    stays.wanted(True, at=40.0, due=40.0)
    goes.wanted(True, at=40.0, due=40.0, taken=True)
    assert (stays.released, goes.released) == (None, 40.0)


def test_variables_are_lost_by_the_users_own_rule_only() -> None:
    clock = Clock(fixed(rule="never"), lost=("model",))
    clock.wanted(True, at=100.0, due=160.0)
    clock.run(1000.0)
    assert clock.released is None
    assert not clock.rule.situation(
        clock._at(1000.0), size=Size.parse("1/4"), group="", keep_until=None
    ).kept


def test_pauses_between_cells_of_a_millisecond_are_learnt() -> None:
    clock = Clock(IdlePolicy(rule="never"))
    pauses = [20.0, 119.0, 120.0, 20.0, 600.0, 121.5, 1.0, 7200.0, 20.0]
    at = 0.0
    clock.cell(at)
    for pause in pauses:
        at += CELL + pause
        clock.cell(at)
        history = clock.rule.history
        if pause >= 120:
            assert history.last == pytest.approx(pause)
    assert clock.rule.history.pauses == sum(pause >= 120 for pause in pauses) == 4


def test_cells_that_come_between_two_looks_are_one_burst() -> None:
    clock = Clock(IdlePolicy(rule="never"))
    clock.cell(0.0)
    clock.cell(300.0, number=50)
    clock.cell(600.0, number=3)
    assert clock.rule.history.pauses == 2
