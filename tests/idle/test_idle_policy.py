"""When a share that nobody uses goes back."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traitlets import TraitError
from traitlets.config import Config

from jupyter_gpu_share.idle import History, IdlePolicy, Situation
from jupyter_gpu_share.size import Size

#: A Tuesday.
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)
QUARTER = Size.parse("1/4")


def situation(**changes: Any) -> Situation:
    return replace(Situation(now=NOW, idle_since=NOW, size=QUARTER), **changes)


def released(policy: IdlePolicy, history: History | None = None, **changes: Any) -> float | None:
    """Seconds of no use until the share goes back."""
    found = situation(**changes)
    moment = policy.plan(found, history or History()).release_at
    return None if moment is None else (moment - found.idle_since).total_seconds()


def pausing(seconds: float, times: int = 20) -> History:
    history = History()
    for number in range(times + 1):
        history.burst(number * seconds, number * seconds)
    return history


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


situations = st.builds(
    lambda idle, size, keep, waiting, kept: situation(
        idle_since=NOW - timedelta(seconds=idle),
        size=Size.parse(size),
        keep_until=None if keep is None else after(keep),
        waiting_since=None if waiting is None else after(waiting),
        kept=kept,
    ),
    st.floats(0, 1e6),
    st.sampled_from(["1/8", "1/4", "1", "8x1", "10GiB", "mig-1g.10gb"]),
    st.none() | st.floats(-1e5, 86400),
    st.none() | st.floats(-1e6, 0),
    st.booleans(),
)
policies = st.builds(
    lambda **traits: IdlePolicy(**traits),
    rule=st.sampled_from(["adaptive", "fixed", "demand", "never"]),
    timeout=st.floats(0, 1e6),
    aim=st.floats(0.001, 0.9),
    demand_after=st.none() | st.floats(0, 1e4),
    idle_after=st.floats(0, 1e4),
    warn_before=st.floats(0, 1e4),
    lose_variables=st.booleans(),
    windows=st.sampled_from(
        [
            [],
            [{"from": "22:00", "to": "06:00", "timeout": 0}],
            [{"days": "tue-wed", "rule": "never"}, {"from": "12:30", "rule": "demand"}],
        ]
    ),
    time_zone=st.just("UTC"),
)


# -- what holds under every rule -----------------------------------------------------------------


@given(policies, situations)
def test_a_plan_keeps_its_order(policy: IdlePolicy, found: Situation) -> None:
    plan = policy.plan(found, History())
    assert plan.why[0].isupper()
    assert plan.why.endswith(".")
    if plan.release_at is None:
        assert plan.warn_at is None
        return
    counts_as_idle = found.idle_since + timedelta(seconds=policy.idle_after)
    assert plan.release_at >= max(counts_as_idle, found.now)
    if plan.warn_at is not None:
        assert counts_as_idle <= plan.warn_at <= plan.release_at


@given(policies, situations)
def test_a_share_that_is_kept_does_not_go_back(policy: IdlePolicy, found: Situation) -> None:
    plan = policy.plan(found, History())
    if plan.release_at is not None and found.keep_until is not None:
        assert plan.release_at >= found.keep_until
    if found.keep_until is not None and found.keep_until > found.now:
        assert policy.order([("x", found)]) == []


@given(policies, situations)
def test_variables_that_cannot_be_kept_hold_the_share(policy: IdlePolicy, found: Situation) -> None:
    lost = replace(found, kept=False)
    if policy.lose_variables:
        kept = replace(found, kept=True)
        assert policy.plan(lost, History()) == policy.plan(kept, History())
    else:
        assert policy.plan(lost, History()).release_at is None
        assert policy.order([("x", replace(lost, waiting_since=NOW))]) == []


@given(policies, situations, st.floats(0, 1))
def test_a_plan_does_not_move_while_time_passes(
    policy: IdlePolicy, found: Situation, part: float
) -> None:
    plan = policy.plan(found, History())
    if plan.release_at is not None:
        later = replace(found, now=found.now + part * (plan.release_at - found.now))
        assert policy.plan(later, History()) == plan


@given(st.floats(0, 1e6), st.floats(0, 1e6), situations)
def test_a_longer_timeout_is_never_earlier(one: float, other: float, found: Situation) -> None:
    found = replace(found, kept=True)
    early, late = (
        IdlePolicy(rule="fixed", timeout=timeout).plan(found, History()).release_at
        for timeout in sorted((one, other))
    )
    assert early is not None
    assert late is not None
    assert early <= late


@given(policies, situations)
def test_who_waits_makes_nothing_later(policy: IdlePolicy, found: Situation) -> None:
    alone = policy.plan(replace(found, waiting_since=None), History()).release_at
    asked = policy.plan(replace(found, waiting_since=NOW), History()).release_at
    if alone is not None:
        assert asked is not None
        assert asked <= alone


@given(policies, situations, st.floats(-1e4, 1e4))
def test_nothing_goes_for_others_before_its_user_was_warned(
    policy: IdlePolicy, found: Situation, since: float
) -> None:
    """Unless it would go as early anyway."""
    found = replace(found, idle_since=NOW - timedelta(hours=10), now=NOW)
    alone = policy.plan(replace(found, waiting_since=None), History())
    asked = policy.plan(replace(found, waiting_since=after(since)), History())
    if asked.release_at is None or asked.release_at == alone.release_at:
        return
    assert asked.release_at >= after(since) + timedelta(seconds=policy.warn_before)
    if policy.warn_before:
        counts_as_idle = found.idle_since + timedelta(seconds=policy.idle_after)
        warned = asked.release_at - timedelta(seconds=policy.warn_before)
        assert asked.warn_at == max(counts_as_idle, warned)
        assert asked.warn_at >= after(since)


# -- rules -----------------------------------------------------------------------------------------


def test_fixed() -> None:
    plan = IdlePolicy(rule="fixed", timeout=300).plan(situation(), History())
    assert plan.release_at == after(300)
    assert plan.warn_at == after(180)
    assert plan.cull_at is None
    assert plan.why == "It goes back after 5 min without use."


def test_no_warning_before_a_share_counts_as_idle() -> None:
    policy = IdlePolicy(rule="fixed", timeout=90)
    assert policy.plan(situation(), History()).warn_at == after(60)
    assert IdlePolicy(warn_before=0).plan(situation(), History()).warn_at is None


def test_nothing_goes_back_before_it_counts_as_idle() -> None:
    policy = IdlePolicy(rule="fixed", timeout=0)
    assert released(policy) == 60
    assert policy.plan(situation(), History()).why == "It goes back after 1 min without use."
    assert released(IdlePolicy(rule="fixed", timeout=0, idle_after=200)) == 200


def test_never() -> None:
    plan = IdlePolicy(rule="never").plan(situation(waiting_since=NOW), History())
    assert (plan.warn_at, plan.release_at) == (None, None)
    assert plan.why == "This share does not go back by itself."


def test_demand_waits_for_somebody() -> None:
    policy = IdlePolicy(rule="demand", demand_after=120)
    assert released(policy) is None
    assert policy.plan(situation(), History()).why == (
        "It goes back when somebody waits, after 2 min unused."
    )
    assert released(policy, waiting_since=NOW) == 120
    assert policy.plan(situation(waiting_since=NOW), History()).why == (
        "Somebody waits for a share; this one goes back after 2 min without use."
    )


def test_who_waits_has_its_owner_warned_first() -> None:
    policy = IdlePolicy(rule="demand", demand_after=300, warn_before=90)
    # Unused for long when somebody comes: the warning is given at once.
    plan = policy.plan(situation(waiting_since=after(4000), now=after(4000)), History())
    assert (plan.warn_at, plan.release_at) == (after(4000), after(4090))
    assert policy.plan(situation(waiting_since=after(4000), now=after(4080)), History()) == plan
    # Somebody waits already when it becomes unused.
    plan = policy.plan(situation(waiting_since=after(-50)), History())
    assert (plan.warn_at, plan.release_at) == (after(210), after(300))
    # Its own time is up before the warning would be over.
    soon = IdlePolicy(rule="fixed", timeout=350, demand_after=300, warn_before=90)
    plan = soon.plan(situation(waiting_since=after(290), now=after(290)), History())
    assert (plan.warn_at, plan.release_at) == (after(260), after(350))
    assert plan.why == "It goes back after 6 min without use."
    # Kept by its user: warned before that ends.
    plan = policy.plan(situation(waiting_since=NOW, keep_until=after(4000)), History())
    assert (plan.warn_at, plan.release_at) == (after(3910), after(4000))
    least = IdlePolicy(rule="demand", demand_after=10).plan(situation(waiting_since=NOW), History())
    assert least.why.endswith("this one goes back after 1 min without use.")
    quick = replace(situation(waiting_since=after(4000)), now=after(4000))
    unwarned = IdlePolicy(rule="demand", demand_after=300, warn_before=0).plan(quick, History())
    assert (unwarned.warn_at, unwarned.release_at) == (None, after(4000))


def test_demand_comes_before_the_timeout_but_not_before_the_minimum() -> None:
    policy = IdlePolicy(rule="fixed", timeout=3600, demand_after=120)
    assert released(policy) == 3600
    assert released(policy, waiting_since=NOW) == 120
    assert released(IdlePolicy(rule="fixed", timeout=60, demand_after=120), waiting_since=NOW) == 60
    assert released(IdlePolicy(rule="fixed", demand_after=None), waiting_since=NOW) == 600


def test_a_kernel_without_a_gpu_has_nothing_to_give_back() -> None:
    assert released(IdlePolicy(), size=Size.parse("0")) is None


def test_pauses_are_told_in_the_notebooks_own_terms() -> None:
    why = IdlePolicy().plan(situation(), pausing(1800)).why
    assert why == "This notebook usually pauses 30 min; after 3 min it seldom goes on soon."
    assert "seldom goes on" in IdlePolicy().plan(situation(), History()).why


def test_a_notebook_that_pauses_long_is_released_sooner() -> None:
    policy = IdlePolicy()
    long, short = released(policy, pausing(1800)), released(policy, pausing(130))
    assert long is not None
    assert short is not None
    assert long * 3 <= short


def test_a_larger_share_is_released_sooner() -> None:
    policy = IdlePolicy()
    found = [released(policy, size=Size.parse(text)) or 1e9 for text in ("1/8", "1/4", "1", "4x1")]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]
    # The same with memory, on a GPU of 80 GiB, and with a MIG profile.
    for text in ("20GiB", "mig-2g.20gb"):
        assert released(policy, size=Size.parse(text)) == found[1]
    whole = IdlePolicy(usual_size="1")
    assert released(whole, size=Size.parse("1")) == found[1]


def test_a_higher_aim_is_never_later() -> None:
    for history in (History(), pausing(150), pausing(600), pausing(7200)):
        found = [released(IdlePolicy(aim=aim), history) or 1e9 for aim in (0.01, 0.05, 0.2)]
        assert found == sorted(found, reverse=True)
        assert found[0] > found[-1]


# -- released, culled, kept ------------------------------------------------------------------------


def test_cull() -> None:
    policy = IdlePolicy(rule="fixed", timeout=600, cull_after=3600)
    assert policy.plan(situation(), History()).cull_at == after(4200)
    back = situation(now=after(700), released_at=after(600))
    plan = policy.plan(back, History())
    assert (plan.warn_at, plan.release_at, plan.cull_at) == (None, None, after(4200))
    assert policy.plan(replace(back, keep_until=after(9000)), History()).cull_at == after(9000)
    assert policy.plan(replace(back, now=after(9999)), History()).cull_at == after(9999)


@pytest.mark.parametrize("never", [None, 0.0])
def test_no_kernel_is_ended_by_default(never: float | None) -> None:
    assert IdlePolicy().cull_after is None
    policy = IdlePolicy(cull_after=never)
    assert policy.plan(situation(), History()).cull_at is None
    assert policy.plan(situation(released_at=NOW), History()).cull_at is None


def test_a_share_is_kept_no_longer_than_the_limit() -> None:
    policy = IdlePolicy(rule="fixed", timeout=60, keep_limit=600)
    assert released(policy, keep_until=after(300)) == 300
    assert released(policy, keep_until=after(1e6)) == 600
    why = policy.plan(situation(keep_until=after(300)), History()).why
    assert why.startswith("It is kept as you asked")


# -- who goes first --------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first() -> None:
    policy = IdlePolicy(rule="demand", demand_after=300)
    idle = {"a": 400, "b": 4000, "c": 299, "d": 1000, "e": 300}
    rows = [(k, situation(idle_since=NOW - timedelta(seconds=s))) for k, s in idle.items()]
    assert policy.order(rows) == ["b", "d", "a", "e"]


@pytest.mark.parametrize(
    ("traits", "changes"),
    [
        ({}, {"keep_until": after(10)}),
        ({}, {"released_at": NOW - timedelta(hours=1)}),
        ({}, {"kept": False}),
        ({}, {"size": Size.parse("0")}),
        ({"rule": "never"}, {}),
        ({"demand_after": None}, {}),
        ({"idle_after": 1e5}, {}),
        ({"rules": [{"group": "course", "rule": "never"}]}, {"group": "course"}),
        ({"windows": [{"days": "tue", "rule": "never"}], "time_zone": "UTC"}, {}),
    ],
)
def test_who_is_left_out(traits: dict[str, Any], changes: dict[str, Any]) -> None:
    long = situation(idle_since=NOW - timedelta(hours=5))
    assert IdlePolicy().order([("x", long)]) == ["x"]
    assert IdlePolicy(**traits).order([("x", replace(long, **changes))]) == []


# -- rules and windows -----------------------------------------------------------------------------


def test_the_first_rule_that_fits_holds() -> None:
    policy = IdlePolicy(
        rule="fixed",
        rules=[
            {"group": "teachers", "rule": "never"},
            {"size": ["1", "2x1"], "timeout": 300},
            {"size": "1", "group": "course", "timeout": 10},
            {"group": ["course", "guests"], "timeout": 120, "demand_after": None},
        ],
    )
    assert released(policy) == 600
    assert released(policy, size=Size.parse("100%"), group="course") == 300
    assert released(policy, group="teachers", size=Size.parse("1")) is None
    assert released(policy, group="guests", waiting_since=NOW) == 120


def test_groups() -> None:
    policy = IdlePolicy(groups={"ana": "teachers", "physics-2": "course"})
    assert policy.group_of("ben", "physics-2", "ana") == "course"
    assert policy.group_of("ben") == ""


def test_a_share_goes_back_when_the_window_begins() -> None:
    policy = IdlePolicy(
        rule="never",
        windows=[{"from": "22:00", "to": "06:00", "timeout": 0}],
        time_zone="Europe/Berlin",  # in November one hour before UTC
    )
    assert released(policy) == 9 * 3600
    night = NOW + timedelta(hours=10)
    assert released(policy, now=night, idle_since=night) == 60
    morning = NOW + timedelta(hours=16, minutes=59, seconds=30)
    assert released(policy, now=morning, idle_since=morning) == 16 * 3600 + 30


def test_a_window_that_ends_before_the_timeout_does_not_count() -> None:
    policy = IdlePolicy(
        rule="never", windows=[{"from": "12:00", "to": "12:05", "timeout": 600}], time_zone="UTC"
    )
    assert released(policy) == 24 * 3600


def test_nothing_goes_back_during_a_course() -> None:
    policy = IdlePolicy(
        rule="fixed",
        windows=[
            {"days": "tue", "from": "12:05", "to": "14:00", "group": "course", "rule": "never"}
        ],
        time_zone="UTC",
    )
    assert released(policy) == 600
    assert released(policy, group="course") == 7200
    quick = IdlePolicy(rule="fixed", timeout=240, windows=policy.windows, time_zone="UTC")
    assert released(quick, group="course") == 240


def test_the_first_window_that_holds_comes_before_the_others_and_before_rules() -> None:
    policy = IdlePolicy(
        rule="never",
        rules=[{"group": "course", "timeout": 1200}],
        windows=[
            {"from": "13:00", "to": "24:00", "timeout": 100},
            {"days": "mon-wed", "timeout": 900},
            {"timeout": 60},
        ],
        time_zone="UTC",
    )
    assert released(policy, group="course") == 900


def test_a_window_past_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    policy = IdlePolicy(
        rule="never",
        windows=[{"days": "mon", "from": "20:00", "to": "13:00", "timeout": 0}],
        time_zone="UTC",
    )
    assert released(policy) == 60
    wednesday = NOW + timedelta(days=1)
    assert released(policy, now=wednesday, idle_since=wednesday) == 5 * 86400 + 8 * 3600


def test_days_may_go_over_the_weekend() -> None:
    policy = IdlePolicy(rule="never", windows=[{"days": "fri-mon", "timeout": 0}], time_zone="UTC")
    assert released(policy) == 2.5 * 86400


def test_a_long_timeout_ends_outside_of_a_window() -> None:
    policy = IdlePolicy(
        rule="fixed",
        timeout=28 * 86400,
        windows=[{"days": "tue", "from": "12:00", "to": "13:00", "rule": "never"}],
        time_zone="UTC",
    )
    assert released(policy) == 28 * 86400 + 3600


def test_a_window_where_summer_time_begins() -> None:
    policy = IdlePolicy(
        rule="never",
        windows=[{"from": "04:00", "to": "05:00", "timeout": 0}],
        time_zone="Europe/Berlin",
    )
    for day, hours in ((28, 3), (29, 2)):  # on the 29th of March the clock skips an hour
        begin = datetime(2026, 3, day, 0, 0, tzinfo=timezone.utc)
        assert released(policy, now=begin, idle_since=begin) == hours * 3600


def test_settings_can_change_while_it_runs() -> None:
    policy = IdlePolicy(rule="fixed")
    assert released(policy) == 600
    policy.timeout = 300
    assert released(policy) == 300
    policy.rules = [{"rule": "never"}]
    assert released(policy) is None


# -- bad settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("traits", "says"),
    [
        ({"rule": "sometimes"}, "adaptive"),
        ({"timeout": -1}, "less than"),
        ({"timeout": float("nan")}, "timeout is a number"),
        ({"warn_before": float("inf")}, "greater than"),
        ({"aim": 0.0}, "between 0 and 1"),
        ({"aim": float("nan")}, "between 0 and 1"),
        ({"usual_size": "0"}, "above 0"),
        ({"usual_size": "lots"}, "usual_size"),
        ({"time_zone": "Mars/Base"}, "no time zone 'Mars/Base'"),
        ({"time_zone": "../etc"}, "no time zone"),
        ({"rules": [{"timeot": 3}]}, "knows no 'timeot'"),
        ({"rules": [{"rule": "never", "days": "mon"}]}, "knows no 'days'"),
        ({"rules": [{"size": "1"}]}, "changes nothing"),
        ({"rules": [{"size": "3/2", "rule": "never"}]}, "more than one GPU"),
        ({"rules": [{"size": 1, "rule": "never"}]}, "size is text"),
        ({"rules": [{"group": "", "rule": "never"}]}, "group is text"),
        ({"rules": [{"rule": "seldom"}]}, "rule is one of"),
        ({"rules": [{"timeout": "5"}]}, "timeout is a number"),
        ({"rules": [{"timeout": True}]}, "timeout is a number"),
        ({"rules": [{"timeout": 1e12}]}, "up to a year"),
        ({"rules": [{"aim": 1.0}]}, "between 0 and 1"),
        ({"rules": [{"lose_variables": 1}]}, "True or False"),
        ({"windows": [{"days": "mo", "rule": "never"}]}, "days are written"),
        ({"windows": [{"days": ["mon"], "rule": "never"}]}, "days are written"),
        ({"windows": [{"from": "25:00", "rule": "never"}]}, "from is a time"),
        ({"windows": [{"to": 7, "rule": "never"}]}, "to is a time"),
    ],
)
def test_bad_settings_are_refused_in_one_line(traits: dict[str, Any], says: str) -> None:
    with pytest.raises(TraitError) as caught:
        IdlePolicy(config=Config({"IdlePolicy": traits}))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_setting_is_told_with_an_example() -> None:
    for name, trait in IdlePolicy.class_traits(config=True).items():
        if name not in ("log", "parent"):
            assert f"c.IdlePolicy.{name} = " in trait.help, name
            assert "Default" in trait.help, name


@given(policies, situations)
def test_a_share_is_taken_for_others_only_where_it_may_be(
    policy: IdlePolicy, found: Situation
) -> None:
    asked = replace(found, waiting_since=NOW)
    due = policy.taken_at(asked)
    assert (due is not None) == bool(policy.order([("x", asked)]))
    assert due is None or due >= NOW
    assert policy.taken_at(replace(found, waiting_since=None)) is None
    assert policy.taken_at(replace(asked, keep_until=after(60))) is None
    assert policy.taken_at(replace(asked, released_at=NOW)) is None
