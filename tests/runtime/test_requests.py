"""Sizes asked for ahead of their kernel, and the hint in a notebook."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jupyter_gpu_share.size import RequestStore, Size, size_in_notebook

QUARTER, HALF = Size.parse("1/4"), Size.parse("1/2")


def test_a_request_is_used_once() -> None:
    store = RequestStore()
    store.put("k", QUARTER)
    store.put("k", HALF)
    assert store.get("k") == HALF
    assert store.take("k") == HALF
    assert store.take("k") is None


def test_the_oldest_give_way() -> None:
    store = RequestStore(limit=2)
    for name in "abc":
        store.put(name, QUARTER)
    assert [store.get(name) for name in "abc"] == [None, QUARTER, QUARTER]


def test_requests_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("jupyter_gpu_share.size._requests.time.monotonic", lambda: now)
    store = RequestStore(lifetime=10)
    store.put("k", QUARTER)
    now = 109.9
    assert store.get("k") == QUARTER
    now = 110.0
    assert store.take("k") is None


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ({"metadata": {"jupyter_gpu_share": {"size": "1/2"}}}, "1/2"),
        ({"metadata": {"jupyter_gpu_share": {"size": 3}}}, None),
        ({"metadata": {"jupyter_gpu_share": []}}, None),
        ({"metadata": {}}, None),
        ([], None),
    ],
)
def test_the_hint_of_a_notebook(tmp_path: Path, content: object, hint: str | None) -> None:
    file = tmp_path / "a.ipynb"
    file.write_text(json.dumps(content))
    assert size_in_notebook(file) == hint


def test_what_is_no_notebook_has_no_hint(tmp_path: Path) -> None:
    broken = tmp_path / "b.ipynb"
    broken.write_bytes(b"\xff{")
    deep = tmp_path / "deep.ipynb"
    deep.write_text("[" * 100_000)
    text = tmp_path / "c.txt"
    text.write_text('{"metadata": {"jupyter_gpu_share": {"size": "1/2"}}}')
    for file in (broken, deep, text, tmp_path / "missing.ipynb", tmp_path):
        assert size_in_notebook(file) is None
