"""A value for each kind of placeholder, and each sentence with such values."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from jupyter_gpu_share.sentences import say
from jupyter_gpu_share.sentences._said import placeholders
from jupyter_gpu_share.sentences._table import TABLE

#: A value of each kind, as code has it.
VALUES: dict[str, Any] = {
    "text": "what",
    "size": "1/4",
    "number": 3,
    "bytes": 20 * 2**30,
    "span": 90.0,
    "percent": 0.25,
    "clock": datetime(2026, 3, 1, 12, tzinfo=timezone.utc),
    "said": "Its driver said no.",
    "list": ["one", say("all-variables")],
}


def any_of(code: str, **other: Any) -> str:
    """The sentence of a code; ``other`` values by their kind."""
    kinds = placeholders(TABLE[code])
    return say(code, **{name: {**VALUES, **other}[kind] for name, kind in kinds.items()})
