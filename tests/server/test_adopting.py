"""A server looks for kernels of an earlier process for as long as more may come."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import eventually

from jupyter_gpu_share.engines.base import Adoptable
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.server import _adopt
from jupyter_gpu_share.size import Size


class FakeRuntime:
    """Has a kernel that somebody else holds until its look number ``free_at``."""

    engine_name = "kubernetes"
    kept_folder = None

    def __init__(self, free_at: int, fails: int = 0) -> None:
        self.looks, self.free_at, self.fails = 0, free_at, fails
        self.adopted: dict[str, Adoptable] = {}

    async def inherit(self, root: str) -> list[Adoptable]:
        return []

    async def adoptable(self) -> list[Adoptable]:
        self.looks += 1
        if self.looks <= self.fails:
            raise EngineError("The broker is away.")
        if self.more_to_adopt:
            return []
        return [Adoptable("k", "python3", Size.parse("1/4"))]

    @property
    def more_to_adopt(self) -> bool:
        return self.looks < self.free_at


class FakeManager(dict[str, Any]):
    async def start_kernel(self, *, kernel_id: str, **fields: Any) -> str:
        self[kernel_id] = fields
        return kernel_id


@pytest.mark.parametrize("fails", [0, 10])
async def test_what_another_process_still_has_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    monkeypatch.setattr(_adopt, "_PAUSES", (0.0, 0.001, 0.002))
    runtime, manager = FakeRuntime(free_at=20, fails=fails), FakeManager()
    server = SimpleNamespace(root_dir=".", kernel_manager=manager)
    task = asyncio.create_task(_adopt.adopt_kernels(server, runtime))  # type: ignore[arg-type]
    await eventually(lambda: "k" in manager, "it is taken over")
    await asyncio.wait_for(task, 10)
    assert runtime.looks == 20


async def test_it_ends_where_nothing_more_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_adopt, "_PAUSES", (0.0, 0.001, 0.002))
    runtime = FakeRuntime(free_at=0)
    server = SimpleNamespace(root_dir=".", kernel_manager=FakeManager())
    await asyncio.wait_for(_adopt.adopt_kernels(server, runtime), 10)  # type: ignore[arg-type]
    assert runtime.looks == 3
