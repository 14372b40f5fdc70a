"""Fixtures for the relay."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernels import House


@pytest.fixture
def house() -> Iterator[House]:
    """Kernels, clients and relays of one test. The folder's path is short: it holds sockets."""
    folder = Path(tempfile.mkdtemp(prefix="relay-"))
    own = House(folder)
    yield own
    own.close()
    shutil.rmtree(folder, ignore_errors=True)
