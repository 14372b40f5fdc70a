"""A home of all users' kernels with a fake cluster, and one user of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from homes import FakeHome, User, fake_home


@pytest.fixture
async def home() -> AsyncIterator[FakeHome]:
    async with fake_home() as made:
        yield made


@pytest.fixture
def ann(home: FakeHome) -> User:
    return home.user("ann")
