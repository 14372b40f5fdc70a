"""Each claim on isolation names the tests that show it, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

from jupyter_gpu_share.allocations import Isolation

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "isolation.md").read_text("utf-8")


def test_tests_that_are_named_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    sources = "".join(
        path.read_text("utf-8")
        for path in (ROOT / "tests").rglob("test_*.py")
        if path != Path(__file__)
    )
    assert len(named) > 20
    assert [name for name in sorted(named) if f"def {name}(" not in sources] == []


def test_every_isolation_has_a_claim() -> None:
    claims = [line for line in TEXT.splitlines() if line.startswith("| ")]
    for kind in Isolation:
        assert any(f"`{kind.value}`" in line.split("|")[1] for line in claims), kind


def test_every_claim_says_on_what_it_was_shown() -> None:
    table = TEXT.partition("## What shows each claim")[2]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert all(len(row) == 3 and all(row) for row in rows)
    assert "**No isolation was run on a GPU.**" in TEXT
