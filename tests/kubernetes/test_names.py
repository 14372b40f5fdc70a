"""Names, labels and annotations of objects in a cluster."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpu_share.engines.kubernetes._names import (
    MANAGED,
    annotation,
    label,
    label_value,
    note,
    object_name,
    selector,
    server_name,
)

#: As the API server has them: of a pod (also its host name), and of a label's value.
DNS = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

#: Any text that JSON can carry, half surrogate pairs too.
anything = st.text(st.characters(codec=None), max_size=80)
plausible = st.from_regex(r"[A-Za-z0-9._-]{0,70}", fullmatch=True)
texts = anything | plausible


@given(texts, texts, st.sampled_from(["", "lease", "gpu"]))
def test_a_name_is_always_a_dns_name(server: str, kernel_id: str, part: str) -> None:
    assert DNS.fullmatch(object_name(server, kernel_id, part))
    # Claims, and the leases that are numbered, add a little more.
    assert DNS.fullmatch(f"{object_name(server, kernel_id, part)}-0123abcd")


@given(st.tuples(texts, texts), st.tuples(texts, texts))
def test_two_kernels_never_have_one_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (object_name(*one) == object_name(*other)) == (one == other)


ALIKE = [
    ("a", "kernel"),
    ("a", "Kernel"),
    ("A", "kernel"),
    ("a", "kernel "),
    ("a", "kernel\n"),
    ("a", "kernel\0"),
    ("a\0kernel", ""),
    ("a", "\0kernel"),
    ("a\0", "kernel"),
    ("a/kernel", ""),
    ("a-kernel", ""),
    ("a", "ker\u200bnel"),
    ("a", "\u043aernel"),
    ("a", "kernel".translate({ord("k"): "\uff4b"})),
    ("a", "kern%65l"),
    ("a", "kern\\u0065l"),
    ("a", "\u00e9"),
    ("a", unicodedata.normalize("NFD", "\u00e9")),
    ("a", "\ud800"),
    ("a", "\ufffd"),
    ("a", '", "b'),
    ('a", "', "b"),
    ("a", "kernel-lease"),
    ("a", "kernel.lease"),
    ("a", "kernel_lease"),
]


def test_ids_that_look_alike_have_names_apart() -> None:
    assert len({object_name(server, kernel_id) for server, kernel_id in ALIKE}) == len(ALIKE)


def test_values_of_labels_that_look_alike_are_apart() -> None:
    ids = {kernel_id for _, kernel_id in ALIKE}
    assert len({label_value(kernel_id) for kernel_id in ids}) == len(ids)


def test_parts_of_one_kernel_have_names_apart_at_every_attempt_the_same() -> None:
    assert object_name("a", "k", "lease") == object_name("a", "k", "lease")
    assert object_name("a", "k", "lease") == object_name("a", "k") + "-lease"


@given(texts)
def test_values_of_labels_are_valid(text: str) -> None:
    assert LABEL.fullmatch(label_value(text))
    assert DNS.fullmatch(server_name(text))


@given(texts, texts)
def test_two_texts_never_have_one_value(one: str, other: str) -> None:
    assert (label_value(one) == label_value(other)) == (one == other)
    assert (server_name(one) == server_name(other)) == (one == other)


@given(texts)
def test_a_text_cannot_be_made_to_look_like_the_hash_of_another(text: str) -> None:
    hashed = label_value("not a label")
    assert label_value(hashed) != hashed
    assert server_name(server_name("Not DNS")) != server_name("Not DNS")
    assert label_value(text) != hashed or text == "not a label"


def test_a_plain_text_stays_itself() -> None:
    assert label_value("3f2a-Kernel.1") == "3f2a-Kernel.1"
    assert server_name("alice-1") == "alice-1"
    assert server_name("Alice") != "Alice"


def test_a_selector_finds_ours_only() -> None:
    assert selector() == "=".join(MANAGED)
    assert selector(server="alice", part="kernel").split(",")[1:] == [
        "gpu-share.jupyter.org/server=alice",
        "gpu-share.jupyter.org/part=kernel",
    ]


@pytest.mark.parametrize("value", ["", "a,b=c", "a b", "a)", "!a", "a\n", "x" * 64])
def test_a_selector_cannot_be_widened(value: str) -> None:
    with pytest.raises(ValueError, match="not the value of a label"):
        selector(kernel=value)


@given(anything)
def test_a_note_is_the_text_itself_where_an_annotation_can_hold_it(text: str) -> None:
    kept = note(text)
    assert kept.encode().decode() == kept
    assert kept == text or "?" in kept


def test_a_note_is_not_endless() -> None:
    assert note("x" * 1024) == "x" * 1024
    assert note("x" * 5000) == "x" * 1023 + "…"


def test_what_is_missing_reads_as_empty() -> None:
    for obj in (None, {}, {"metadata": None}, {"metadata": {"labels": None}}):
        assert label(obj, "a") == ""
        assert annotation(obj, "a") == ""
    full = {
        "metadata": {"labels": {"a": "1"}, "annotations": {"gpu-share.jupyter.org/size": "1/4"}}
    }
    assert (label(full, "a"), annotation(full, "size")) == ("1", "1/4")
