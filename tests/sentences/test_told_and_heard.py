"""Sentences between a broker and a server: none is lost, and none is believed blindly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sayable import any_of

from jupyter_gpu_share.sentences import heard, paragraph, say, sentences_of, told
from jupyter_gpu_share.sentences._table import TABLE

#: A sentence within a sentence arrives with its code, too.
SAID = say("cell-runs-now")


def sent(text: str) -> dict[str, Any]:
    """What arrives of it."""
    found = json.loads(json.dumps(told("reason", text)))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("code", TABLE)
def test_every_sentence_arrives_with_its_code_and_raw_values(code: str) -> None:
    said = any_of(code, said=SAID)
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
    data = sent(any_of(code, said=SAID))
    data["reason_sentences"][0]["values"][name] = value
    assert [each["code"] for each in sentences_of(heard(data, "reason"))] == [None]
