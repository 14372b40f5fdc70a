"""A fake driver of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_driver import FakeDriver


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[FakeDriver]:
    """With two GPUs."""
    made = FakeDriver(tmp_path / "driver", 2)
    yield made
    made.close()
