"""The administrator's rules about sizes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traitlets import TraitError

from jupyter_gpu_share.errors import SizeError, SizeNotAllowed
from jupyter_gpu_share.size import Size, SizePolicy

GIB = 2**30


def policy(**traits: Any) -> SizePolicy:
    return SizePolicy(**traits)


def test_the_refusal_says_what_is_allowed() -> None:
    with pytest.raises(SizeNotAllowed) as caught:
        policy().check("3/2")
    assert str(caught.value) == "3/2 is more than one GPU; the largest size here is 1"


@pytest.mark.parametrize(
    ("traits", "text", "says"),
    [
        ({"maximum": "1/2"}, "3/4", "the largest size here is 1/2"),
        ({"maximum": "20GiB"}, "21GiB", "the largest size here is 20GiB"),
        ({"minimum": "1/8"}, "1/9", "the smallest size here is 1/8"),
        ({"only_offered": True}, "1/3", "choose one of 1/4, 1/2, 1, 0"),
        ({"max_devices": 1}, "2x1/2", "a kernel has one GPU at most"),
        ({"max_devices": 2}, "3x1/2", "a kernel has 2 GPUs at most"),
        ({"allow_profiles": False}, "mig-1g.10gb", "cannot be chosen here"),
        ({"allow_zero": False}, "0", "name a size above 0"),
        ({"maximum": "20GiB"}, "mig-3g.40gb", "the largest size here is 20GiB"),
        ({"minimum": "20GiB"}, "mig-1g.10gb", "the smallest size here is 20GiB"),
        ({"maximum": ""}, "3/2", "the largest size here is 1$"),
        ({"only_offered": True, "maximum": "1/2"}, "1", "choose one of 1/4, 1/2, 0"),
    ],
)
def test_rules(traits: dict[str, Any], text: str, says: str) -> None:
    with pytest.raises(SizeNotAllowed, match=says):
        policy(**traits).check(text)


@pytest.mark.parametrize("text", ["1/4", "1", "0", "10GiB", "2x1/2", "mig-1g.10gb"])
def test_what_is_allowed_by_default(text: str) -> None:
    assert str(policy().check(text)) == text


def test_nonsense_stays_a_size_error() -> None:
    with pytest.raises(SizeError, match="not a size"):
        policy().check("a lot")


def test_bounds_of_another_kind_hold_once_the_gpu_is_known() -> None:
    rules = policy(maximum="20GiB", minimum="1/80")
    half = rules.check("1/2")
    with pytest.raises(SizeNotAllowed, match="20GiB"):
        rules.check_on(half, 80 * GIB)
    rules.check_on(half, 40 * GIB)
    with pytest.raises(SizeNotAllowed, match="1/80"):
        rules.check_on(Size.parse("512MiB"), 80 * GIB)


def test_a_total_in_gpus() -> None:
    rules = policy(max_total="3/2")
    half = Size.parse("1/2")
    rules.check_total(half, [(Size.parse("1"), 80 * GIB)])
    rules.check_total(Size.parse("0"), [(half, None)] * 9)
    with pytest.raises(SizeNotAllowed, match="7/4 GPUs; 3/2 GPUs is the limit"):
        rules.check_total(half, [(Size.parse("1"), 80 * GIB), (Size.parse("1/4"), 20 * GIB)])


def test_a_total_in_memory() -> None:
    rules = policy(max_total="60GiB")
    rules.check_total(Size.parse("20GiB"), [(Size.parse("1/2"), 40 * GIB)])
    with pytest.raises(SizeNotAllowed, match="61 GiB; 60 GiB is the limit"):
        rules.check_total(Size.parse("21GiB"), [(Size.parse("1/2"), 40 * GIB)])


@pytest.mark.parametrize("limit", ["1", "80GiB"])
@pytest.mark.parametrize("asked", ["1/2", "40GiB"])
@pytest.mark.parametrize("there", ["1/2", "40GiB"])
def test_a_total_counts_sizes_of_both_kinds(limit: str, asked: str, there: str) -> None:
    rules = policy(max_total=limit)
    size, others = Size.parse(asked), [(Size.parse(there), None)]
    capacity = 80 * GIB if rules.needs_capacity(size, others) else None
    rules.check_total(size, others, capacity)
    capacity = 80 * GIB if rules.needs_capacity(size, others * 2) else None
    with pytest.raises(SizeNotAllowed, match=r"is the limit here"):
        rules.check_total(size, others * 2, capacity)


def test_a_total_counts_migs_instances() -> None:
    one = Size.parse("mig-1g.10gb")
    policy(max_total="2").check_total(one, [(one, None)])
    policy(max_total="20GiB").check_total(one, [(one, None)])
    for limit in ("2", "20GiB"):
        with pytest.raises(SizeNotAllowed):
            policy(max_total=limit).check_total(one, [(one, None)] * 2)


def test_a_total_that_is_no_round_number_is_shown_in_short() -> None:
    with pytest.raises(SizeNotAllowed, match=r"hold 0\.25 GPUs; 1/9 GPUs is the limit"):
        policy(max_total="1/9").check_total(Size.parse("20GiB"), [], 80 * GIB + 1)


def test_the_capacity_is_asked_for_only_where_it_matters() -> None:
    half, ten, mig = Size.parse("1/2"), Size.parse("10GiB"), Size.parse("mig-1g.10gb")
    assert not any(policy().needs_capacity(size, [(ten, None)]) for size in (half, ten, mig))
    assert policy(maximum="20GiB").needs_capacity(half)
    assert not policy(maximum="20GiB").needs_capacity(mig)
    assert policy(max_total="2").needs_capacity(half, [(ten, 10 * GIB)])
    assert policy(max_total="2", maximum="20GiB").needs_capacity(mig, [(ten, 10 * GIB)])
    assert not policy(max_total="60GiB").needs_capacity(ten, [(half, 40 * GIB)])
    assert not policy(max_total="2").needs_capacity(Size.parse("0"), [(ten, None)])


def test_offers_are_what_the_rules_leave() -> None:
    def shown(**traits: Any) -> list[tuple[str, bool]]:
        return [(str(offer.size), offer.default) for offer in policy(**traits).offers()]

    assert shown(maximum="1/2") == [("1/4", True), ("1/2", False), ("0", False)]
    assert shown(minimum="1/2", allow_zero=False) == [("1/2", True), ("1", False)]
    assert shown(maximum="1/8") == [("0", False)]
    assert str(policy(minimum="1/2").default_size()) == "1/2"
    assert str(policy(offered=[{"size": "0"}, {"size": "1"}]).default_size()) == "0"


def test_the_default_is_held_to_the_rules_too() -> None:
    with pytest.raises(SizeNotAllowed, match=r"has to be named here.*largest size here is 1/8"):
        policy(maximum="1/8").default_size()
    assert str(policy(maximum="1/4").default_size(headless=True)) == "1/4"


def test_defaults() -> None:
    assert str(policy().default_size()) == "1/4"
    assert str(policy().default_size(headless=True)) == "1/2"
    plain = policy(offered=[{"size": "10GiB"}, {"size": "1"}])
    assert str(plain.default_size()) == str(plain.default_size(headless=True)) == "10GiB"
    assert [offer.default for offer in plain.offers()] == [True, False]
    assert plain.offers()[0].to_json()["name"] == "10GiB"


@pytest.mark.parametrize(
    ("traits", "says"),
    [
        ({"offered": []}, "at least one"),
        ({"offered": [{"size": "x"}]}, "not a size"),
        ({"offered": [{"name": "x"}]}, "needs a 'size'"),
        ({"offered": [{"size": "1", "colour": "red"}]}, "knows no 'colour'"),
        ({"offered": [{"size": "1", "purpose": "fun"}]}, "none of explore"),
        ({"offered": [{"size": n, "default": True} for n in ("1", "1/2")]}, "only one"),
        ({"offered": [{"size": "1"}, {"size": "1.0"}]}, "1 is there twice"),
        ({"offered": [{"size": 0.1}]}, "size is text in quotes, not 0.1"),
        ({"offered": [{"size": True}]}, "size is text in quotes, not True"),
        ({"offered": [{"size": "1", "default": "no"}]}, "default is True or False"),
        ({"offered": [{"size": "1", "purpose": ["train"]}]}, "purpose is text"),
        ({"offered": [{1: "1"}]}, "knows no 1"),
        ({"maximum": "mig-1g.10gb"}, "of one GPU"),
        ({"minimum": "1/2", "maximum": "1/4"}, "minimum is above"),
        ({"minimum": "20GiB", "maximum": "10GiB"}, "minimum is above"),
        ({"max_total": "150%"}, "neither a number of GPUs"),
        ({"maximum": "2x1"}, "of one GPU"),
        ({"minimum": "much"}, "not a size"),
        ({"max_total": "mig-1g.10gb"}, "neither"),
        ({"max_total": "lots"}, "not a size"),
    ],
)
def test_wrong_rules_are_found_when_they_are_read(traits: dict[str, Any], says: str) -> None:
    with pytest.raises(TraitError, match=says):
        policy(**traits)


@given(st.fractions(min_value=0, max_value=1).filter(bool), st.fractions(0, 1).filter(bool))
def test_bounds_are_exact(maximum: Fraction, asked: Fraction) -> None:
    rules = policy(maximum=str(maximum)) if len(str(maximum)) < 60 else policy()
    limit = Size.parse(rules.maximum).fraction
    assert limit is not None
    if len(str(asked)) > 60:
        return
    if asked > limit:
        with pytest.raises(SizeNotAllowed):
            rules.check(str(asked))
    else:
        assert rules.check(str(asked)).fraction == asked


@given(st.integers(1, 60), st.integers(1, 10**13))
def test_totals_are_exact(parts: int, capacity: int) -> None:
    one = Size(fraction=Fraction(1, parts))
    rules = policy(max_total="1")
    rules.check_total(one, [(one, one.bytes_of(capacity))] * (parts - 1), capacity)
    with pytest.raises(SizeNotAllowed):
        rules.check_total(one, [(one, one.bytes_of(capacity))] * parts, capacity)
