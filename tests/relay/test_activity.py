"""Counting cells from the headers that pass."""

from __future__ import annotations

from typing import Any

from jupyter_gpu_share.relay._activity import ActivityCounter


def header(kind: str, number: int = 1, session: str = "s") -> dict[str, Any]:
    return {"msg_type": kind, "msg_id": f"m{number}", "session": session}


def test_cells_are_pending_until_they_are_answered() -> None:
    counter = ActivityCounter()
    assert counter.request(header("execute_request", 1))
    assert counter.request(header("execute_request", 2, "other"))
    assert counter.snapshot().busy
    assert counter.snapshot().clients == 2
    assert counter.reply("execute_reply", "m1")
    assert counter.reply("execute_reply", "m2")
    done = counter.snapshot()
    assert not done.busy
    assert (done.cells_sent, done.cells_done) == (2, 2)
    assert done.last_cell_at is not None


def test_a_cell_that_was_held_and_passes_now_is_one_cell() -> None:
    counter = ActivityCounter()
    counter.request(header("execute_request"))
    assert not counter.request(header("execute_request"))
    assert counter.snapshot().cells_sent == 1


def test_other_requests_are_told_apart_and_keep_nobody_busy() -> None:
    counter = ActivityCounter()
    for kind in ("complete_request", "inspect_request", "comm_msg", "kernel_info_request"):
        assert not counter.request(header(kind))
    found = counter.snapshot()
    assert (found.completions, found.inspections, found.comms) == (1, 1, 1)
    assert not found.busy
    assert found.last_cell_at is None


def test_replies_to_others_change_nothing() -> None:
    counter = ActivityCounter()
    counter.request(header("execute_request"))
    assert not counter.reply("execute_reply", "unknown")
    assert not counter.reply("kernel_info_reply", "m1")
    assert counter.snapshot().busy


def test_a_kernel_that_is_gone_answers_nothing_any_more() -> None:
    counter = ActivityCounter()
    counter.request(header("execute_request", 1))
    counter.request(header("execute_request", 2))
    counter.lost({"m2"})
    assert counter.snapshot().pending_cells == 1
