"""Which leases make up a size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpu_share.engines.kubernetes._lease_plan import LeaseChange, exactly, least_change


def steps(step: int) -> Callable[[int], bool]:
    return lambda amount: amount % step == 0


@pytest.mark.parametrize(
    ("held", "wanted", "free", "change"),
    [
        ({"a": 40}, 60, 40, LeaseChange(frozenset("a"), 20)),  # the difference beside it
        ({"a": 40}, 65, 40, None),  # a difference that the GPU does not give, no room for both
        ({"a": 40}, 60, 10, None),
        ({"a": 40}, 60, None, LeaseChange(frozenset("a"), 20)),
        ({"a": 40, "b": 20}, 20, 0, LeaseChange(frozenset("b"))),
        ({"a": 40}, 20, 20, LeaseChange(frozenset(), 20)),  # the smaller one beside the larger
        ({"a": 40}, 20, 10, None),
        ({"a": 40}, 40, 0, LeaseChange(frozenset("a"))),
        ({"a": 10, "b": 10, "c": 10, "d": 10}, 50, 60, LeaseChange(frozenset("abc"), 20)),
        ({}, 20, 20, LeaseChange(frozenset(), 20)),
    ],
)
def test_the_least_that_is_free_is_taken(
    held: dict[str, int], wanted: int, free: int | None, change: LeaseChange | None
) -> None:
    assert least_change(held, wanted, free, steps(10)) == change


def test_leases_that_add_up() -> None:
    held = {"a": 40, "b": 20, "c": 60}
    assert exactly(held, 60) in (frozenset("ab"), frozenset("c"))
    assert exactly(held, 120) == frozenset("abc")
    assert exactly(held, 50) is None
    assert exactly({}, 10) is None


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 20)),
    st.integers(1, 60),
    st.integers(0, 60),
    st.integers(1, 5),
)
def test_it_adds_up_fits_and_can_be_taken_apart_again(
    held: dict[str, int], wanted: int, free: int, step: int
) -> None:
    change = least_change(held, wanted, free, steps(step))
    if change is None:
        return
    kept = sum(held[name] for name in change.keep)
    assert change.keep <= held.keys()
    assert kept + change.add == wanted
    assert 0 <= change.add <= free
    assert len(change.keep) + bool(change.add) <= 4
    after = {
        **{name: held[name] for name in change.keep},
        **({"new": change.add} if change.add else {}),
    }
    # Whoever finds all of them, the old and the new one, finds either size.
    both = {**held, **after}
    assert exactly(both, wanted) is not None
    assert not held or exactly(both, sum(held.values())) is not None
