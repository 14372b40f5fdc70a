"""What the command draws."""

from __future__ import annotations

import re
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
from jupyter_gpu_share.cli._tables import (
    allocations_table,
    gpus_table,
    kept,
    kept_report,
    sentence,
    sizes_table,
    table,
)
from jupyter_gpu_share.engines.base import Capacity

GIB = 2**30


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
    assert sentence(row) == "a.ipynb: queued (2 of 4), size 1/4. It waits."


@pytest.mark.parametrize("model", ["A100", "A100 (simulated)"])
def test_a_simulated_gpu_is_called_so(model: str) -> None:
    share = Share(
        (Device("GPU-1", model, "one"),), 2**30, Fraction(1, 80), Isolation.FRAMEWORK, True
    )
    assert "  1 GiB of A100 (simulated)  active" in allocations_table([_row(share=share)])


def gpu(number: int, free: int = 80, **fields: Any) -> Capacity:
    known = {"uuid": f"GPU-{number}", "model": "A100", "node": "one", "index": number}
    return Capacity(**{**known, "memory_bytes": 80 * GIB, "free_bytes": free * GIB, **fields})


def test_two_gpus_of_a_kind_are_told_apart() -> None:
    share = Share(
        (Device("GPU-1", "A100", "one"),), 20 * GIB, Fraction(1, 4), Isolation.FRAMEWORK, False
    )
    gpus = [gpu(0), gpu(1, free=60, kernels=1)]
    assert gpus_table(gpus).splitlines() == [
        "GPU  MODEL  MEMORY  FREE    KERNELS",
        "0    A100   80 GiB  80 GiB  0",
        "1    A100   80 GiB  60 GiB  1",
    ]
    head, line = allocations_table([_row(share=share)], gpus).splitlines()
    assert re.split("  +", head) == [
        "KERNEL", "NOTEBOOK", "SIZE", "SHARE", "GPU", "STATE", "IN USE", "ISOLATION",
    ]  # fmt: skip
    assert line[head.index("GPU") :].split() == ["1", "active", "-", "framework"]


def test_gpus_whose_numbers_are_not_told_are_counted_on_each_node() -> None:
    gpus = [
        gpu(7, index=None),
        gpu(8, index=None),
        gpu(9, index=None, node="two"),
    ]
    lines = [line.split() for line in gpus_table(gpus).splitlines()]
    assert lines[0][-1] == "NODE"
    assert [(line[0], line[-1]) for line in lines[1:]] == [("0", "one"), ("1", "one"), ("0", "two")]


def test_instances_of_mig_have_numbers_of_their_own() -> None:
    gpus = [gpu(0), *(gpu(1, profile="1g.10gb", uuid=f"MIG-{n}") for n in range(2))]
    assert [line.split()[0] for line in gpus_table(gpus).splitlines()[1:]] == ["0", "1:0", "1:1"]
    assert "A100 MIG 1g.10gb" in gpus_table(gpus)


def test_users_are_shown_where_somebody_is_known() -> None:
    assert "USER" not in allocations_table([_row()])
    head, first, second = allocations_table([_row(user="ana"), _row()]).splitlines()
    at = head.index("USER")
    assert (first[at : at + 3], second[at : at + 3]) == ("ana", "-  ")


def offer(size: str, why: str | None = None, **fields: Any) -> dict[str, Any]:
    row = {"size": size, "name": "N", "description": "D", "default": False}
    return {**row, "available": why is None, "why": why, **fields}


@pytest.mark.parametrize(
    ("size", "gpus", "memory"),
    [
        ("1/4", [gpu(0), gpu(1)], "20 GiB"),
        ("1/4", [gpu(0), gpu(1, memory_bytes=24 * GIB)], "6 GiB to 20 GiB"),
        ("2x1/2", [gpu(0)], "2 x 40 GiB"),
        ("10GiB", [], "10 GiB"),
        ("mig-1g.10gb", [gpu(0), gpu(1, profile="1g.10gb", memory_bytes=10 * GIB)], "10 GiB"),
        ("1/4", [], "-"),
        ("0", [gpu(0)], "-"),
    ],
)
def test_how_much_memory_a_size_is(size: str, gpus: list[Capacity], memory: str) -> None:
    head, line = sizes_table([offer(size)], gpus).splitlines()
    assert line[head.index("MEMORY") : head.index("NAME")].strip() == memory


def test_a_reason_is_said_once() -> None:
    why, other = "There is no GPU here.", "It is in use."
    rows = [offer("1/4", why, default=True), offer("1/2", why), offer("1", other), offer("0")]
    lines = sizes_table(rows).splitlines()
    assert lines[5:] == [f"Not free now: 1/4, 1/2. {why}", f"Not free now: 1. {other}"]
    assert [line.split()[-1] for line in lines[1:5]] == ["no", "no", "no", "yes"]


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
