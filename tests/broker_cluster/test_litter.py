"""How often Python looks for objects that only hold each other."""

from __future__ import annotations

import gc
import weakref

import pytest
from waiting import eventually

from jupyter_gpu_share.broker.cluster import litter


class _Ring:
    """Holds itself."""

    def __init__(self) -> None:
        self.itself = self


async def test_all_is_looked_through_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gc.get_threshold()
    monkeypatch.setattr(litter, "_ALL", 0.05)
    async with litter.seldom_looked_for():
        assert gc.get_threshold()[2] > before[2], "it is not done whenever much is new"
        ring = _Ring()
        gc.collect(1)  # it has stayed for a while
        gone = weakref.ref(ring)
        del ring
        await eventually(lambda: gone() is None, "it is found")
    assert gc.get_threshold() == before
