"""Long answers of the API server, parsed while other things go on."""

from __future__ import annotations

import asyncio
import json
import random
from json import JSONDecodeError
from typing import Any

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.engines.kubernetes.api import _parsing
from jupyter_gpu_share.engines.kubernetes.api._parsing import parsed

pytestmark = pytest.mark.timeout(PATIENCE)


@pytest.fixture
def everything_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_parsing, "_PIECE", 0)


def anything(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(7 if depth < 4 else 5)
    if kind == 5:
        return [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind == 6:
        names = ["items", "metadata", 'a"b', "ü", "", "x"]
        return {chance.choice(names): anything(chance, depth + 1) for _ in range(3)}
    return [None, True, -1.5e3, 'ü"\\\n]},{[', 12][kind]


@pytest.mark.usefixtures("everything_is_long")
async def test_what_is_parsed_in_pieces_is_what_json_says() -> None:
    chance = random.Random(7)
    for turn in range(500):
        answer = {"kind": "PodList", "items": anything(chance), "more": anything(chance)}
        if turn % 3:
            answer["items"] = [anything(chance) for _ in range(chance.randrange(4))]
        for indent in (None, 2):
            data = f" {json.dumps(answer, indent=indent, ensure_ascii=turn % 2 == 0)}\n"
            assert await parsed(data.encode()) == answer


@pytest.mark.usefixtures("everything_is_long")
async def test_what_ends_too_early_or_goes_wrong_is_no_answer() -> None:
    data = json.dumps({"kind": "PodList", "items": [{"a": "ü"}, {}], "more": {"b": [1]}}).encode()
    for end in range(1, len(data)):
        with pytest.raises((JSONDecodeError, UnicodeDecodeError)):
            await parsed(data[:end])
    for wrong in (b"[1]", b"<html>", b'{"a": 1}{', b'{"items": [1 2]}', b'{"items": [1,]}'):
        with pytest.raises(JSONDecodeError):
            await parsed(wrong)
    for wrong in (b'{1: 2, "items": []}', b'{"a": 1,}', b'{"a" 1}', b'{"a": 1 "b": 2}', b"\xff{}"):
        with pytest.raises((JSONDecodeError, UnicodeDecodeError)):
            await parsed(wrong)


@pytest.mark.parametrize("count", [10, 1000])
async def test_what_is_not_kept_is_left_out(count: int) -> None:
    answer = {"items": [{"n": n, "note": "x" * 1000} for n in range(count)], "kind": "PodList"}
    kept = await parsed(
        json.dumps(answer).encode(), lambda each: {"n": each["n"]} if each["n"] % 2 else None
    )
    assert kept == {"kind": "PodList", "items": [{"n": n} for n in range(1, count, 2)]}


async def test_others_go_on_while_a_long_list_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 pods are tens of megabytes: in one go they would hold up all kernels for a second."""
    monkeypatch.setattr(_parsing, "_PIECE", 10_000)
    data = json.dumps({"items": [{"note": "x" * 1000}] * 200}).encode()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(others())
    assert len((await parsed(data))["items"]) == 200
    other.cancel()
    assert turns >= len(data) // 10_000 // 2


async def test_an_error_of_who_keeps_is_no_fault_of_the_answer() -> None:
    def keep(each: Any) -> Any:
        raise ValueError("a quantity that is none")

    with pytest.raises(ValueError, match="a quantity that is none"):
        await parsed(b'{"items": [{}]}', keep)
