"""A share goes back only when it is known that the saved variables come back."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from managers import GIB, Kernels, active, controller, free, run, state
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.errors import NotPossible
from jupyter_gpu_share.kernels.facts import Event
from jupyter_gpu_share.runtime import Runtime
from jupyter_gpu_share.size import Size

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_gpu", "saving")]

FAILED = """
class Failed(Exception):
    def __init__(self, trial, why):
        super().__init__(f"trial {trial}: {why}")
        self.trial = trial
results = [(0, 0.9), (1, Failed(1, "nan loss"))]
good = [1, 2]
"""
#: Code, and what of it only comes to light when it is read back.
LATE = {
    "exception": (FAILED, ["list `results`"]),
    "made in other ways": (
        """
import ctypes
class Text(str):
    def __new__(cls, a, b): return super().__new__(cls, a + b)
class Scaled(dict):
    def __setitem__(self, key, value): super().__setitem__(key, value * self.by)
text = Text("a", "b"); scaled = Scaled(); scaled.by = 2; scaled["a"] = 1
floats = (ctypes.c_double * 3)()
good = [1, 2]
""",
        ["`text`", "`scaled`", "`floats`"],
    ),
}


@pytest.fixture(params=["files", "pieces"])
def saving(one_gpu: Any, request: pytest.FixtureRequest, monkeypatch: Any) -> Path:
    """No process lives on without its share; variables come by file, or in pieces of messages."""
    runtime = Runtime.instance()
    runtime.idle_policy.set_trait("in_place", False)
    if request.param == "pieces":
        from jupyter_gpu_share.engines.local import LocalEngine

        monkeypatch.setattr(LocalEngine, "shares_files", False)
    return runtime.kept_folder


async def release(manager: Any, *, lose_variables: bool = False) -> None:
    await Runtime.instance().release(manager.kernel_id, lose_variables=lose_variables)


def left(folder: Path) -> list[str]:
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    return [name for name in found if name != "owner"]


@pytest.mark.parametrize("what", LATE)
async def test_what_would_not_come_back_is_told_before_the_share_goes(
    kernels: Kernels, saving: Path, what: str
) -> None:
    code, names = LATE[what]
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, code)
    with pytest.raises(NotPossible) as caught:
        await release(manager)
    assert "nothing was changed" in str(caught.value)
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert (row.state, row.share is None) == (State.ACTIVE, False)
    for name in names:
        assert name in str(caught.value)
        assert name in " ".join(row.kept.lost)
    assert left(saving) == []
    # Who asks again is told without another try, as nothing was run since.
    kept = await Runtime.instance().kept_by_release(manager.kernel_id)
    assert kept.lost == row.kept.lost
    assert await run(client, "print(good, 'Failed' in globals() or True)") == "[1, 2] True"
    await release(manager, lose_variables=True)
    told = await run(client, "print(good, sorted({'results', 'text'} & set(globals())))")
    assert "[1, 2] []" in told
    assert "not kept" in told
    assert "not restored" not in told
    await active(manager)  # the cell is answered before the file goes
    assert left(saving) == []


async def test_a_change_of_size_is_refused_the_same_way(kernels: Kernels, saving: Path) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, FAILED)
    runtime = Runtime.instance()
    with pytest.raises(NotPossible, match="list `results`"):
        await runtime.change_size(manager.kernel_id, Size.parse("0"), lose_variables=False)
    assert await run(client, "print(len(results))") == "2"
    assert state(manager) is State.ACTIVE


async def test_a_proof_that_takes_too_long_leaves_the_share(
    kernels: Kernels, saving: Path, tmp_path: Path
) -> None:
    Runtime.instance().idle_policy.set_trait("snapshot_patience", 0.0)
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "x = 1")
    with pytest.raises(NotPossible, match="takes longer than it may"):
        await release(manager)
    assert left(saving) == []
    assert state(manager) is State.ACTIVE
    assert await run(client, "print(x)") == "1"


async def test_a_cell_that_comes_during_the_proof_of_an_idle_share_runs(
    kernels: Kernels, saving: Path, tmp_path: Path
) -> None:
    begun, mark = tmp_path / "begun", tmp_path / "mark"
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(
        client,
        f"import os, time\n"
        f"def wait():\n"
        f"    if os.path.exists({str(mark)!r}):\n"
        f"        open({str(begun)!r}, 'w').close(); time.sleep(600)\n"
        f"    return Slow()\n"
        f"class Slow:\n"
        f"    def __reduce__(self): return wait, ()\n"
        f"slow = Slow()",
    )
    mark.touch()
    kernel = controller(manager)

    async def unused() -> None:
        kernel.rule.seen = kernel.relay.activity.cells_sent
        kernel.tell(Event.UNUSED)

    await Runtime.instance().call(unused())
    await eventually(begun.exists, "the proof to begin")
    assert await run(client, "print(slow.__class__.__name__)") == "Slow"
    assert left(saving) == []
    assert state(manager) is State.ACTIVE


#: A variable whose proof waits while a file is there, and tells which process makes it.
WAITS = """
import os, time
def wait(begun={begun!r}, mark={mark!r}):
    if os.path.exists(mark):
        with open(begun + '.new', 'w') as file: file.write(str(os.getpid()))
        os.rename(begun + '.new', begun); time.sleep(600)
    return Slow()
class Slow:
    def __reduce__(self): return wait, ()
slow = Slow(); rows = [1, 2]
"""


async def test_a_proof_that_is_ended_from_outside_leaves_the_share(
    kernels: Kernels, saving: Path, tmp_path: Path
) -> None:
    begun, mark = tmp_path / "begun", tmp_path / "mark"
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, WAITS.format(begun=str(begun), mark=str(mark)))
    mark.touch()
    asked = asyncio.ensure_future(release(manager))
    await eventually(begun.exists, "the proof to begin")
    os.kill(int(begun.read_text()), signal.SIGKILL)
    with pytest.raises(NotPossible, match="reads them back has ended by signal 9"):
        await asyncio.wait_for(asked, PATIENCE)
    assert left(saving) == []
    assert state(manager) is State.ACTIVE
    assert await free() == 40 * GIB, "the share stays"
    mark.unlink()
    await release(manager)
    assert (await run(client, "print(rows)")).endswith("[1, 2]")


async def test_a_kernel_that_is_killed_during_its_proof_leaves_no_file(
    kernels: Kernels, saving: Path, tmp_path: Path
) -> None:
    begun, mark = tmp_path / "begun", tmp_path / "mark"
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, WAITS.format(begun=str(begun), mark=str(mark)))
    pid = int(await run(client, "print(os.getpid())"))
    mark.touch()
    asked = asyncio.ensure_future(release(manager))
    await eventually(begun.exists, "the proof to begin")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(NotPossible, match="The kernel has just ended"):
        await asyncio.wait_for(asked, PATIENCE)
    assert left(saving) == []
    proof = Path("/proc", begun.read_text())
    await eventually(lambda: not proof.exists(), "the proof ends with its kernel")


async def test_a_full_disk_leaves_the_share(kernels: Kernels, saving: Path) -> None:
    """The kernel may write no more than so much to one file, which fails as a full disk does."""
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(
        client,
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))\n"
        "rows = [bytes([n % 256]) * 1000 for n in range(4000)]",
    )
    with pytest.raises(NotPossible, match="The snapshot cannot be written: File too large"):
        await release(manager)
    assert left(saving) == []
    assert state(manager) is State.ACTIVE
    await run(client, "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)")
    await release(manager)
    assert (await run(client, "print(len(rows))")).endswith("4000")
