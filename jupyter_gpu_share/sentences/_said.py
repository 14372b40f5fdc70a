"""Sentences as text with a code and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from string import Formatter
from typing import Any

from .._text import one_line, written
from ._formats import format_bytes, spell
from ._table import TABLE

__all__ = ["Said", "Sentence", "paragraph", "placeholders", "say", "sentences_of", "words_of"]


@dataclass(frozen=True)
class Sentence:
    """One sentence.

    Attributes
    ----------
    text: complete English.
    code: of the table; None where the words are somebody else's.
    values: raw, by the names of the template's placeholders.
    """

    text: str
    code: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As REST and events carry it: amounts in bytes, spans in seconds, times in RFC 3339."""
        kinds = placeholders(TABLE[self.code]) if self.code is not None else {}
        values = {name: _KINDS[kinds[name]].plain(value) for name, value in self.values.items()}
        return {"code": self.code, "values": values, "text": " ".join(self.text.split())}


class Said(str):
    """Text that knows the sentences it is made of. It is made by :func:`say`."""

    sentences: tuple[Sentence, ...]

    def __new__(cls, *sentences: Sentence) -> Said:  # noqa: PYI034 (Python 3.10 has no Self)
        self = super().__new__(cls, " ".join(each.text for each in sentences))
        self.sentences = sentences
        return self

    def __getnewargs__(self) -> Any:
        # A copy, and what arrives from another process, is made of the same sentences.
        return self.sentences


def say(code: str, /, **values: Any) -> Said:
    """The sentence of a code.

    Parameters
    ----------
    values: one for each placeholder of the template, of its kind; see ``_table.py``.

    Raises
    ------
    KeyError: there is no such code.
    TypeError: the values are not those of the template.
    """
    template = TABLE[code]
    kinds = placeholders(template)
    if kinds.keys() != values.keys():
        raise TypeError(f"{code!r} takes {sorted(kinds)}, not {sorted(values)}.")
    words = {name: _KINDS[kind].words(values[name]) for name, kind in kinds.items()}
    text = "".join(
        literal + ("" if name is None else words[name])
        for literal, name, _, _ in Formatter().parse(template)
    )
    return Said(Sentence(text, code, values))


def paragraph(*texts: str) -> Said:
    """Texts one after the other; empty ones are left out."""
    return Said(*(sentence for text in texts for sentence in _sentences(text)))


def sentences_of(text: str) -> list[dict[str, Any]]:
    """The sentences of a text as plain data: ``code``, ``values`` and ``text`` of each."""
    return [sentence.to_json() for sentence in _sentences(text)]


def words_of(error: BaseException) -> str:
    """What an error says in one line, with its sentences where it was made of some."""
    first = error.args[0] if len(error.args) == 1 else None
    return first if isinstance(first, Said) else one_line(str(error))


def placeholders(template: str) -> dict[str, str]:
    """The kinds of a template's placeholders, by their names."""
    found = {name: kind for _, name, kind, _ in Formatter().parse(template) if name is not None}
    return {name: kind or "text" for name, kind in found.items()}


def _sentences(text: str) -> Iterator[Sentence]:
    if isinstance(text, Said):
        yield from text.sentences
    elif text:
        yield Sentence(text)


@dataclass(frozen=True)
class _Kind:
    """How a value is written in English, and as plain data."""

    words: Callable[[Any], str]
    plain: Callable[[Any], Any]


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone():%H:%M}"


def _plain_list(values: Sequence[str]) -> list[Any]:
    return [sentences_of(value) for value in values]


_KINDS: Mapping[str, _Kind] = {
    "text": _Kind(lambda value: one_line(str(value)), lambda value: one_line(str(value))),
    "size": _Kind(str, str),
    "number": _Kind(lambda value: f"{value:g}", lambda value: value),
    "bytes": _Kind(format_bytes, int),
    "span": _Kind(spell, float),
    "percent": _Kind(lambda value: f"{value:.0%}", float),
    "clock": _Kind(_clock, written),
    "said": _Kind(str, sentences_of),
    "list": _Kind(", ".join, _plain_list),
}
