"""What is learnt of a notebook's pauses."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpu_share.idle import History

seconds = st.floats(0, 1e6)


def with_pauses(*pauses: float) -> History:
    history, now = History(), 0.0
    history.burst(now, now)
    for pause in pauses:
        now += pause
        history.burst(now, now)
    return history


def test_pauses_are_learnt_between_bursts() -> None:
    history = History()
    history.burst(0, 100)
    assert (history.pauses, history.last) == (0, None)
    history.burst(400, 500)
    assert (history.pauses, history.last) == (1, 300.0)


def test_steps_within_one_piece_of_work_are_no_pauses() -> None:
    history = with_pauses(*[5.0] * 50, 119.9)
    assert history.pauses == 0
    assert history == History()


def test_bursts_may_overlap() -> None:
    history = History()
    history.burst(0, 1000)
    history.burst(10, 20)
    history.burst(1300, 1400)
    assert history.last == 300.0


def test_without_pauses_one_reckons_with_what_is_expected() -> None:
    assert History().usual(288.0, 2.0) == 288.0


def test_the_usual_pause_follows_the_last_few() -> None:
    slow, quick = with_pauses(*[3600.0] * 20), with_pauses(*[3600.0] * 20, *[180.0] * 10)
    assert 1500 < slow.usual(300.0, 2.0) < 3600
    assert quick.usual(300.0, 2.0) < 300
    assert round(slow.usual(300.0, 0.0)) == 3600


def test_a_pause_of_days_counts_as_one_of_a_day() -> None:
    assert with_pauses(1e7) == with_pauses(24 * 3600.0)


@given(st.lists(seconds, max_size=60))
def test_it_survives_json(pauses: list[float]) -> None:
    history = with_pauses(*pauses)
    again = History.from_json(json.loads(json.dumps(history.to_json())))
    assert again == history
    assert again.usual(300.0, 2.0) == history.usual(300.0, 2.0)


def test_the_pause_of_a_new_start_is_not_learnt() -> None:
    again = History.from_json(with_pauses(300.0).to_json())
    again.burst(5e6, 5e6 + 1)
    assert again.pauses == 1


def test_it_stays_small() -> None:
    few, many = with_pauses(*[300.0] * 10), with_pauses(*[300.0] * 10_000)
    assert not hasattr(many, "__dict__")
    for name in History.__slots__:
        assert sys.getsizeof(getattr(many, name)) == sys.getsizeof(getattr(few, name))


@pytest.mark.parametrize(
    "change",
    [
        {"pauses": -1},
        {"pauses": True},
        {"pauses": 1.5},
        {"pauses": 0},
        {"last": "300"},
        {"last": 5.0},
        {"last": None},
        {"total": float("nan")},
        {"total": 1e9},
        {"total": 0.0},
        {"weight": float("inf")},
        {"weight": 100.0},
        {"weight": 0.0},
    ],
)
def test_what_is_no_history_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no history"):
        History.from_json({**with_pauses(300.0).to_json(), **change})


@pytest.mark.parametrize("data", [None, [], "x", {}, {"pauses": 1}])
def test_other_data_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="no history"):
        History.from_json(data)
