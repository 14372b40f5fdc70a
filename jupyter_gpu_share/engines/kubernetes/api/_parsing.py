"""An answer of the API server, parsed without holding up whatever else runs.

Lists of a large cluster have tens of megabytes: where pages expire, or where the server answers
from its memory, they come in one piece. A thread would not help: the parser holds Python's lock.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from json import JSONDecodeError
from typing import Any

__all__ = ["parsed"]

Object = dict[str, Any]
Keep = Callable[[Object], "Object | None"]

#: Characters that are parsed in one go: some milliseconds.
_PIECE = 2**18
_SPACES = (" ", "\t", "\n", "\r")

_decode = json.JSONDecoder().raw_decode


async def parsed(data: bytes, keep: Keep | None = None) -> Any:
    """What JSON says. Of a list's ``items`` there is never more than one that is not kept.

    Parameters
    ----------
    keep: what is kept of each item, None for nothing.

    Raises
    ------
    JSONDecodeError, UnicodeDecodeError: it is no JSON; if it is long, it has to be an object.
    """
    if len(data) > _PIECE:
        return await _in_pieces(data.decode(), keep)
    answer = json.loads(data)
    if keep is not None and isinstance(answer, dict) and answer.get("items"):
        answer["items"] = [kept for each in answer["items"] if (kept := keep(each)) is not None]
    return answer


async def _in_pieces(text: str, keep: Keep | None) -> Object:
    answer: Object = {}
    sign, at = _sign(text, 0)
    if sign != "{":
        raise JSONDecodeError("it is no object", text, 0)
    while sign != "}":
        key, at = _decode(text, _begin(text, at))
        sign, at = _sign(text, at)
        if sign != ":" or not isinstance(key, str):
            raise JSONDecodeError("there is no name", text, at)
        at = _begin(text, at)
        if key == "items" and text.startswith("[", at):
            answer[key], at = await _items(text, at + 1, keep)
        else:
            answer[key], at = _decode(text, at)
        sign, at = _sign(text, at)
        if sign not in {",", "}"}:
            raise JSONDecodeError("it does not go on", text, at)
    if _begin(text, at) != len(text):
        raise JSONDecodeError("something comes after it", text, at)
    return answer


async def _items(text: str, at: int, keep: Keep | None) -> tuple[list[Object], int]:
    """The items of a list, from after its bracket, and where it has ended."""
    items: list[Object] = []
    sign, end = _sign(text, at)
    if sign == "]":
        return items, end
    paused = at
    while sign != "]":
        item, at = _decode(text, _begin(text, at))
        if keep is None:
            items.append(item)
        elif (kept := keep(item)) is not None:
            items.append(kept)
        sign, at = _sign(text, at)
        if sign not in {",", "]"}:
            raise JSONDecodeError("it does not go on", text, at)
        if at - paused > _PIECE:
            await asyncio.sleep(0)
            paused = at
    return items, at


def _begin(text: str, at: int) -> int:
    """Where something begins again after spaces."""
    while text.startswith(_SPACES, at):
        at += 1
    return at


def _sign(text: str, at: int) -> tuple[str, int]:
    """The next sign, empty at the end, and where the text goes on."""
    at = _begin(text, at)
    return text[at : at + 1], at + 1
