"""What the command draws."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from jupyter_gpu_share.allocations import (
    Allocation,
    Device,
    Isolation,
    QueuePosition,
    Share,
    State,
)
from jupyter_gpu_share.cli._tables import allocations_table, kept, kept_report, sentence, table


def test_columns_are_aligned_and_cut_at_the_terminal() -> None:
    text = table(["A", "LONG"], [["x", "1"], ["yyyy", "z" * 50]], width=20)
    assert text.splitlines() == ["A     LONG", "x     1", "yyyy  " + "z" * 13 + "…"]


def test_names_cannot_steer_the_terminal() -> None:
    row = _row(path="\x1b[2J\x07evil\n.ipynb")
    assert "\x1b" not in allocations_table([row])
    assert "?[2J?evil?.ipynb" in allocations_table([row])
    assert len(allocations_table([row]).splitlines()) == 2


def test_a_queued_kernel() -> None:
    row = _row(state=State.QUEUED, queue=QueuePosition(2, 4), reason="It waits.")
    assert "queued (2 of 4)" in allocations_table([row])
    assert sentence(row) == "a.ipynb: queued (2 of 4), size 1/4, -. It waits."


@pytest.mark.parametrize("model", ["A100", "A100 (simulated)"])
def test_a_simulated_gpu_is_called_so(model: str) -> None:
    share = Share(
        (Device("GPU-1", model, "one"),), 2**30, Fraction(1, 80), Isolation.FRAMEWORK, True
    )
    assert "  1 GiB of A100 (simulated)  active" in allocations_table([_row(share=share)])


@pytest.mark.parametrize(
    ("how", "lost", "said"),
    [
        ("in-place", [], "The kernel keeps running, and its variables stay where they are."),
        ("snapshot", [], "Variables are saved and brought back into a new process."),
        (
            "snapshot",
            ["list `a`", "file `\x1b`"],
            "Variables are saved and brought back into a new process, but not: list `a`, file `?`.",
        ),
        ("none", ["all variables"], "A new process starts, and all variables would be lost."),
        ("none", [], "Nothing is lost: there are no variables to keep."),
    ],
)
def test_what_is_said_before_a_change(how: str, lost: list[str], said: str) -> None:
    assert kept({"how": how, "lost": lost}) == said


def _row(**fields: Any) -> dict[str, Any]:
    values = {"kernel_name": "python3", "size": "1/4", "state": State.ACTIVE, "path": "a.ipynb"}
    return Allocation(kernel_id="12345678-9", **{**values, **fields}).to_json()


def test_all_that_is_lost_has_a_line_each() -> None:
    loss = {"name": "g", "what": "generator", "why": "a generator cannot be saved"}
    work = {"name": "", "what": "thread `t`", "why": ""}
    file = {"file": "/kept/a.kept", "bytes": 2048, "saved": "2026-01-01T00:00:00.000Z"}
    text = kept_report({"lost": [loss, work], "aside": [{**file, "missing": [loss]}]})
    assert text.splitlines()[1:3] == [
        "  generator `g`: a generator cannot be saved",
        "  thread `t`",
    ]
    assert "Not restored from /kept/a.kept (2 KiB, saved 2026-01-01T00:00:00.000Z):" in text
    assert "--forget" in text
    assert kept_report({"lost": [], "aside": []}) == "Nothing is lost."
    assert "\x1b" not in kept_report({"lost": [{**loss, "name": "\x1b[2J"}], "aside": []})
