"""What can be had now is one look for all offered sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from jupyter_gpu_share.engines.local import LocalEngine
from jupyter_gpu_share.errors import EngineError, SizeNotAllowed
from jupyter_gpu_share.runtime import Runtime
from jupyter_gpu_share.size import Size


@pytest.mark.usefixtures("one_gpu")
async def test_the_engine_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[Size]] = []
    fits_each = LocalEngine.fits_each

    async def counted(self: LocalEngine, kernel_id: str | None, sizes: Sequence[Size]) -> Any:
        asked.append(sizes)
        return await fits_each(self, kernel_id, sizes)

    monkeypatch.setattr(LocalEngine, "fits_each", counted)
    offers = await Runtime.instance().offers()
    assert all(why is None for _, why in offers)
    assert sorted(len(sizes) for sizes in asked) == [1, len(offers) - 1]  # no GPU, and all others


@pytest.mark.usefixtures("one_gpu")
async def test_no_gpu_can_be_had_where_the_engine_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(self: LocalEngine) -> Any:
        raise EngineError("The ledger is held\nby another program.")

    monkeypatch.setattr(LocalEngine, "_gpus", fails)
    offers = {str(offer.size): why for offer, why in await Runtime.instance().offers()}
    assert offers.pop("0") is None
    assert set(offers.values()) == {"The ledger is held by another program."}


@pytest.mark.usefixtures("one_gpu")
async def test_what_the_rules_refuse_is_not_asked_for() -> None:
    runtime = Runtime.instance()
    runtime.policy.max_total = "1/4"
    offers = {str(offer.size): why for offer, why in await runtime.offers()}
    assert offers["1/4"] is None
    assert "your kernels would hold" in str(offers["1/2"])


@pytest.mark.usefixtures("one_gpu")
async def test_bounds_hold_on_gpus_that_are_still_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime.instance()
    (gpu,) = await runtime.capacity()
    runtime.policy.maximum = f"{gpu.memory_bytes // 2**20}MiB"
    await runtime.admit(None, Size.parse("1"))
    monkeypatch.setattr(LocalEngine, "memory_to_come", [gpu.memory_bytes * 2])
    with pytest.raises(SizeNotAllowed):
        await runtime.admit(None, Size.parse("1"))
    offers = {str(offer.size): why for offer, why in await runtime.offers()}
    assert offers["1/2"] is None
    assert offers["1"] is not None


@pytest.mark.parametrize("limits", [{"maximum": "40GiB"}, {"max_total": "40GiB"}])
@pytest.mark.usefixtures("one_gpu")
async def test_a_bound_that_cannot_be_reckoned_holds(
    limits: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes of some clouds do not tell how much memory their GPUs have."""
    runtime = Runtime.instance()
    monkeypatch.setattr(LocalEngine, "memory_to_come", [0])
    for size in ("1/4", "1", "10GiB"):
        await runtime.admit(None, Size.parse(size))
    for name, text in limits.items():
        setattr(runtime.policy, name, text)
    with pytest.raises(SizeNotAllowed, match="is not known"):
        await runtime.admit(None, Size.parse("1/4"))
    await runtime.admit(None, Size.parse("10GiB"))
    runtime.policy.max_total, runtime.policy.maximum = "2", "1/2"
    await runtime.admit(None, Size.parse("10GiB"))
