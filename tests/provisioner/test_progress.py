"""What takes more than a second is followed: by whoever looks at the kernel's allocation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from managers import Kernels, run
from waiting import PATIENCE, eventually

from jupyter_gpu_share.runtime import Runtime

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_gpu")]

#: What is saved, and rebuilt, only when a file is not there.
SLOW = """
import os, time
def made(): hold('load'); return Slow()
def hold(what):
    while os.path.exists(%r + what): time.sleep(0.01)
class Slow:
    def __reduce__(self):
        hold('save')
        return made, ()
slow = Slow()
"""


def reason(manager: Any) -> str:
    row = Runtime.instance().table.get(manager.kernel_id)
    return row.reason if row is not None else ""


@pytest.mark.parametrize("pieces", [False, True])
async def test_a_save_and_a_load_say_how_far_they_are(
    kernels: Kernels, tmp_path: Path, monkeypatch: Any, pieces: bool
) -> None:
    runtime = Runtime.instance()
    runtime.idle_policy.set_trait("in_place", False)
    if pieces:
        from jupyter_gpu_share.engines.local import LocalEngine

        monkeypatch.setattr(LocalEngine, "shares_files", False)
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, SLOW % str(tmp_path / "hold-"))
    await runtime.kept_by_release(manager.kernel_id)  # the look of the release, which is quick
    (tmp_path / "hold-save").touch()
    released = asyncio.ensure_future(runtime.release(manager.kernel_id, lose_variables=False))
    said = await eventually(
        lambda: reason(manager) if "Saving the variables: " in reason(manager) else "",
        "it says that it saves",
    )
    assert said.endswith(" s so far.")
    (tmp_path / "hold-save").unlink()
    await asyncio.wait_for(released, PATIENCE)
    assert reason(manager) == "The variables are saved; the next cell brings them back."
    (tmp_path / "hold-load").touch()
    woken = asyncio.ensure_future(run(client, "print(type(slow).__name__)"))
    await eventually(
        lambda: "Bringing the variables back: " in reason(manager), "it says that it loads"
    )
    (tmp_path / "hold-load").unlink()
    assert "Slow" in await woken
    await eventually(lambda: reason(manager) == "", "nothing is under way any more")
