"""What a kernel held and used over the last hour, and what that adds up to."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from stand_ins import bench
from waiting import eventually

from jupyter_gpu_share.allocations import Allocation, Device, Isolation, Share, State
from jupyter_gpu_share.engines.base import Usage
from jupyter_gpu_share.kernels._history import KernelHistory
from jupyter_gpu_share.kernels._holding import Holding
from jupyter_gpu_share.kernels._samples import COUNT, INTERVAL, Samples
from jupyter_gpu_share.kernels.facts import Event, Phase

GIB = 2**30
START = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def share(fraction: str = "1/4", gpus: int = 1) -> Share:
    part = Fraction(fraction)
    devices = tuple(Device(f"G{n}", "A100", "n") for n in range(gpus))
    return Share(devices, int(80 * GIB * part), part, Isolation.FRAMEWORK)


def row(state: State, held: Share | None = None) -> Allocation:
    return Allocation("k", "python3", "1/4", state, share=held)


def told(holding: Holding, *changes: tuple[float, State, Share | None]) -> Holding:
    for seconds, state, held in changes:
        holding.stands(row(state, held), after(seconds))
    return holding


# -- samples -------------------------------------------------------------------------------------


def test_a_sample_has_the_most_memory_and_the_mean_use_of_its_interval() -> None:
    samples = Samples()
    samples.add(after(0), 5 * GIB, 0.2)
    samples.add(after(2), 9 * GIB, 0.6)
    samples.add(after(4), 7 * GIB, None)
    found = samples.to_json(after(5))
    assert found["used_bytes"] == [9 * GIB]
    assert found["utilization"] == [0.4]
    assert found["begin"] == "2026-03-01T12:00:00.000Z"


def test_an_interval_without_a_reading_is_a_gap() -> None:
    samples = Samples()
    samples.add(after(0), 1, 0.0)
    samples.add(after(3 * INTERVAL), 2, None)
    samples.add(after(4 * INTERVAL), None, None)
    found = samples.to_json(after(4 * INTERVAL))
    assert found["used_bytes"] == [1, None, None, 2]
    assert found["utilization"] == [0.0, None, None, None]


@given(st.lists(st.integers(-9000, 9000), max_size=300), st.integers(0, 20000))
def test_samples_are_those_of_the_last_hour_whatever_the_clock_does(
    steps: list[int], later: int
) -> None:
    samples, at = Samples(), 10.0**6
    for step in steps:
        at += step
        samples.add(after(at), 1, 0.5)
    found = samples.to_json(after(at + later))
    assert len(found["used_bytes"]) == len(found["utilization"]) <= COUNT
    if found["begin"] is not None:
        assert found["used_bytes"][0] is not None
        age = (after(at + later) - datetime.fromisoformat(found["begin"])).total_seconds()
        assert age <= COUNT * INTERVAL
        assert len(found["used_bytes"]) * INTERVAL <= age + INTERVAL, "nothing is to come"


# -- what was held -------------------------------------------------------------------------------


def test_a_release_and_a_wake_end_and_begin_a_span() -> None:
    found = told(
        Holding(),
        (0, State.STARTING, share()),
        (10, State.ACTIVE, share()),
        (600, State.RELEASING, share()),
        (601, State.RELEASED, None),
        (1200, State.WAKING, None),
        (1201, State.ACTIVE, share()),
    ).to_json(after(1300))
    spans = [(span["begin"], span["end"], span["ended_by"]) for span in found["spans"]]
    assert spans == [
        ("2026-03-01T12:00:00.000Z", "2026-03-01T12:10:01.000Z", "release"),
        ("2026-03-01T12:20:01.000Z", None, None),
    ]
    assert found["held_since"] == "2026-03-01T12:20:01.000Z"


def test_a_change_of_size_begins_a_span_and_no_new_time_of_holding() -> None:
    found = told(
        Holding(), (0, State.ACTIVE, share("1/4")), (60, State.ACTIVE, share("1/2", 2))
    ).to_json(after(120))
    assert [span["ended_by"] for span in found["spans"]] == ["resize", None]
    assert [span["memory_bytes"] for span in found["spans"]] == [20 * GIB, 80 * GIB]
    assert found["held_since"] == "2026-03-01T12:00:00.000Z"


def test_a_kernel_that_ends_has_not_released_its_share() -> None:
    found = told(Holding(), (0, State.ACTIVE, share()), (9, State.FAILED, None))
    assert found.to_json(after(10))["spans"][0]["ended_by"] == "end"
    assert found.to_json(after(10))["held_since"] is None


def test_a_share_that_is_asked_for_again_at_once_was_released() -> None:
    found = told(
        Holding(),
        (0, State.ACTIVE, share()),
        (60, State.RELEASING, share()),
        (61, State.WAKING, None),  # a cell came meanwhile
        (62, State.ACTIVE, share()),
    ).to_json(after(90))
    assert [span["ended_by"] for span in found["spans"]] == ["release", None]


def test_gpu_hours_are_parts_of_gpus_times_hours() -> None:
    holding = told(
        Holding(), (0, State.ACTIVE, share("1/4")), (3600, State.ACTIVE, share("1/2", 2))
    )
    assert holding.to_json(after(3600))["gpu_hours"] == 0.25
    assert holding.to_json(after(5400))["gpu_hours"] == 0.75


def test_what_is_given_back_counts_while_nobody_asks_for_it() -> None:
    holding = told(
        Holding(),
        (0, State.ACTIVE, share("1/2")),
        (3600, State.RELEASED, None),
        (7200, State.WAKING, None),
    )
    found = holding.to_json(after(9000))
    assert found["gpu_hours"] == 0.5
    assert found["returned_gpu_hours"] == 0.5
    told(holding, (9000, State.RELEASED, None))
    assert holding.to_json(after(9000 + 3600))["returned_gpu_hours"] == 1.0


def test_what_is_taken_over_released_has_given_nothing_back_that_is_known() -> None:
    holding = told(Holding(), (0, State.RELEASED, None))
    assert holding.to_json(after(3600))["returned_gpu_hours"] == 0


def test_no_gpu_holds_nothing() -> None:
    none = Share((), 0, Fraction(0), Isolation.NONE)
    found = told(Holding(), (0, State.ACTIVE, none)).to_json(after(60))
    assert found["spans"] == []
    assert found["held_since"] is None


def test_a_clock_that_is_set_back_takes_nothing_away() -> None:
    holding = told(Holding(), (0, State.ACTIVE, share("1")), (3600, State.IDLE, share("1")))
    told(holding, (0, State.ACTIVE, share("1")))
    assert holding.to_json(after(0))["gpu_hours"] == 1.0


def test_spans_are_those_of_the_last_hour_and_no_more_than_sixty() -> None:
    holding = Holding()
    for n in range(200):
        told(holding, (n * 10, State.ACTIVE, share()), (n * 10 + 5, State.RELEASED, None))
    assert len(holding.to_json(after(2000))["spans"]) == 60
    assert holding.to_json(after(2000 + 3601))["spans"] == []
    assert holding.to_json(after(2000))["gpu_hours"] == round(200 * 5 / 4 / 3600, 6)


# -- as the controller tells it ------------------------------------------------------------------


def shown(history: KernelHistory) -> dict[str, Any]:
    return history.to_json("k", datetime.now(timezone.utc))


async def test_a_controller_notes_readings_and_every_change() -> None:
    async with bench() as made:
        made.engine.share = share()
        await made.launch()
        made.controller.reading(Usage(3 * GIB, 0.5))
        await made.controller.release(lose_variables=False)
        made.controller.reading(Usage(9 * GIB, 0.5))  # of before, and late
        found = shown(made.controller.history)
        assert found["samples"]["used_bytes"] == [3 * GIB]
        assert [span["ended_by"] for span in found["spans"]] == ["release"]
        made.controller.tell(Event.CELL)
        await eventually(lambda: made.controller.facts.phase is Phase.RUNNING, "it has it again")
        assert [span["ended_by"] for span in shown(made.controller.history)["spans"]] == [
            "release",
            None,
        ]
