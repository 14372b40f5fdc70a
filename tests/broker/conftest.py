"""A broker that several users reach."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker_users import ANN, BOB, RunningBroker, User, is_root, user


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own may only be entered by their user."""
    if not is_root():
        pytest.skip("only root can be several users")
    own = Path(tempfile.mkdtemp(prefix="gpu-share-broker-"))
    own.chmod(0o755)
    yield own
    shutil.rmtree(own)


@pytest.fixture
def broker(common: Path) -> Iterator[RunningBroker]:
    """One simulated GPU of 80 GiB."""
    running = RunningBroker(common)
    running.start()
    try:
        yield running
    finally:
        running.kill()


@pytest.fixture
def ann(broker: RunningBroker) -> Iterator[User]:
    with user(ANN, broker.socket) as own:
        yield own


@pytest.fixture
def bob(broker: RunningBroker) -> Iterator[User]:
    with user(BOB, broker.socket) as own:
        yield own
