"""What did not come back after all, or is gone, is told, and nothing of it is thrown away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from managers import Kernels, active, controller, run, state
from waiting import eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.kernels._unrestored import Aside, Loss
from jupyter_gpu_share.runtime import Runtime

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_gpu", "saving")]

#: Comes back as long as there is a certain file.
NEEDY = """
import os
def fetch():
    if not os.path.exists({mark!r}):
        raise RuntimeError("no such mark")
    return Needy()
class Needy:
    def __reduce__(self): return fetch, ()
good = [1, 2]
for n in range(12): globals()["needy_%d" % n] = Needy()
"""


@pytest.fixture
def saving(one_gpu: Any) -> Path:
    """No process lives on without its share."""
    runtime = Runtime.instance()
    runtime.idle_policy.set_trait("in_place", False)
    return runtime.kept_folder


async def release(manager: Any) -> None:
    await Runtime.instance().release(manager.kernel_id, lose_variables=False)


async def test_a_file_that_is_gone_is_no_fresh_start(kernels: Kernels, saving: Path) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "precious = [1]")
    await release(manager)
    for each in saving.glob("*.kept"):
        each.unlink()
    told = await run(client, "print('precious' in globals())")
    assert told == "KernelStartError"
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert "variables that were saved are gone" in row.reason
    assert row.share is None
    await manager.restart_kernel()
    client = await kernels.client(manager)
    assert await run(client, "print('precious' in globals())") == "False"


async def test_what_did_not_come_back_stays_until_its_user_says_so(
    kernels: Kernels, saving: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    mark.touch()
    runtime = Runtime.instance()
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, NEEDY.format(mark=str(mark)))
    await release(manager)
    mark.unlink()
    told = await run(client, "print(good)")
    assert "[1, 2]" in told
    assert "`needy_0`" in told
    assert "7 more" in told
    assert "jupyter gpu-share kept " + manager.kernel_id[:8] in told
    assert "needy_9" not in told
    await active(manager)  # the cell is answered before the file is put aside
    found = await runtime.kept(manager.kernel_id)
    assert found["lost"] == []
    (file,) = found["aside"]
    assert sorted(row["name"] for row in file["missing"]) == sorted(f"needy_{n}" for n in range(12))
    assert all("no such mark" in row["why"] for row in file["missing"])
    # Another release and wake, and a restart, leave it where it is.
    await release(manager)
    assert "[1, 2]" in await run(client, "print(good)")
    await manager.restart_kernel()
    client = await kernels.client(manager)
    assert (await runtime.kept(manager.kernel_id))["aside"] == [file]
    mark.touch()
    again = f"from gpu_share_kernel import snapshot; snapshot.restore({file['file']!r})['failed']"
    await run(client, f"{NEEDY.format(mark=str(mark))}{again}; del needy_1")
    assert await run(client, "print(type(needy_3).__name__)") == "Needy"
    assert (await runtime.kept(manager.kernel_id, forget=True))["aside"] == []
    assert not Path(file["file"]).exists()
    assert list(Path(file["file"]).parent.iterdir()) == []


async def test_all_that_is_lost_can_be_read(kernels: Kernels, saving: Path) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "for n in range(70): globals()['lazy_%d' % n] = (x for x in ())")
    kept = await Runtime.instance().kept_by_release(manager.kernel_id)
    assert len(kept.lost) == 51
    found = await Runtime.instance().kept(manager.kernel_id)
    assert [row["name"] for row in found["lost"]] == [f"lazy_{n}" for n in range(70)]
    assert {row["what"] for row in found["lost"]} == {"generator"}
    await eventually(lambda: state(manager) in (State.ACTIVE, State.IDLE), "it goes on")
    assert controller(manager) is not None


def test_one_kernels_files_are_not_anothers(tmp_path: Path) -> None:
    files = [tmp_path / "boot" / "1-1" / f"{name}.kept" for name in ("aa", "bb")]
    asides = [Aside(file) for file in files]
    files[0].parent.mkdir(parents=True)
    for n in (1, 2):
        for file, aside in zip(files, asides, strict=True):
            file.write_bytes(b"x" * n)
            aside.put([Loss("v", "list", "because")])
    assert [row["bytes"] for row in asides[0].told()] == [1, 2]
    assert asides[0].told()[0]["missing"] == [{"name": "v", "what": "list", "why": "because"}]
    assert list(files[0].parent.iterdir()) == []
    asides[0].forget()
    assert asides[0].told() == []
    assert len(asides[1].told()) == 2
