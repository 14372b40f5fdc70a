"""The account: exact, the same after a restart, and fit for tables and metrics."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpu_share.broker.account import Account, AccountError, Figures, Mode
from jupyter_gpu_share.broker.account_text import COLUMNS, csv_text

START = datetime(2026, 11, 23, 23, 0, tzinfo=timezone.utc)
MONDAY, TUESDAY = date(2026, 11, 23), date(2026, 11, 24)
WEEK = timedelta(days=7)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def told(account: Account, seconds: float, mode: Mode, part: str = "1/3", **more: Any) -> None:
    more.setdefault("user", "ann")
    kernel = more.pop("kernel", "k")
    account.change(kernel, mode, at(seconds), gpus=Fraction(part), **more)


def test_a_share_over_midnight_of_utc_by_user_and_group() -> None:
    account = Account()
    told(account, 0, Mode.USED, groups=frozenset({"course", "staff"}))
    told(account, 3000, Mode.IDLE, groups=frozenset({"course", "staff"}))
    told(account, 4200, Mode.GIVEN_BACK, groups=frozenset({"course", "staff"}))
    account.end("k", at(4800))
    monday, tuesday = (
        Figures(Fraction(1000), Fraction(200)),
        Figures(_0, Fraction(200), Fraction(200)),
    )
    subjects = [("group", "course"), ("group", "staff"), ("user", "ann")]
    expected = [(MONDAY, *s, monday) for s in subjects] + [(TUESDAY, *s, tuesday) for s in subjects]
    assert account.rows() == expected
    assert account.totals()["user", "ann"].held == 1400


_0 = Fraction(0)


def test_days_are_those_of_utc_wherever_the_clock_is() -> None:
    account = Account()
    zone = timezone(timedelta(hours=9))
    account.change("k", Mode.USED, START.astimezone(zone), user="ann", gpus=Fraction(1))
    account.end("k", at(60).astimezone(zone))
    assert [row[0] for row in account.rows()] == [MONDAY]


def test_told_twice_counts_once_and_a_clock_that_goes_back_counts_nothing_twice() -> None:
    account = Account()
    told(account, 0, Mode.USED)
    told(account, 0, Mode.USED)
    account.settle(at(30))
    account.settle(at(30))
    told(account, 10, Mode.IDLE)
    account.settle(at(40))
    account.end("k", at(20))
    account.end("k", at(50))
    assert account.totals()["user", "ann"] == Figures(Fraction(10), Fraction(10, 3))
    assert len(account.used()) == 1


def test_what_is_held_is_known_for_limits() -> None:
    account = Account(WEEK)
    told(account, 0, Mode.USED)
    told(account, 10, Mode.IDLE)
    (use,) = account.used()
    assert (use.begin, use.end, use.gpus) == (at(0), None, Fraction(1, 3)), "one span though idle"
    told(account, 20, Mode.IDLE, "1/2")
    assert [(each.begin, each.end) for each in account.used()] == [(at(0), at(20)), (at(20), None)]
    told(account, 30, Mode.GIVEN_BACK, "1/2")
    told(account, 40, Mode.USED, "1/2")
    account.end("k", at(50))
    spans = [(at(0), at(20)), (at(20), at(30)), (at(40), at(50))]
    assert [(each.begin, each.end) for each in account.used()] == spans
    account.settle(at(25) + WEEK)
    assert [(each.begin, each.end) for each in account.used()] == spans[1:]
    account.settle(at(60) + WEEK)
    assert account.used() == []


def test_days_are_forgotten_and_totals_are_not() -> None:
    account = Account()
    told(account, 0, Mode.USED)
    account.settle(at(7200))
    before = account.totals()
    account.forget(TUESDAY)
    assert [row[0] for row in account.rows()] == [TUESDAY]
    assert account.totals() == before
    assert Account.from_json(account.to_json()).totals() == before


@dataclass(frozen=True)
class Step:
    """What happens after so many microseconds; ``mode`` None: the kernel ends."""

    after: int
    kernel: str
    mode: Mode | None
    gpus: Fraction


steps = st.builds(
    Step,
    st.integers(0, 10**11),
    st.sampled_from(["a", "b"]),
    st.none() | st.sampled_from(Mode),
    st.sampled_from([Fraction(1, 3), Fraction(1, 7), Fraction(2)]),
)


@given(st.lists(steps, max_size=12), st.data())
def test_all_time_is_counted_exactly_over_any_restarts(
    found: list[Step], data: st.DataObject
) -> None:
    account, now = Account(WEEK), START
    state: dict[str, tuple[Mode, Fraction]] = {}
    sums: dict[str, Fraction] = {mode.value: Fraction(0) for mode in Mode}
    for step in found:
        now += timedelta(microseconds=step.after)
        for mode, gpus in state.values():
            sums[mode.value] += gpus * step.after / 10**6
        if data.draw(st.booleans()):
            account = Account.from_json(json.loads(json.dumps(account.to_json())), WEEK)
        if data.draw(st.booleans()):
            account.settle(now)
        if step.mode is None:
            account.end(step.kernel, now)
            state.pop(step.kernel, None)
        else:
            account.change(step.kernel, step.mode, now, user=step.kernel, gpus=step.gpus)
            state[step.kernel] = step.mode, step.gpus
    account.settle(now)
    total = sum(account.totals().values(), Figures())
    assert total == Figures(**sums)
    assert sum((row[3] for row in account.rows()), Figures()) == total
    held = sum(
        (
            use.gpus * (((use.end or now) - use.begin) // timedelta(microseconds=1))
            for use in account.used()
        ),
        Fraction(0),
    )
    if now - START < WEEK:
        assert held == total.held * 10**6


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"open": {}, "days": [["x", "user", "a", "1", "1", "1"]], "before": [], "past": []},
        {
            "open": {},
            "days": [["2026-11-23", "user", "a", "-1", "1", "1"]],
            "before": [],
            "past": [],
        },
        {"open": {"k": {}}, "days": [], "before": [], "past": []},
        {"open": {}, "days": [], "before": [], "past": [["a", [], "1/0", "x", "y"]]},
        {
            "open": {},
            "days": [],
            "before": [],
            "past": [["a", [], "1", "2026-11-23", "2026-11-24"]],
        },
    ],
)
def test_what_is_no_account_is_refused(data: Any) -> None:
    with pytest.raises(AccountError, match="no account"):
        Account.from_json(data)


def hostile() -> Account:
    account = Account()
    for number, name in enumerate(["=cmd()", 'a,"b"\n\\', "bob"]):
        told(account, 0, Mode.USED, "1/2", user=name, kernel=f"k{number}", groups=frozenset({"g"}))
    account.settle(at(10))
    return account


def test_a_table_that_opens_with_any_names() -> None:
    rows = list(csv.reader(io.StringIO(csv_text(hostile().rows()))))
    assert tuple(rows[0]) == COLUMNS
    assert [row[2] for row in rows[1:]] == ["g", "'=cmd()", 'a,"b"\n\\', "bob"]
    assert rows[1][3:] == ["15.000", "15.000", "0.000", "0.000"]
