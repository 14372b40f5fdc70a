"""Sentences as codes with values: English that is whole, and raw values beside it."""

from __future__ import annotations

import copy
import json
import pickle
import re
from typing import Any

import pytest
from sayable import VALUES, any_of

from jupyter_gpu_share.errors import NotPossible
from jupyter_gpu_share.sentences import paragraph, say, sentences_of, spell, words_of
from jupyter_gpu_share.sentences._said import placeholders
from jupyter_gpu_share.sentences._table import TABLE


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("code", TABLE)
def test_every_sentence_can_be_said_and_sent(code: str) -> None:
    said = any_of(code)
    assert said and "{" not in said
    (sent,) = json.loads(json.dumps(sentences_of(said)))
    assert sent["code"] == code
    assert sent["text"] == said
    assert sent["values"].keys() == placeholders(TABLE[code]).keys()


def test_codes_and_placeholders_are_plain_words() -> None:
    for code, template in TABLE.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code)
        assert all(re.fullmatch("[a-z]+", name) for name in placeholders(template))
        assert set(placeholders(template).values()) <= VALUES.keys()


def test_no_two_codes_say_the_same() -> None:
    assert len(set(TABLE.values())) == len(TABLE)


def test_values_are_raw() -> None:
    said = say("needs-room", need=40 * 2**30, room=0, whole=80 * 2**30)
    assert said == "It needs 40 GiB of one GPU; the emptiest has 0 B of 80 GiB free."
    (sent,) = sentences_of(said)
    assert sent["values"] == {"need": 40 * 2**30, "room": 0, "whole": 80 * 2**30}
    (sent,) = sentences_of(say("unused", since=VALUES["clock"]))
    assert sent["values"] == {"since": "2026-03-01T12:00:00.000Z"}


def test_a_value_that_is_missing_or_unknown_is_a_fault() -> None:
    with pytest.raises(TypeError, match="goes-after"):
        say("goes-after")
    with pytest.raises(TypeError, match="goes-after"):
        say("goes-after", after=1, before=2)
    with pytest.raises(KeyError):
        say("no-such-code")


def test_a_paragraph_keeps_its_sentences_and_the_words_of_others() -> None:
    said = paragraph(say("share-stays"), "", "The disk is full.")
    assert said == "The share stays. The disk is full."
    assert [(each["code"], each["text"]) for each in sentences_of(said)] == [
        ("share-stays", "The share stays."),
        (None, "The disk is full."),
    ]
    assert sentences_of("") == []


def test_a_sentence_within_another_keeps_its_code() -> None:
    said = say("no-room-to-resize", size="1", why=say("no-room", size="1"))
    assert said == "The size cannot become 1 now: Its GPU has no room for 1."
    (sent,) = sentences_of(said)
    (within,) = sent["values"]["why"]
    assert (within["code"], within["values"]) == ("no-room", {"size": "1"})


def test_an_error_keeps_its_sentences() -> None:
    error = NotPossible(say("cell-runs-now"))
    assert str(error) == TABLE["cell-runs-now"]
    assert sentences_of(words_of(error))[0]["code"] == "cell-runs-now"
    assert words_of(OSError(5, "no\nway")) == "[Errno 5] no way"


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_is_made_of_the_same_sentences(copied: Any) -> None:
    said = paragraph(say("goes-after", after=90), "Else.")
    assert copied(said) == said
    assert sentences_of(copied(said)) == sentences_of(said)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.5, "1 min"), (5400, "1 h 30 min"), (86400, "1 d")],
)
def test_spans(seconds: float, words: str) -> None:
    assert spell(seconds) == words
