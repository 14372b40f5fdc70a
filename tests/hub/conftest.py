"""A real JupyterHub, for all tests here that need no settings of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hubs import RunningHub, running_hub


@pytest.fixture(scope="session")
def hub() -> Iterator[RunningHub]:
    with running_hub() as running:
        yield running
