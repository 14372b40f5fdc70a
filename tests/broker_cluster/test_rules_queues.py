"""The queue of a user's kernels: by name and group, and nobody gets into that of somebody else."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jupyter_gpu_share.broker.cluster.queues import (
    QueuesError,
    escaped,
    queue_for,
    read_queues,
)
from jupyter_gpu_share.size import Size

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
NAMES = st.text(st.characters(exclude_categories=()), min_size=1) | st.text(
    "ab-2d.ex", min_size=1, max_size=70
)


def queue(entries: Any, user: str, *groups: str, size: str = "1/2") -> str:
    return queue_for(read_queues(entries), user, frozenset(groups), Size.parse(size))


def test_the_first_entry_that_fits_counts() -> None:
    entries = [
        {"user": "ann", "sizes": ["1", "2x1"], "queue": "large"},
        {"group": "course-*", "queue": "courses"},
        {"group": "lab", "queue": "team.{group}"},
        {"user": "*", "queue": "user-{user}"},
    ]
    assert queue(entries, "ann", size="1") == "large"
    assert queue(entries, "ann", "course-2", size="1/2") == "courses"
    assert queue(entries, "bob", "lab", "other") == "team.lab"
    assert queue(entries, "bob", "other") == "user-bob"
    assert queue(entries[:3], "bob", "other") == ""
    assert queue([], "bob") == ""
    both = [{"group": "*", "queue": "{group}--{user}"}]
    assert queue(both, "ann", "b", "a") == "a--ann"
    assert queue(both, "ann") == ""


def test_patterns_are_of_whole_names_and_of_their_case() -> None:
    entries = [{"user": "ann", "queue": "q"}]
    assert queue(entries, "ann") == "q"
    for user in ("Ann", "anna", "an", "ann\n", ""):
        assert queue(entries, user) == "", user


@given(NAMES, NAMES)
@example("a.b", "a-2eb")
@example("-a", "h-xc1d6e9d7c3c6b3fa")
@example("A", "a")
def test_no_two_names_become_one(one: str, other: str) -> None:
    assert (escaped(one) == escaped(other)) == (one == other)
    entries = [{"user": "*", "queue": "team-{user}"}]
    first, second = queue(entries, one), queue(entries, other)
    assert NAME.fullmatch(first)
    assert (first == second) == (one == other)


@given(NAMES, NAMES, NAMES, NAMES)
@example("a", "2e", "a-", "2e")
@example("a", "-b", "a-", "b")
def test_no_two_pairs_become_one(a: str, b: str, c: str, d: str) -> None:
    entries = [{"group": "*", "queue": "{group}--{user}"}]
    first, second = queue(entries, b, a), queue(entries, d, c)
    assert NAME.fullmatch(first)
    assert (first == second) == ((a, b) == (c, d))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("q", "a list"),
        (["q"], "not written like"),
        ([{"user": "a", "queue": "q", "colour": 1}], "no field 'colour'"),
        ([{"queue": "q"}], "either a user or a group"),
        ([{"user": "a", "group": "b", "queue": "q"}], "either a user or a group"),
        ([{"user": "", "queue": "q"}], "not empty"),
        ([{"user": "a"}], "not empty"),
        ([{"user": "a", "queue": "{name}"}], "{user} and {group}"),
        ([{"user": "a", "queue": "{user}{user}"}], "at most once"),
        ([{"user": "a", "queue": "{group}"}], "names a user"),
        ([{"group": "a", "queue": "{group}-{user}"}], "write -- between"),
        ([{"user": "a", "queue": "Upper"}], "no name of a queue"),
        ([{"user": "a", "queue": "a/b"}], "no name of a queue"),
        ([{"user": "a", "queue": "q" * 64}], "no name of a queue"),
        ([{"user": "a", "queue": "q", "sizes": "1"}], "are a list"),
        ([{"user": "a", "queue": "q", "sizes": ["many"]}], "many"),
        ([{}, {"queue": "q"}][1:], "Entry 1"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_one_line(entry: Any, says: str) -> None:
    with pytest.raises(QueuesError) as error:
        read_queues(entry)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
