"""Policies over traces, in figures that can be worked out by hand."""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpu_share.idle import IdlePolicy
from jupyter_gpu_share.idle._calibration import Watch
from jupyter_gpu_share.idle.replay import (
    Burst,
    Session,
    TraceError,
    at,
    cross_validated,
    curve,
    draw,
    foresight,
    learn,
    learnt_module,
    pauses_of,
    percentile,
    points,
    read_parts,
    read_trace,
    replay,
    replay_shared,
    usual_of,
)
from jupyter_gpu_share.size import Size

HEAD = "job_id,num_gpu,submit_time,duration\n"
MINUTE, HOUR = 60.0, 3600.0
WHOLE = Size.parse("1")


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()))
    return path


def session(*times: tuple[float, float], size: str = "1") -> Session:
    """Bursts, each with its beginning and its length in minutes."""
    kind = Size.parse(size)
    return [Burst(begin * MINUTE, (begin + length) * MINUTE, kind) for begin, length in times]


def fixed(minutes: float, **traits: Any) -> IdlePolicy:
    return IdlePolicy(rule="fixed", timeout=minutes * MINUTE, **traits)


def people(count: int = 60, seed: int = 1) -> list[Session]:
    """Half of them pause for two to four minutes, and half for that or an hour."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        now, times = 0.0, []
        for _ in range(40):
            times.append((now, 2.0))
            long = number % 2 and chance.random() < 0.5
            now += 2 + (chance.randint(40, 80) if long else chance.randint(2, 4))
        found.append(session(*times))
    return found


# -- reading ---------------------------------------------------------------------------------------


def test_a_session_ends_where_time_goes_back_and_after_a_day(tmp_path: Path) -> None:
    rows = ["a,1,100,5", "b,1,100,1", "c,2,1541,1", "d,2,2983,1", "e,8,50,1"]
    found = read_trace(write(tmp_path / "t.csv.gz", HEAD + "\n".join(rows)))
    assert [[round(b.begin / 60) for b in s] for s in found] == [[100, 100, 1541], [2983], [50]]
    assert found[0][0] == Burst(6000, 6300, WHOLE)
    assert str(found[2][0].size) == "8x1"


def test_a_trace_may_be_plain(tmp_path: Path) -> None:
    plain = tmp_path / "t.csv"
    plain.write_text(HEAD + "a,1,1,1\n", encoding="utf-8-sig")
    assert len(read_trace(plain)) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        (HEAD, "no interval"),
        ("a,b\n1,2\n", "no column submit_time, duration, num_gpu"),
        (HEAD + "a,1,x,5\n", "line 2: submit_time is no number"),
        (HEAD + "a,1,1,1\na,1,5,-1\n", "line 3: duration is no number"),
        (HEAD + "a,1,nan,1\n", "submit_time is no number"),
        (HEAD + "a,1,1e300,1\n", "submit_time is no number"),
        (HEAD + "a,1\n", "submit_time is no number"),
        (HEAD + "a,0,1,1\n", "num_gpu is no whole number from 1 to 64"),
        (HEAD + "a,1.5,1,1\n", "num_gpu is no whole number"),
    ],
)
def test_a_bad_trace_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TraceError, match=says) as caught:
        read_trace(write(tmp_path / "t.csv.gz", text))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_traces(tmp_path: Path) -> None:
    packed = write(tmp_path / "t.csv.gz", HEAD + "a,1,1,1\n" * 100)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(TraceError, match="damaged"):
        read_trace(packed)
    packed.write_text(HEAD)
    with pytest.raises(TraceError, match="not compressed"):
        read_trace(packed)
    binary = tmp_path / "t.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="no text"):
        read_trace(binary)
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path / "nothing.csv")
    binary.write_text('"' + "x" * 200_000)
    with pytest.raises(TraceError, match="no table"):
        read_trace(binary)


def test_parts_of_gpus(tmp_path: Path) -> None:
    text = "name,num_gpu,gpu_milli\na,1,250\nb,0,0\nc,8,1000\n"
    assert read_parts(write(tmp_path / "p.gz", text)) == [Fraction(1, 4), 1]
    with pytest.raises(TraceError, match="no pod"):
        read_parts(write(tmp_path / "p.gz", "num_gpu,gpu_milli\n0,0\n"))
    with pytest.raises(TraceError, match="gpu_milli is no whole number"):
        read_parts(write(tmp_path / "p.gz", "num_gpu,gpu_milli\n1,0\n"))


def test_a_session_keeps_the_part_that_is_drawn_for_it() -> None:
    sessions = [session((0, 1), (5, 1), size="2x1") for _ in range(20)]
    parts = [Fraction(1, 4), Fraction(1, 2)]
    one = draw(sessions, parts, seed=1)
    assert all(len({burst.size for burst in each}) == 1 for each in one)
    assert {str(each[0].size) for each in one} == {"2x1/4", "2x1/2"}
    assert draw(sessions, parts, seed=1) == one != draw(sessions, parts, seed=2)


# -- sessions by themselves ------------------------------------------------------------------------


def test_what_is_returned_and_who_waits() -> None:
    # Pauses of 10, 4 and 20 minutes, the last one of two GPUs.
    sessions = [session((0, 5), (15, 5), (24, 1)), session((0, 10), (30, 1), size="2x1")]
    ten, four, never = replay(sessions, [fixed(10), fixed(4), IdlePolicy(rule="never")])
    assert (ten.pauses, ten.waiting, ten.returned) == (3, 1, 10 * 2 * MINUTE)
    assert ten.idle == (10 + 4 + 2 * 20) * MINUTE
    assert (four.waiting, four.returned) == (2, (6 + 2 * 16) * MINUTE)
    assert (never.waiting, never.returned, never.part_returned) == (0, 0, 0.0)
    assert four.part_waiting == 2 / 3


def test_bursts_that_overlap_have_no_pause() -> None:
    found = pauses_of([session((0, 10), (5, 1), (20, 1))])
    assert [pause.length for pause in found] == [0, 14 * MINUTE]


def test_foresight_takes_the_pauses_that_return_most() -> None:
    pauses = pauses_of(
        [session((0, 1), (11, 1), (16, 1)), session((0, 1), (7, 1), (8, 1), size="4x1")]
    )
    assert foresight(pauses, 0.25) == pytest.approx(24 / 38)
    assert foresight(pauses, 0.25, by_gpus=False) == pytest.approx(10 / 38)
    assert foresight(pauses, 1.0) == 1.0
    assert foresight([], 0.5) == 0.0


def test_windows_hold_in_a_replay_too() -> None:
    policy = fixed(5, windows=[{"from": "00:00", "to": "12:00", "rule": "never"}], time_zone="UTC")
    (found,) = replay([session((0, 1), (24 * 60 - 100, 1))], [policy])
    assert found.returned == (24 * 60 - 100 - 12 * 60) * MINUTE


def test_percentiles() -> None:
    assert percentile([], 50) is None
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile(list(range(1, 101)), 95) == 95


# -- learning --------------------------------------------------------------------------------------


def test_adaptive_beats_every_fixed_timeout_on_sessions_it_has_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What it has learnt, by itself: how the aim is met is tested in test_calibration.py.
    monkeypatch.setattr(Watch, "_saw", lambda self, error: None)
    sessions = people()
    timeouts = [minutes * MINUTE for minutes in (2, 3, 4, 5, 10, 20, 40)]
    plain = replay(sessions, [IdlePolicy(rule="fixed", timeout=each) for each in timeouts])
    aims = (0.1, 0.15, 0.2, 0.24)
    judged = cross_validated(sessions, IdlePolicy, aims, seed=1)
    line = points(timeouts, plain)
    for outcome in judged:
        other = at(line, outcome.part_waiting)
        if other is not None:
            assert outcome.part_returned > other.returned
    assert any(at(line, outcome.part_waiting) for outcome in judged)
    assert sum(outcome.pauses for outcome in judged) == 4 * plain[0].pauses


def test_the_aim_is_met_on_what_was_learnt() -> None:
    sessions = people()
    model = learn(sessions, WHOLE)
    for aim in (0.1, 0.2):
        policy = IdlePolicy(aim=aim, usual_size="1")
        policy.model = model
        (found,) = replay(sessions, [policy])
        assert aim / 2 < found.part_waiting <= aim


def test_what_was_learnt_can_be_shipped() -> None:
    model = learn(people(10), WHOLE)
    code = learnt_module(model).replace("from ._adaptive", "from jupyter_gpu_share.idle._adaptive")
    names: dict[str, Any] = {}
    exec(code, names)
    assert flat(names["LEARNT"]) == pytest.approx(flat(model))


def flat(model: Any) -> list[float]:
    rows: Sequence[Sequence[float]] = [
        model.bounds,
        model.ages,
        *model.waits,
        *model.returned,
        *model.prices,
    ]
    return [model.expected, model.trust, *(x for row in rows for x in row)]


def test_too_little_to_learn_from() -> None:
    model = learn([session((0, 1))], WHOLE)
    policy = IdlePolicy()
    policy.model = model
    (found,) = replay([session((0, 1), (60, 1))], [policy])
    assert found.returned == 0


def test_the_usual_size() -> None:
    assert str(usual_of([session((0, 1), size="8x1"), session((0, 1))])) == "4x1"
    assert str(usual_of([session((0, 1), size="1/2"), session((0, 1), size="1/4")])) == "3/8"


def test_a_curve_between_its_points() -> None:
    line = points([600, 300], replay(people(4), [fixed(3), fixed(2)]))
    middle = at(line, (line[0].waiting + line[1].waiting) / 2)
    assert middle is not None
    assert middle.returned == pytest.approx((line[0].returned + line[1].returned) / 2)
    assert at(line, 0.9) is None
    assert at([], 0.1) is None


def test_progress_is_told() -> None:
    told: list[float] = []
    curve(people(4), IdlePolicy, seed=1, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)


# -- on so many GPUs -------------------------------------------------------------------------------


def test_whoever_comes_first_is_served_first() -> None:
    sessions = [session((0, 10)), session((1, 5)), session((2, 5))]
    found = replay_shared(sessions, IdlePolicy(rule="never"), 1)
    assert found.starts == [0, 9 * MINUTE, 13 * MINUTE]
    assert (found.pauses, found.served) == (0, 0)


def test_reserved_shares_hold_others_up() -> None:
    sessions = [session((0, 10), (100, 10)), session((20, 5))]
    found = replay_shared(sessions, IdlePolicy(rule="never"), 1)
    assert found.starts == [0, 90 * MINUTE]
    assert found.wakes == []


def test_demand_takes_what_nobody_uses() -> None:
    sessions = [session((0, 10), (100, 10)), session((20, 5))]
    policy = IdlePolicy(rule="demand", demand_after=300, warn_before=0)
    found = replay_shared(sessions, policy, 1, wake=2)
    assert found.starts == [0, 0]
    assert found.wakes == [2]
    assert (found.demanded, found.served, found.waiting) == (1, 1, 1)
    assert found.returned == 80 * MINUTE
    policy.warn_before = 180
    found = replay_shared(sessions, policy, 1, wake=2)
    assert found.starts == [0, 3 * MINUTE]
    assert (found.demanded, found.returned) == (1, 77 * MINUTE)


def test_an_owner_who_comes_back_when_warned_keeps_the_share() -> None:
    one, other = session((0, 10), (22, 10), (100, 1)), session((20, 5))
    policy = IdlePolicy(rule="demand", demand_after=300, warn_before=180)
    found = replay_shared([one, other], policy, 1)
    assert (found.wakes, found.demanded) == ([1], 1)
    assert found.starts == [0, (12 + 5 + 3) * MINUTE], "it goes after the burst in between"
    # Who was to get it is given another that is idle, after a warning too.
    second = session((1, 10), (300, 1))
    found = replay_shared([one, second, other], policy, 2)
    assert (found.starts[-1], found.demanded) == (5 * MINUTE, 1)


def test_a_share_stays_whose_taker_was_served_meanwhile() -> None:
    idle, ends = session((0, 10), (100, 1)), session((1, 20))
    policy = IdlePolicy(rule="demand", demand_after=300, warn_before=180)
    found = replay_shared([idle, ends, session((20, 5))], policy, 2)
    assert found.starts == [0, 0, MINUTE]
    assert (found.demanded, found.wakes) == (0, [])


def test_all_that_wait_have_room_made_at_once() -> None:
    idle = [session((n, 10), (500, 1)) for n in range(3)]
    waiting = [session((60, 5)), session((60, 5)), session((60, 5))]
    policy = IdlePolicy(rule="demand", demand_after=300, warn_before=180)
    found = replay_shared([*idle, *waiting], policy, 3)
    assert found.starts[3:] == [3 * MINUTE] * 3
    assert found.demanded == 3


def test_demand_never_comes_before_the_minimum() -> None:
    sessions = [session((0, 10), (100, 10)), session((11, 5))]
    policy = IdlePolicy(rule="demand", demand_after=300, warn_before=0)
    assert replay_shared(sessions, policy, 1).starts == [0, 4 * MINUTE]


def test_demand_costs_nobody_anything_where_nobody_waits() -> None:
    sessions = [session((0, 10), (100, 10)), session((20, 5))]
    found = replay_shared(sessions, IdlePolicy(rule="demand"), 2)
    assert (found.starts, found.wakes, found.returned) == ([0, 0], [], 0)


def test_nothing_goes_back_that_makes_no_room() -> None:
    busy = session((0, 1000))
    sessions = [session((0, 10), (100, 10)), busy, session((20, 5), size="2x1")]
    found = replay_shared(sessions, IdlePolicy(rule="demand"), 2)
    assert (found.demanded, found.wakes) == (0, [])


def test_no_more_goes_back_than_is_needed() -> None:
    half = [session((n, 10), (100, 1), size="1/2") for n in range(2)]
    whole = session((2, 10), (100, 1))
    sessions = [*half, whole, session((50, 5))]
    found = replay_shared(sessions, IdlePolicy(rule="demand"), 2)
    # The halves were used longest ago, and go back together.
    assert (found.demanded, found.waiting) == (2, 2)
    # The first of these makes no room for a whole GPU, so that it is spared.
    sessions = [half[0], session((1, 1000), size="1/2"), whole, session((50, 5))]
    found = replay_shared(sessions, IdlePolicy(rule="demand"), 2)
    assert (found.demanded, found.waiting) == (1, 1)


def test_an_owner_waits_in_the_queue_like_everybody() -> None:
    sessions = [session((0, 10), (40, 10)), session((20, 60))]
    found = replay_shared(sessions, IdlePolicy(rule="demand", warn_before=0), 1, wake=3)
    assert found.wakes == [40 * MINUTE + 3]


def test_later_bursts_shift_with_those_that_waited() -> None:
    sessions = [session((0, 10), (40, 10), (60, 1)), session((20, 60))]
    found = replay_shared(sessions, fixed(5), 1, wake=0)
    assert found.wakes == [40 * MINUTE, 0]
    assert found.idle == (30 + 10) * MINUTE


def test_a_release_by_timeout_serves_who_waits() -> None:
    sessions = [session((0, 10), (100, 10)), session((11, 5))]
    found = replay_shared(sessions, fixed(10, demand_after=None), 1)
    assert found.starts == [0, 9 * MINUTE]
    assert (found.demanded, found.served) == (0, 1)


def test_a_share_in_use_is_not_taken() -> None:
    sessions = [session((0, 10), (30, 100)), session((40, 5))]
    found = replay_shared(sessions, IdlePolicy(rule="demand"), 1)
    assert found.starts == [0, 90 * MINUTE]


def test_room_on_several_gpus_is_none_on_one() -> None:
    busy = [session((n, 1000), size="1/2") for n in (0, 2)]
    idle = [session((n, 2), (900, 1), size="1/2") for n in (1, 3)]
    sessions = [busy[0], idle[0], busy[1], idle[1], session((20, 5))]
    found = replay_shared(sessions, IdlePolicy(rule="demand"), 2)
    assert (found.demanded, found.wakes) == (0, [])
    assert found.starts[-1] == 980 * MINUTE


def test_shares_lie_on_different_gpus_and_never_above_them() -> None:
    sessions = [session((n, 10), size=size) for n, size in enumerate(("2x3/5", "2/5", "3/5"))]
    found = replay_shared(sessions, IdlePolicy(rule="never"), 2)
    assert found.starts == [0, 0, 8 * MINUTE]
    sessions = [session((0, 10), size="2x3/5"), session((1, 10), size="3/5")]
    found = replay_shared(sessions, IdlePolicy(rule="never"), 2)
    assert found.starts == [0, 9 * MINUTE]


def test_with_gpus_for_all_it_comes_to_the_same_as_alone() -> None:
    # At one moment a pause may begin before or after another one tells of its wait.
    sessions = [
        [Burst(burst.begin + number / 100, burst.end + number / 100, burst.size) for burst in each]
        for number, each in enumerate(people(20))
    ]
    for policy in (fixed(5), IdlePolicy()):
        (alone,) = replay(sessions, [policy])
        shared = replay_shared(sessions, policy, 20, wake=0)
        assert (shared.pauses, shared.waiting) == (alone.pauses, alone.waiting)
        assert shared.returned == pytest.approx(alone.returned)


def test_a_session_that_can_never_run_is_refused() -> None:
    with pytest.raises(TraceError, match="asks for 8 GPUs, and there are 4"):
        replay_shared([session((0, 1), size="8x1")], IdlePolicy(), 4)
