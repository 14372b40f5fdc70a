"""Fixtures for kernels under kernel managers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from managers import Kernels


@pytest.fixture
async def kernels() -> AsyncIterator[Kernels]:
    own = Kernels()
    yield own
    await own.close()
