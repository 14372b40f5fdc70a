"""What the server says to a person: sentences that are a code with values, and English text.

A sentence is a ``str`` of complete English for all who read text: REST's ``reason``, the command
line, logs. The code and the raw values are beside it, so that a page says the same in another
language and formats times and amounts as they are written there. What comes from elsewhere, such
as the words of a driver, has no code and stays as it is, also as a value of a sentence.

To add one: a row of ``_table.py``, its string in ``labextension/src/tellers.ts``, and
``scripts/catalogues.py`` for the translators' files. Nothing is glued together within a sentence;
:func:`paragraph` sets whole ones side by side. Between a broker and a server they travel by
:func:`told` and :func:`heard`.
"""

from __future__ import annotations

from ._formats import format_bytes, spell
from ._said import Said, Sentence, paragraph, say, sentences_of, words_of
from ._wire import heard, told

__all__ = [
    "Said",
    "Sentence",
    "format_bytes",
    "heard",
    "paragraph",
    "say",
    "sentences_of",
    "spell",
    "told",
    "words_of",
]
