"""What a server learns of a kernel has its sentences, and they are no news of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from jupyter_gpu_share.broker.cluster.rows import (
    Phase,
    View,
    failure_of,
    for_caller,
    row_of,
    same,
)
from jupyter_gpu_share.engines.base import Exit, Removal
from jupyter_gpu_share.engines.kubernetes._answers import progress_of
from jupyter_gpu_share.engines.kubernetes._row import Row
from jupyter_gpu_share.errors import NoGpuError
from jupyter_gpu_share.sentences import say, sentences_of
from jupyter_gpu_share.size import Size

WAITS = View(
    kernel_id="k",
    attempt="a" * 32,
    name="pod",
    size=Size.parse("1/4"),
    kernel_name="python3",
    path=None,
    phase=Phase.WAITING,
    instance="b" * 32,
    alive=True,
    reason=say("waits-for-turn"),
)


def read(view: View) -> Row:
    return Row.read(json.loads(json.dumps(for_caller(row_of(view), "b" * 32))))


def codes(text: str) -> list[Any]:
    return [each["code"] for each in sentences_of(text)]


def test_every_text_of_a_row_arrives_with_its_sentences() -> None:
    assert codes(progress_of(read(WAITS)).reason) == ["waits-for-turn"]
    view = replace(
        WAITS,
        note=say("no-room", size="1"),
        removal=Removal(say("node-lost"), 5.0),
        ended=Exit(-9, say("pod-deleted")),
        failed=failure_of(NoGpuError(say("waits-for-turn"))),
        lost_work=say("run-notebook-again"),
    )
    row = read(view)
    assert row.removal is not None and row.ended is not None and row.failed is not None
    assert codes(row.note) == ["no-room"]
    assert codes(row.removal.reason) == ["node-lost"]
    assert codes(row.ended.reason) == ["pod-deleted"]
    assert (row.failed.kind, codes(row.failed.detail)) == ("no-gpu", ["waits-for-turn"])
    assert codes(row.lost_work) == ["run-notebook-again"]
    assert codes(read(replace(WAITS, phase=Phase.ENDED)).ended.reason) == ["waits-for-turn"]  # type: ignore[union-attr]


def test_a_row_of_plain_words_is_no_larger_than_before() -> None:
    assert not [name for name in row_of(replace(WAITS, reason="Plain.")) if "sentences" in name]


def test_a_value_that_changes_no_word_is_no_news() -> None:
    def row(seconds: float) -> dict[str, Any]:
        grace = say("no-time-to-save", grace=seconds)
        return row_of(replace(WAITS, reason=grace, ended=Exit(1, grace)))

    assert row(5.1) != row(5.2)
    assert same(row(5.1), row(5.2)), "each would be an event for its server"
    assert not same(row(5.1), row(6.1))
