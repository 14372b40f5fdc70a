"""Words of the cluster as users are told them: one line, not too long, without secrets. Pure."""

from __future__ import annotations

import re

__all__ = ["words_on"]

_LONGEST = 200
#: Who has the signed address of a part of an image, or one with a password, can use it.
_SIGNED = re.compile(r"(\w://[^\s?\"'<>]*)\?[^\s\"'<>]*")
_PASSWORD = re.compile(r"(\w://)[^\s/@\"']+@")


def words_on(text: str | None) -> str:
    """What the cluster says, as it is passed on."""
    line = " ".join((text or "").split())[: 10 * _LONGEST]
    line = _PASSWORD.sub(r"\1", _SIGNED.sub(r"\1?…", line))
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
