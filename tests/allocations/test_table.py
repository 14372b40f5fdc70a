"""The table of allocations and the shape that leaves it."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from fractions import Fraction

import pytest

from jupyter_gpu_share.allocations import (
    Allocation,
    AllocationTable,
    Device,
    Isolation,
    NextAction,
    QueuePosition,
    Share,
    State,
    timestamp,
)

CONTRACT = {
    *("kernel_id", "kernel_name", "path", "user", "size", "state", "reason", "reason_sentences"),
    "share",
    *("used_bytes", "utilization", "idle_since", "keep_until", "next", "queue"),
    *("engine", "backend", "style", "kept"),
}


def allocation(kernel_id: str = "k1", **fields: object) -> Allocation:
    values = {"kernel_name": "python3", "size": "1/4", "state": State.ACTIVE, **fields}
    return Allocation(kernel_id=kernel_id, **values)  # type: ignore[arg-type]


def test_json_has_exactly_the_fields_of_the_contract() -> None:
    assert set(allocation().to_json()) == CONTRACT


def test_json_of_a_full_row() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    row = allocation(
        share=Share(
            (Device("SIM-1", "A100-80GB (simulated)", "here"),),
            20 * 2**30,
            Fraction(1, 4),
            Isolation.FRAMEWORK,
            simulated=True,
        ),
        idle_since=noon,
        next=NextAction("release", noon),
        queue=QueuePosition(1, 2),
    ).to_json()
    assert row["share"]["fraction"] == "1/4"
    assert row["share"]["memory_bytes"] == 20 * 2**30
    assert row["share"]["isolation"] == "framework"
    assert row["share"]["simulated"] is True
    assert row["idle_since"] == "2026-03-01T10:00:00.000Z"
    assert row["next"] == {"action": "release", "at": "2026-03-01T10:00:00.000Z"}
    assert row["queue"] == {"position": 1, "of": 2}
    assert timestamp(None) is None


def test_listeners_hear_of_changes_but_not_of_readings() -> None:
    table, heard = AllocationTable(), []
    stop = table.listen(heard.append)
    table.put(allocation())
    table.put(allocation(used_bytes=5, utilization=0.5))
    assert len(heard) == 1
    assert table.get("k1") == allocation(used_bytes=5, utilization=0.5)
    table.put(allocation(used_bytes=5, state=State.IDLE))
    table.put(allocation(used_bytes=5, state=State.IDLE))
    assert [row.state for row in heard] == [State.ACTIVE, State.IDLE]
    assert heard[-1].used_bytes == 5
    stop()
    table.put(allocation())
    assert len(heard) == 2


def test_unknown_kernels_are_no_error() -> None:
    table = AllocationTable()
    table.remove("gone")
    assert table.get("gone") is None


def test_a_listener_that_fails_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    table, heard = AllocationTable(), []

    def bad(row: Allocation) -> None:
        raise ValueError(row.kernel_id)

    table.listen(bad)
    table.listen(heard.append)
    with caplog.at_level(logging.ERROR):
        table.put(allocation())
    assert heard == [allocation()]
    assert "listener" in caplog.text


def test_which_states_hold_a_share() -> None:
    assert {state for state in State if state.holds_share} == {
        State.STARTING,
        State.ACTIVE,
        State.IDLE,
        State.RELEASING,
    }
