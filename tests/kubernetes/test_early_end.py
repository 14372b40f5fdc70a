"""A pod that is deleted before the answer to its creation has come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.engines.kubernetes._kernel_objects import KernelObjects
from jupyter_gpu_share.engines.kubernetes._objects import KernelPlan, Owner
from jupyter_gpu_share.size import Size


def gone(name: str, uid: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid}, "status": {"phase": "Pending"}}


@pytest.mark.timeout(PATIENCE)
async def test_its_end_is_not_overlooked() -> None:
    backend = SimpleNamespace(reclaimed=lambda pod: "")
    cluster: Any = SimpleNamespace(pod=lambda name: None, backend=backend)
    owner, plan = Owner("alice", "mine"), KernelPlan("k-1", "python3", Size.parse("1/4"))
    one = KernelObjects(cluster, owner, plan)
    one.look(gone(f"{one.name}-gpu", "u-1"))  # a claim of its
    one.look(gone("another", "u-2"))
    assert not one._ended.done()
    one.look(gone(one.name, "u-3"))
    assert "deleted in the cluster" in (await one.ended()).reason
    known = KernelObjects(cluster, owner, plan)
    known._uid = "u-4"
    known.look(gone(known.name, "u-5"))  # of an earlier one of this name
    assert not known._ended.done()
