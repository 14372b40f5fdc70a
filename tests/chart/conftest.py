"""A folder in which Helm keeps what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Helm's home."""
    return tmp_path_factory.mktemp("helm")
