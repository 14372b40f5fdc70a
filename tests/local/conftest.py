"""What several users have in common."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from users import GROUP


@pytest.fixture
def folder() -> Iterator[Path]:
    """That a group may write, as an administrator makes it; pytest's own only its user enters."""
    if os.getuid() != 0:
        pytest.skip("only root can be several users")
    own = Path(tempfile.mkdtemp(prefix="gpu-share-common-"))
    os.chown(own, 0, GROUP)
    own.chmod(0o2770)
    yield own
    shutil.rmtree(own)
