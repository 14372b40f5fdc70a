"""The page says every sentence of the server, with the same words and the same values."""

from __future__ import annotations

import re
from pathlib import Path

from jupyter_gpu_share.sentences._said import placeholders
from jupyter_gpu_share.sentences._table import TABLE

PAGE = Path(__file__).parents[2] / "labextension" / "src" / "tellers.ts"
_ROW = re.compile(r"'?([a-z-]+)'?: (?:v|\(\)) =>\s*trans\.__\(")
_TEXT = re.compile(r"\s*(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\")")
_VALUE = re.compile(r"v\.(\w+)\('(\w+)'\)")


def page_table(source: str) -> dict[str, str]:
    """The strings of the page as the server's table has them, by code."""
    table = source[source.index("function tellers") :]
    _, *rows = _ROW.split(table)
    return {code: _shown(rest) for code, rest in zip(rows[::2], rows[1::2], strict=True)}


def _shown(rest: str) -> str:
    literal = _TEXT.match(rest)
    assert literal, rest
    values = _VALUE.findall(rest)

    def shown(number: re.Match[str]) -> str:
        kind, name = values[int(number[1]) - 1]
        return f"{{{name}}}" if kind == "text" else f"{{{name}:{kind}}}"

    text = re.sub(r"%(\d+)", shown, literal[1] or literal[2])
    return text.replace("%%", "%")


def test_the_page_has_every_sentence_and_no_other() -> None:
    assert page_table(PAGE.read_text("utf-8")) == dict(TABLE)


def test_a_sentence_that_differs_is_seen() -> None:
    source = "function tellers\n 'goes-after': v => trans.__('It goes %1.', v.span('after')),"
    assert page_table(source) == {"goes-after": "It goes {after:span}."}
    assert placeholders("{after:span}") == {"after": "span"}
