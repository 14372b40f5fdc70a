"""The adaptive rule meets its aim on notebooks that it was not learnt from."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpu_share.idle import Calibration, History, IdlePolicy, Situation
from jupyter_gpu_share.idle._adaptive import Model
from jupyter_gpu_share.idle._calibration import Watch
from jupyter_gpu_share.idle._learnt import LEARNT
from jupyter_gpu_share.idle.replay import Burst, Session, replay
from jupyter_gpu_share.size import Size

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)
DAY = 86400.0
AIM = 0.06

#: A pause in seconds, of a notebook at a part of the trace.
Shape = Callable[[random.Random, int, float], float]


def log_normal(chance: random.Random, notebook: int, part: float) -> float:
    return chance.lognormvariate(math.log(150), 1.4)


def mixture(chance: random.Random, notebook: int, part: float) -> float:
    if chance.random() < (0.02, 0.15, 0.4)[notebook % 3]:
        return chance.uniform(1800, 20_000)
    return chance.expovariate(1 / 90)


def drift(chance: random.Random, notebook: int, part: float) -> float:
    return chance.lognormvariate(math.log(60 + 600 * part), 1.2)


def seasonal(chance: random.Random, notebook: int, part: float) -> float:
    usual = 300 * (1.0 + 0.8 * math.sin(part * 8 * math.pi))
    return chance.lognormvariate(math.log(usual), 1.0)


def pareto(chance: random.Random, notebook: int, part: float) -> float:
    return 20 * chance.paretovariate(0.7)


def switch(chance: random.Random, notebook: int, part: float) -> float:
    return chance.lognormvariate(math.log(60 if part < 0.5 else 900), 1.3)


SHAPES = [log_normal, mixture, drift, seasonal, pareto, switch]


def trace(shape: Shape, *, factor: float = 1.0, step: float = 0.0, seed: int = 1) -> list[Session]:
    """200 notebooks with 60 bursts each, side by side; moments are rounded to ``step``."""
    chance = random.Random(seed)
    size = Size.parse("1/4")
    found = []
    for notebook in range(200):
        now, bursts = chance.uniform(0, DAY), []
        for number in range(60):
            end = now + chance.expovariate(1 / 120)
            if step:
                now, end = now // step * step, -(-end // step) * step
            bursts.append(Burst(now, end, size))
            now = end + factor * shape(chance, notebook, number / 60)
        found.append(bursts)
    return found


def after_the_first_tenth(sessions: list[Session], policy: IdlePolicy) -> float:
    """The part of bursts that waited, by two replays: of all, and of the first tenth of time."""
    (whole,) = replay(sessions, [policy])
    ends = sorted(burst.end for session in sessions for burst in session)
    until = ends[len(ends) // 10]
    begun = [[burst for burst in session if burst.end <= until] for session in sessions]
    (first,) = replay([session for session in begun if session], [policy])
    return (whole.waiting - first.waiting) / (whole.pauses - first.pauses)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize(
    ("factor", "step", "aim"),
    [
        (1.0, 0.0, AIM),
        (0.5, 0.0, AIM),
        (3.0, 0.0, AIM),
        (1.0, 60.0, AIM),
        (1.0, 300.0, 0.116),
        (3.0, 0.0, 0.116),
    ],
)
def test_the_aim_is_met_on_shapes_that_were_not_learnt(
    shape: Shape, factor: float, step: float, aim: float
) -> None:
    sessions = trace(shape, factor=factor, step=step)
    assert abs(after_the_first_tenth(sessions, IdlePolicy(aim=aim)) - aim) <= 0.01


def test_without_watching_the_aim_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "_saw", lambda self, error: None)
    missed = [
        abs(after_the_first_tenth(trace(shape, factor=3.0), IdlePolicy(aim=AIM)) - AIM)
        for shape in SHAPES
    ]
    assert min(missed) > 0.02


def test_too_little_waiting_for_long_is_not_made_up_for() -> None:
    watch = Watch(AIM)
    for _ in range(20_000):
        watch.found()
    calm = watch.shift
    for number in range(2000):
        (watch.waited if number % 5 == 0 else watch.found)()
    assert watch.shift > calm + 1.0, "a fifth waits, which is too many whatever was before"


@given(st.lists(st.booleans(), max_size=400), st.floats(0.005, 0.3))
def test_what_was_found_out_is_the_same_after_a_restart(waits: list[bool], aim: float) -> None:
    one = Calibration()
    for waited in waits:
        (one.of(aim).waited if waited else one.of(aim).found)()
    other = Calibration.from_json(json.loads(json.dumps(one.to_json())))
    assert other.shifts == one.shifts
    assert other.seen == one.seen == len(waits)
    for each in (one, other):
        each.of(aim).waited()
    assert other.to_json() == one.to_json()


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"aims": {}},
        {"aims": [[2.0, 0, 0, 0, 0, 0]]},
        {"aims": [["x", 0, 0, 0, 0, 0]]},
        {"aims": [[0.06, 0, 0, 0]]},
        {"aims": [[0.06, 5, 1e9, 0, 5, 0]]},
        {"aims": [[0.06, 5, float("nan"), 0, 5, 0]]},
        {"aims": [[0.06, 5, 0, 0, 6, 0]]},
        {"aims": [[0.06, 5, 0, 0, 5, 9]]},
        {"aims": [[0.06, True, 0, 0, 0, 0]]},
        {"aims": [[0.01 * n, 0, 0, 0, 0, 0] for n in range(1, 99)]},
    ],
)
def test_what_is_something_else_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="nothing that the adaptive rule"):
        Calibration.from_json(data)


# -- the plan --------------------------------------------------------------------------------------


def situation(**changes: Any) -> Situation:
    return replace(Situation(now=NOW, idle_since=NOW, size=Size.parse("1/4")), **changes)


def test_a_plan_does_not_move_by_what_others_do_meanwhile() -> None:
    policy = IdlePolicy(aim=AIM)
    begun = situation(shifts=policy.calibration.shifts)
    before = policy.plan(begun, History())
    for _ in range(500):
        policy.calibration.of(AIM).waited()
    assert policy.plan(begun, History()) == before
    later = policy.plan(situation(), History()).release_at
    assert before.release_at is not None
    assert later is None or later > before.release_at


def test_a_pause_counts_as_the_rule_would_have_had_it() -> None:
    policy = IdlePolicy(aim=AIM, usual_size="1/4")
    release = policy.plan(situation(), History()).release_at
    assert release is not None
    age = (release - NOW).total_seconds()
    watch = policy.calibration.of(AIM)
    # Kept by the user: the rule's own wait is what counts all the same.
    policy.watch(situation(keep_until=NOW + timedelta(hours=9)), History(), age + 1)
    high = watch.shift
    assert high > 0
    policy.watch(situation(shifts={}), History(), age)
    assert watch.shift < high
    assert policy.calibration.seen == 2


def test_nothing_is_watched_under_another_rule() -> None:
    for policy in (IdlePolicy(rule="fixed"), IdlePolicy(rule="never")):
        policy.watch(situation(), History(), 1e5)
        assert policy.calibration.seen == 0
    policy = IdlePolicy(windows=[{"rule": "never"}], time_zone="UTC")
    policy.watch(situation(), History(), 1e5)
    assert policy.calibration.seen == 0


# -- the model -------------------------------------------------------------------------------------


@given(st.integers(0, 9), st.floats(1.0, 1e6), st.floats(1 / 8, 8))
def test_the_best_age_is_that_of_the_greatest_gain(kind: int, price: float, weight: float) -> None:
    rows = zip(LEARNT.ages, LEARNT.waits[kind], LEARNT.returned[kind], strict=True)
    gains = {age: weight * back - price * waits for age, waits, back in rows}
    gains[math.inf] = 0.0
    found = LEARNT.release_of(kind, math.log(price / weight))
    assert gains[found] >= max(gains.values()) - 1e-6 * price


def test_nothing_known_releases_nothing() -> None:
    model = Model(300.0, 2.0, (), (60.0, 120.0), [[0.0, 0.0]], [[0.0, 0.0]], [(0.1, 1.0), (0.2, 1)])
    assert model.release_of(0, -50.0) == math.inf


settings = st.builds(
    lambda **traits: IdlePolicy(**traits),
    rule=st.sampled_from(["adaptive", "fixed", "demand", "never"]),
    aim=st.sampled_from([0.03, 0.1, 0.3]),
    timeout=st.sampled_from([30.0, 400.0]),
    idle_after=st.sampled_from([0.0, 60.0, 600.0]),
    rules=st.sampled_from([[], [{"size": "1/4", "aim": 0.2}], [{"size": "1/2", "timeout": 90}]]),
)


@given(settings, st.lists(st.floats(1.0, 40_000.0), min_size=1, max_size=30))
def test_a_replay_answers_as_a_server_does(policy: IdlePolicy, pauses: list[float]) -> None:
    now, session = 0.0, []
    for pause in [*pauses, 0.0]:
        session.append(Burst(now, now + 60, Size.parse("1/4")))
        now += 60 + pause
    (found,) = replay([session], [policy])
    policy.calibration, history, waiting = Calibration(), History(), 0
    for before, after in pairwise(session):
        history.burst(before.begin, before.end)
        begun = situation(idle_since=NOW, shifts=policy.calibration.shifts)
        release = policy.plan(begun, history).release_at
        pause = after.begin - before.end
        waiting += release is not None and (release - NOW).total_seconds() < pause
        policy.watch(begun, history, pause)
    assert found.waiting == waiting
