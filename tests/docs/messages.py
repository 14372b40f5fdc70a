"""The sentences in a package's code, as patterns: ``…`` stands for what is put in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from jupyter_gpu_share.sentences._table import TABLE

__all__ = ["literals", "sentences"]

_GAP = "…"
_VALUE = re.compile(r"\{[^}]*\}")
#: Begins as sentences do, and ends so; or goes on with what another one says.
_SENTENCE = re.compile(r"(?!……)(?:[A-Z…]|c\.[A-Z]).*(?:\.|\. …)", re.DOTALL)


def literals(path: Path) -> Iterator[str]:
    """All text in a module that is no docstring; values in f-strings are gaps."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped = set(_parts_of_text(tree)) | _docstrings(tree)
    for node in ast.walk(tree):
        if node not in skipped and (text := _text(node)) is not None:
            yield text


def sentences(path: Path) -> Iterator[str]:
    """What a module may say to somebody who uses it, but for what tells its own remedy.

    Those of ``doctor`` (``Finding``) do, and the help of options is no message. Pieces that stand
    within other sentences are left out.
    """
    tree = ast.parse(path.read_text("utf-8"))
    skipped = set(_parts_of_text(tree)) | _docstrings(tree)
    for node in ast.walk(tree):
        finding = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding"
        options = isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "options"
        if finding or options:
            skipped |= set(ast.walk(node))
    for node in ast.walk(tree):
        text = None if node in skipped else _text(node)
        if text is not None and len(text.split()) > 3 and _SENTENCE.fullmatch(text):
            yield text


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "say":
        code = node.args[0]
        # Elsewhere it is a variable, whose sentences are found where they are written.
        known = TABLE.get(code.value) if isinstance(code, ast.Constant) else None
        return None if known is None else _VALUE.sub(_GAP, known)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (v.value if isinstance(v, ast.Constant) else _GAP for v in node.values)
        return "".join(map(str, parts))
    return None


def _parts_of_text(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for value in node.values:
                yield from ast.walk(value)


def _docstrings(tree: ast.AST) -> set[ast.AST]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
