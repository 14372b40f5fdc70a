"""What the command draws."""

from __future__ import annotations

from typing import Any

from jupyter_gpu_share.allocations import Allocation, QueuePosition, State
from jupyter_gpu_share.cli._tables import allocations_table, sentence, table


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


def _row(**fields: Any) -> dict[str, Any]:
    values = {"kernel_name": "python3", "size": "1/4", "state": State.ACTIVE, "path": "a.ipynb"}
    return Allocation(kernel_id="12345678-9", **{**values, **fields}).to_json()
