"""KAI's queues: the rule of its scheduler, read off the objects."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from jupyter_gpu_share.engines.kubernetes.backends.kai_queues import parent_of, without_room

GPU = "nvidia.com/gpu"


def queue(
    name: str, limit: float | None, quota: float, held: str = "0", safe: str = "0", above: str = ""
) -> dict[str, Any]:
    """A queue that may hold so many GPUs, and holds ``held``, of these ``safe`` for good."""
    gpu = {"quota": quota, "overQuotaWeight": 1} | ({} if limit is None else {"limit": limit})
    return {
        "metadata": {"name": name},
        "spec": {"resources": {"gpu": gpu}} | ({"parentQueue": above} if above else {}),
        "status": {"allocated": {GPU: held}, "allocatedNonPreemptible": {GPU: safe}},
    }


@pytest.mark.parametrize(
    ("limit", "quota", "held", "safe", "more", "preemptible", "words"),
    [
        (0.5, 0, "0", "0", "1/2", True, None),
        (0.5, 0, "250m", "0", "1/4", True, None),
        (0.5, 0, "250m", "0", "1/2", True, "limit of the queue q is reached: it is 0.5 GPUs"),
        (0.5, 0, "999m", "0", "0", True, "limit of the queue q is reached"),
        (-1, 0, "90", "0", "1", True, None),
        (None, 0, "0", "0", "1/8", True, "limit of the queue q is reached: it is 0 GPUs"),
        (-1, 1, "3", "500m", "1/2", False, None),
        (-1, 1, "3", "750m", "1/2", False, "quota of the queue q is used up: it is 1 GPUs"),
        (-1, 1, "3", "750m", "1/2", True, None),
        (-1, -1, "3", "3", "1", False, None),
        (4, 1, "4", "0", "1/8", False, "limit of the queue q is reached: it is 4 GPUs"),
    ],
)
def test_what_a_queue_has_room_for(
    limit: float | None,
    quota: float,
    held: str,
    safe: str,
    more: str,
    preemptible: bool,
    words: str | None,
) -> None:
    said = without_room(
        [queue("q", limit, quota, held, safe)], Fraction(more), preemptible=preemptible
    )
    if words is None:
        assert said is None
    else:
        assert said is not None
        assert words in said


def test_the_queues_above_count_too() -> None:
    below, above = queue("team", -1, 0, "1", above="all"), queue("all", 4, 0, "3500m")
    assert parent_of(below) == "all"
    assert parent_of(above) == ""
    assert without_room([below, above], Fraction(1, 2), preemptible=True) is None
    said = without_room([below, above], Fraction(3, 4), preemptible=True)
    assert said is not None
    assert "limit of the queue all" in said


def test_a_queue_that_has_counted_nothing_yet_holds_nothing() -> None:
    fresh = queue("q", 1, 0)
    del fresh["status"]
    assert without_room([fresh], Fraction(1), preemptible=True) is None


def test_a_queue_without_resources_has_none() -> None:
    bare = {"metadata": {"name": "q"}, "spec": {}}
    assert without_room([bare], Fraction(1, 8), preemptible=True) is not None


def test_without_a_queue_nothing_is_in_the_way() -> None:
    assert without_room([], Fraction(8), preemptible=False) is None
