"""Texts on their way between a broker and the servers of users, with their sentences beside them.

A field of JSON has the English text, whoever reads it. The field of its name with ``_sentences`` is
there where the text is made of sentences that have a code; a reader of before does not know it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .._text import moment_in, number_in, one_line
from ._said import Said, Sentence, placeholders, sentences_of
from ._table import TABLE

__all__ = ["heard", "told"]

_SENTENCES = "_sentences"


def told(name: str, text: str) -> dict[str, Any]:
    """The fields by which a text is told in one line."""
    found: dict[str, Any] = {name: one_line(str(text))}
    if isinstance(text, Said) and text:
        found[name + _SENTENCES] = sentences_of(text)
    return found


def heard(data: Mapping[str, Any], name: str) -> str:
    """The text of a field with its sentences, as far as they are known here.

    What comes from another version, or does not say the same, stays the text that it is.
    """
    text = data.get(name)
    line = one_line(str(text)) if text else ""
    try:
        said = _said(data.get(name + _SENTENCES))
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
    ):
        return line
    return said if said == line else line


def _said(rows: Any) -> Said:
    if not isinstance(rows, list):
        raise TypeError("no sentences")
    return Said(*(_sentence(row) for row in rows))


def _sentence(row: Any) -> Sentence:
    text, code = one_line(_text(row["text"])), row["code"]
    if code is None or code not in TABLE:
        return Sentence(text)
    kinds, values = placeholders(TABLE[code]), row["values"]
    if kinds.keys() != values.keys():
        return Sentence(text)
    read = {name: _READ[kind](values[name]) for name, kind in kinds.items()}
    return Sentence(text, str(code), read)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _list(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return [_said(each) for each in value]


#: How a value of each kind is read that was sent.
_READ: Mapping[str, Callable[[Any], Any]] = {
    "text": _text,
    "size": _text,
    "number": number_in,
    "bytes": lambda value: int(number_in(value)),
    "span": number_in,
    "percent": number_in,
    "clock": moment_in,
    "said": _said,
    "list": _list,
}
