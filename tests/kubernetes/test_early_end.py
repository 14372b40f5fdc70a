"""A pod that is deleted before the answer to its creation has come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.engines.kubernetes._kernel import PodKernel


def gone(name: str, uid: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid}, "status": {"phase": "Pending"}}


@pytest.mark.timeout(PATIENCE)
async def test_its_end_is_not_overlooked() -> None:
    backend = SimpleNamespace(reclaimed=lambda pod: "")
    cluster: Any = SimpleNamespace(server="alice", pod=lambda name: None, backend=backend)
    request: Any = SimpleNamespace(kernel_id="k-1")
    one = PodKernel(cluster, request)
    one.note(gone(f"{one.name}-gpu", "u-1"))  # a claim of its
    one.note(gone("another", "u-2"))
    assert not one._ended.done()
    one.note(gone(one.name, "u-3"))
    assert "deleted in the cluster" in (await one.ended()).reason
    known = PodKernel(cluster, request)
    known._uid = "u-4"
    known.note(gone(known.name, "u-5"))  # of an earlier one of this name
    assert not known._ended.done()
