"""Sentences between a broker and a server: none is lost, and none is believed blindly."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from jupyter_gpu_share.sentences import heard, paragraph, say, sentences_of, told
from jupyter_gpu_share.sentences._said import placeholders
from jupyter_gpu_share.sentences._table import TABLE

VALUES: dict[str, Any] = {
    "text": "what",
    "size": "1/4",
    "number": 3,
    "bytes": 20 * 2**30,
    "span": 90.0,
    "percent": 0.25,
    "clock": datetime(2026, 3, 1, 12, tzinfo=timezone.utc),
    "said": say("cell-runs-now"),
    "list": ["one", say("all-variables")],
}


def sent(text: str) -> dict[str, Any]:
    """What arrives of it."""
    found = json.loads(json.dumps(told("reason", text)))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("code", TABLE)
def test_every_sentence_arrives_with_its_code_and_raw_values(code: str) -> None:
    kinds = placeholders(TABLE[code])
    said = say(code, **{name: VALUES[kind] for name, kind in kinds.items()})
    found = heard(sent(said), "reason")
    assert found == said
    assert sentences_of(found) == sentences_of(said)
    assert sentences_of(found)[0]["code"] == code
    assert heard(sent(found), "reason") == said, "and can be passed on"


def test_words_of_others_are_sent_as_text_alone() -> None:
    assert sent("The disk\nis full.") == {"reason": "The disk is full."}
    assert sent("") == sent(paragraph()) == {"reason": ""}
    assert heard({"reason": "The disk is full."}, "reason") == "The disk is full."
    assert heard({"reason": None}, "reason") == heard({}, "reason") == ""


def test_a_paragraph_with_words_of_others_keeps_both() -> None:
    said = paragraph(say("has-ended"), "The node said no.")
    assert [each["code"] for each in sentences_of(heard(sent(said), "reason"))] == [
        "has-ended",
        None,
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"code": "of-a-later-version"},
        {"values": {}},
        {"values": {"size": "1", "more": 1}},
    ],
)
def test_a_sentence_of_another_version_stays_the_text_that_it_is(change: dict[str, Any]) -> None:
    data = sent(say("no-room", size="1"))
    data["reason_sentences"][0].update(change)
    found = heard(data, "reason")
    assert found == "Its GPU has no room for 1."
    assert [each["code"] for each in sentences_of(found)] == [None]


@pytest.mark.parametrize(
    "sentences",
    [
        None,
        {},
        "text",
        [None],
        [{}],
        [{"text": 5, "code": None, "values": {}}],
        [{"text": "Its GPU has no room for 1.", "code": "no-room", "values": None}],
        [{"text": "Its GPU has no room for 1.", "code": "no-room", "values": {"size": 1}}],
        [{"text": "Its GPU has no room for 1.", "code": ["no-room"], "values": {"size": "1"}}],
        [{"text": "Something else.", "code": "no-room", "values": {"size": "1"}}],
    ],
)
def test_what_makes_no_sense_or_says_something_else_is_not_believed(sentences: Any) -> None:
    data = {"reason": "Its GPU has no room for 1.", "reason_sentences": sentences}
    found = heard(data, "reason")
    assert found == data["reason"]
    assert [each["code"] for each in sentences_of(found)] == [None]


@pytest.mark.parametrize(
    ("code", "name", "value"),
    [
        ("needs-room", "need", "20"),
        ("needs-room", "need", float("nan")),
        ("needs-room", "need", True),
        ("unused", "since", "soon"),
        ("unused", "since", "2026-03-01T12:00:00"),
        ("no-room-to-resize", "why", "text"),
        ("works", "what", "text"),
    ],
)
def test_a_value_of_another_kind_is_not_believed(code: str, name: str, value: Any) -> None:
    kinds = placeholders(TABLE[code])
    data = sent(say(code, **{each: VALUES[kind] for each, kind in kinds.items()}))
    data["reason_sentences"][0]["values"][name] = value
    assert [each["code"] for each in sentences_of(heard(data, "reason"))] == [None]
