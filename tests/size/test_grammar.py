"""The grammar of sizes: exact, strict, and clear about what it refuses."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpu_share.errors import MoreThanOneGpu, SizeError
from jupyter_gpu_share.size import Size, format_bytes, parse_bytes

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1/4", Size(fraction=Fraction(1, 4))),
        ("0.25", Size(fraction=Fraction(1, 4))),
        (" .25 ", Size(fraction=Fraction(1, 4))),
        ("25%", Size(fraction=Fraction(1, 4))),
        ("2/8", Size(fraction=Fraction(1, 4))),
        ("1", Size(fraction=Fraction(1))),
        ("10GiB", Size(memory=10 * GIB)),
        ("10 gib", Size(memory=10 * GIB)),
        ("1.5GiB", Size(memory=3 * GIB // 2)),
        ("10GB", Size(memory=10**10)),
        ("512MiB", Size(memory=512 * 2**20)),
        ("mig-1g.10gb", Size(profile="1g.10gb")),
        ("MIG-1c.2g.20gb", Size(profile="1c.2g.20gb")),
        ("mig-1g.10gb+me", Size(profile="1g.10gb+me")),
        ("2x1/2", Size(fraction=Fraction(1, 2), count=2)),
        ("2 x 10GiB", Size(memory=10 * GIB, count=2)),
        ("2xmig-1g.10gb", Size(profile="1g.10gb", count=2)),
        ("0", Size(count=0)),
        ("0.0", Size(count=0)),
        ("0/5", Size(count=0)),
    ],
)
def test_what_can_be_written(text: str, size: Size) -> None:
    assert Size.parse(text) == size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a size"),
        ("much", "much is not a size"),
        ("-1/4", "negative"),
        ("-5GiB", "negative"),
        ("1/-4", "negative"),
        ("1/0", "divides by zero"),
        ("0x1", "no GPU at all"),
        ("2x0", "write 0"),
        ("65x1", "64 at most"),
        ("0GiB", "write 0"),
        ("0.1B", "whole number of bytes"),
        ("1e3", "not a size"),
        ("nan", "not a size"),
        ("inf", "not a size"),
        ("1/2/3", "not a size"),
        ("mig-", "not a size"),
        ("mig-1g.10gb; rm -rf /", "not a size"),
        ("½", "not a size"),
        ("٣/٤", "not a size"),
        ("{{ 7*7 }}", "not a size"),
        ("1/4\n1/2", "not a size"),
        ("9" * 65, "too long"),
    ],
)
def test_what_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(SizeError, match=says) as caught:
        Size.parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_more_than_one_gpu_is_told_apart() -> None:
    with pytest.raises(MoreThanOneGpu, match=r"^3/2 is more than one GPU$"):
        Size.parse("3/2")
    with pytest.raises(MoreThanOneGpu, match="for 2 whole GPUs write 2x1"):
        Size.parse("2")


fractions = st.fractions(min_value=0, max_value=1).filter(lambda value: value > 0)
sizes = st.builds(Size, fraction=fractions, count=st.integers(1, 64)) | st.builds(
    Size, memory=st.integers(1, 10**15), count=st.integers(1, 64)
)


@given(sizes)
def test_the_canonical_text_reads_back(size: Size) -> None:
    text = str(size)
    if len(text) <= 64:
        assert Size.parse(text) == size


@given(st.integers(1, 1000), st.integers(1, 10**13))
def test_parts_never_exceed_the_whole(parts: int, capacity: int) -> None:
    share = Size(fraction=Fraction(1, parts)).bytes_of(capacity)
    assert parts * share <= capacity
    assert capacity - parts * share < parts


@given(st.decimals(min_value=0, max_value=1, places=6))
def test_decimals_do_not_drift(value: object) -> None:
    size = Size.parse(str(value))
    assert size.is_none or size.fraction == Fraction(str(value))


@given(st.text(max_size=80))
def test_any_text_is_a_size_or_a_size_error(text: str) -> None:
    try:
        Size.parse(text)
    except SizeError as error:
        assert "\n" not in str(error)  # noqa: PT017


@given(st.integers(1, 10**18))
def test_bytes_read_back(amount: int) -> None:
    assert parse_bytes(format_bytes(amount, exact=True)) == amount


def test_bytes_for_people() -> None:
    assert format_bytes(20 * GIB) == "20 GiB"
    assert format_bytes(3 * GIB // 2) == "1.5 GiB"
    assert format_bytes(512) == "512 B"
