"""What `make test-gpu` says where there is nothing to try."""

from __future__ import annotations

import pytest
from gpu_process import missing


def test_this_machine_has_what_is_tried() -> None:
    if missing():
        pytest.skip(missing())
