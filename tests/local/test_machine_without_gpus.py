"""A machine whose only GPU is lost while kernels run and wait, and comes back; NVML is made up."""

from __future__ import annotations

from collections.abc import Callable, Collection
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import pytest

from jupyter_gpu_share.allocations import Device, Isolation, Share
from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.engines.local import _machine, _usage
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._inventory import Inventory, ProcessUse, real_use
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.engines.local._machine import Machine
from jupyter_gpu_share.errors import AbsentGpuError
from jupyter_gpu_share.size import Size

T = TypeVar("T")

GIB = 2**30
GPU = Gpu("GPU-0", "A100", 0, 80 * GIB)
SHARE = Share((Device("GPU-0", "A100", "here"),), 40 * GIB, Fraction(1, 2), Isolation.FRAMEWORK)


async def test_the_only_gpu_is_lost_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, changes = Ledger(tmp_path / "ledger.db"), []
    there = [GPU]

    async def at_ledger(work: Callable[[Ledger], T]) -> T:
        return work(ledger)

    def look(simulate: str | None) -> Inventory:
        if not there:
            raise AbsentGpuError("GPU 0 does not answer.")
        return Inventory(tuple(there), in_use={})

    def use(gpus: tuple[Gpu, ...], pids: Collection[int]) -> dict[int, ProcessUse]:
        return {} if gpus else real_use(gpus, pids)

    monkeypatch.setattr(_machine, "inventory", look)
    monkeypatch.setattr(_usage, "real_use", use)
    monkeypatch.setattr(_machine, "_INTERVAL", 0.0)
    machine = Machine(at_ledger, lambda: changes.append(1), lambda: "", lambda: tmp_path)
    await machine.gpus()
    ledger.claim("runs", Size.parse("1"), this_process(), {})
    assert not ledger.claim("waits", Size.parse("1/2"), this_process(), {}).held

    there.clear()
    before = len(changes)
    for _ in range(2):
        with pytest.raises(AbsentGpuError):
            await machine.gpus()
    assert len(changes) == before + 1, "those that wait are told why, once"
    readings = await machine.read({"runs": 2**30})
    assert "does not answer any more" in machine.news(SHARE, readings["runs"])
    ledger.release("runs")
    assert not ledger.turn("waits").held, "it is not granted a GPU that is lost"

    there.append(GPU)
    assert (await machine.gpus()).gpus == (GPU,)
    assert ledger.turn("waits").held
    ledger.close()


async def test_where_none_ever_was_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_ledger(work: Callable[[Ledger], T]) -> T:
        raise AssertionError("there is nothing to tell a ledger")

    def look(simulate: str | None) -> Inventory:
        raise AbsentGpuError("None.")

    monkeypatch.setattr(_machine, "inventory", look)
    machine = Machine(at_ledger, lambda: None, lambda: "", lambda: tmp_path)
    with pytest.raises(AbsentGpuError):
        await machine.read({})
