"""A share goes back where its process cannot live on: variables are saved, and come back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from managers import GIB, Kernels, active, controller, free, free_is, interrupted, run, state
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.engines._places import here
from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.engines.base import Adoptable
from jupyter_gpu_share.errors import GpuShareError, NotPossible
from jupyter_gpu_share.kernels import _checkpoint, _transfer
from jupyter_gpu_share.runtime import Runtime
from jupyter_gpu_share.size import Size

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_gpu", "saving")]

CELL = {
    "silent": False,
    "store_history": True,
    "user_expressions": {},
    "allow_stdin": False,
    "stop_on_error": True,
}
COMPUTE = """
from gpu_share_kernel import simulated
memory = simulated.allocate("30GiB")
rows = [1, 2]
again = {"rows": rows}
def double(): return 2 * factor
factor = 21
"""
LOOK = (
    "rows.append(3); factor = 4; "
    "print(again['rows'] is rows, rows, double(), memory.nbytes >> 30, simulated.memory()[0] >> 30)"
)
THERE = "True [1, 2, 3] 8 30 30"


@pytest.fixture(params=["files", "pieces"])
def saving(one_gpu: Any, request: pytest.FixtureRequest, monkeypatch: Any) -> Path:
    """No process lives on without its share; variables come by file, or in pieces of messages."""
    runtime = Runtime.instance()
    runtime.idle_policy.set_trait("in_place", False)
    if request.param == "pieces":
        from jupyter_gpu_share.engines.local import LocalEngine

        monkeypatch.setattr(LocalEngine, "shares_files", False)
        monkeypatch.setattr(_transfer, "_PIECE", 1000)
    return runtime.kept_folder


async def release(manager: Any, *, lose_variables: bool = False) -> None:
    await Runtime.instance().release(manager.kernel_id, lose_variables=lose_variables)


def left(folder: Path) -> list[str]:
    """What is kept there, but for whose the folder is."""
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    return [name for name in names if name != "owner"]


async def test_another_has_the_share_meanwhile_and_every_variable_is_there_afterwards(
    kernels: Kernels, saving: Path
) -> None:
    manager, client = await kernels.computed(COMPUTE)
    pid = await run(client, "import os; print(os.getpid())")
    await release(manager)
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert (row.state, row.kept.how, row.kept.lost) == (State.RELEASED, "snapshot", ())
    assert "variables are saved" in row.reason
    assert not Path(f"/proc/{pid}").exists()
    assert left(saving) == [controller(manager).keeper._file.name]
    assert (saving / left(saving)[0]).stat().st_mode & 0o777 == 0o600
    rival = await kernels.start("1")
    await rival.shutdown_kernel()
    told = await run(client, LOOK)
    assert THERE in told
    assert "variables are back" in told
    await active(manager)
    assert left(saving) == []
    assert await free() == 20 * GIB
    assert await run(client, "print(len(In) > 3, 'double' in In[1])") == "True True"


async def test_variables_may_be_encrypted_on_the_disk(kernels: Kernels, saving: Path) -> None:
    pytest.importorskip("cryptography", reason="it is an extra: jupyter-gpu-share[encryption]")
    Runtime.instance().idle_policy.set_trait("snapshot_encryption", True)
    manager, client = await kernels.computed("x = b'precious' * 300_000")
    await release(manager)
    own = saving / left(saving)[0]
    good = own.read_bytes()
    assert b"precious" not in good
    own.write_bytes(good[: 2**20] + good[2**20 + 1 :])
    assert await run(client, "x") == "KernelStartError"
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert "The encrypted file was changed or cut off" in row.reason
    own.write_bytes(good)
    assert (await run(client, "print(x == b'precious' * 300_000)")).endswith("True")
    await active(manager)  # the cell is answered before the file goes
    assert left(saving) == []
    in_memory = Path("/dev/shm", f"gpu-share-{os.getuid()}", this_process().folder)
    assert not in_memory.exists() or list(in_memory.iterdir()) == []


async def test_where_nothing_can_be_encrypted_the_share_stays(
    kernels: Kernels, saving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Runtime.instance().idle_policy.set_trait("snapshot_encryption", True)
    monkeypatch.setattr(_checkpoint, "missing", lambda: "There is no cryptography here.")
    manager, client = await kernels.computed("x = 1")
    with pytest.raises(NotPossible, match=r"There is no cryptography here\."):
        await release(manager)
    assert left(saving) == []
    assert await run(client, "print(x)") == "1"


async def test_what_would_be_lost_is_told_before_and_the_share_stays(
    kernels: Kernels, saving: Path
) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "x = 1; g = (n for n in range(3)); f = open('/dev/null'); jobs = [g]")
    with pytest.raises(NotPossible) as caught:
        await release(manager)
    for words in ("generator `g`", "open file `f`", "list `jobs`", "nothing was changed"):
        assert words in str(caught.value)
    assert left(saving) == []
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert row.state is State.ACTIVE
    assert "generator `g`" in row.kept.lost
    assert await run(client, "print(next(g), f.closed)") == "0 False"
    await release(manager, lose_variables=True)
    told = await run(client, "print(x, 'g' in globals())")
    assert "1 False" in told
    assert "not kept" in told
    assert "`g`" in told


async def test_cells_typed_meanwhile_run_once_in_order_after_the_variables_are_back(
    kernels: Kernels, tmp_path: Path
) -> None:
    manager = await kernels.start("3/4")
    client = await kernels.client(manager)
    marks = tmp_path / "marks"
    await run(client, "n = 0")
    await release(manager)
    rival = await kernels.start("1/2")
    for _ in range(5):
        client.execute(f"open({str(marks)!r}, 'a').write(f'{{n}} '); n += 1")
    await eventually(lambda: state(manager) is State.WAKING, "it asks for its share")
    await rival.shutdown_kernel()
    assert (await run(client, "print(n)")).endswith("5")
    assert marks.read_text() == "0 1 2 3 4 "


async def test_an_interrupt_gives_up_waiting_and_nothing_else(
    kernels: Kernels, saving: Path
) -> None:
    manager, client = await kernels.computed(COMPUTE)
    await release(manager)
    rival = await kernels.start("1/2")
    cell = asyncio.ensure_future(run(client, "rows.append('never')"))
    await eventually(lambda: state(manager) is State.WAKING, "it asks for its share")
    assert "KeyboardInterrupt" in await interrupted(manager, cell)
    assert state(manager) is State.RELEASED
    assert left(saving) == [controller(manager).keeper._file.name]
    await rival.shutdown_kernel()
    assert THERE in await run(client, LOOK)


async def test_variables_that_cannot_be_written_keep_the_share(
    kernels: Kernels, saving: Path
) -> None:
    manager, client = await kernels.computed(COMPUTE)
    Runtime.instance().idle_policy.set_trait("snapshot_folder", "/proc/nowhere")
    controller(manager).keeper._file = Path("/proc/nowhere/0/1-1-here/x.kept")
    with pytest.raises(NotPossible, match="could not be saved"):
        await release(manager)
    assert state(manager) is State.ACTIVE
    assert "True [1, 2, 3] 8 30 30" in await run(client, LOOK)


async def test_variables_beyond_the_limit_keep_the_share(kernels: Kernels, saving: Path) -> None:
    Runtime.instance().idle_policy.set_trait("snapshot_limit", 2**20)
    manager = await kernels.start("3/4")
    client = await kernels.client(manager)
    await run(client, "big = bytes(2**21)")
    with pytest.raises(NotPossible, match="at most 1 MiB are kept here"):
        await release(manager)
    assert await run(client, "print(len(big))") == "2097152"
    assert left(saving) == []


async def test_a_restore_that_fails_keeps_the_variables_for_another_try(
    kernels: Kernels, saving: Path
) -> None:
    manager, client = await kernels.computed(COMPUTE)
    await release(manager)
    (name,) = left(saving)
    good = (saving / name).read_bytes()
    (saving / name).write_bytes(good[:-100])
    told = await run(client, LOOK)
    assert told == "KernelStartError"
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert row.state is State.RELEASED
    assert "damaged" in row.reason
    assert "still kept" in row.reason
    await free_is(80 * GIB)
    (saving / name).write_bytes(good)
    assert THERE in await run(client, LOOK)


async def test_an_id_that_looks_like_a_path_stays_in_the_folder(
    kernels: Kernels, saving: Path
) -> None:
    manager = kernels.manager()
    env = {**os.environ, "JUPYTER_GPU_SHARE_SIZE": "1/4"}
    await manager.start_kernel(kernel_id="../../outside", env=env)
    client = await kernels.client(manager)
    await run(client, "x = 1")
    await release(manager)
    (name,) = left(saving)
    assert name == controller(manager).keeper._file.name
    assert "outside" not in name
    assert (await run(client, "print(x)")).endswith("1")


async def test_what_a_server_that_is_gone_has_kept_is_swept(kernels: Kernels, saving: Path) -> None:
    gone = saving.parent / f"{2**30}-1"
    gone.mkdir(parents=True)
    saving.parent.chmod(0o700)
    (gone / "old.kept").write_text("nobody's")
    whose = {**asdict(here()), "pid": 2**30, "start_time": "1", "locked": True}
    (gone / "owner").write_text(json.dumps(whose))
    (gone / "owner").chmod(0o600)
    manager = await kernels.start("1/4")
    await release(manager)
    assert not gone.exists()
    assert left(saving) == [controller(manager).keeper._file.name]


async def test_a_kernel_that_dies_while_it_saves_is_told_and_leaves_nothing(
    kernels: Kernels, saving: Path
) -> None:
    manager = await kernels.start("3/4")
    client = await kernels.client(manager)
    await run(
        client,
        "import os, signal\nclass Deadly:\n    def __reduce__(self):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\nd = Deadly()",
    )
    with pytest.raises(GpuShareError):
        await release(manager)
    await eventually(lambda: state(manager) is State.FAILED, "the end is told")
    assert left(saving) == []


@pytest.mark.parametrize("how", ["restart", "shutdown", "kill"])
async def test_variables_that_nobody_wants_any_more_are_forgotten(
    how: str, kernels: Kernels, saving: Path
) -> None:
    manager, client = await kernels.computed(COMPUTE)
    await release(manager)
    assert left(saving)
    if how == "restart":
        await asyncio.wait_for(manager.restart_kernel(), PATIENCE)
        assert await run(client, "print('rows' in globals())") == "False"
    else:
        await asyncio.wait_for(manager.shutdown_kernel(now=how == "kill"), PATIENCE)
    assert left(saving) == []


async def test_a_change_of_size_keeps_the_variables(kernels: Kernels) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "x = [1]; y = x")
    runtime = Runtime.instance()
    for size in ("0", "1/2"):
        kept = await runtime.kept_by_change(manager.kernel_id, Size.parse(size))
        assert (kept.how, kept.lost) == ("snapshot", ())
        assert await runtime.change_size(manager.kernel_id, Size.parse(size), lose_variables=False)
        told = await run(client, "x.append(1); print(x is y, len(x))")
        assert "True" in told
        await active(manager)
        row = runtime.table.get(manager.kernel_id)
        assert row is not None
        assert row.size == size
        assert await free() == 80 * GIB - Size.parse(size).bytes_of(80 * GIB)
    assert told.endswith("True 3")


async def test_subshells_of_the_last_process_are_there_in_the_next(kernels: Kernels) -> None:
    """A page goes on to use the subshell that it had made; it hears of no restart."""
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "x = 20")
    client.control_channel.send(client.session.msg("create_subshell_request", {}))
    made = await asyncio.wait_for(client.get_control_msg(), PATIENCE)
    subshell = made["content"]["subshell_id"]
    for n in range(1, 3):
        await active(manager)
        await release(manager)
        await run(client, "x += 1")
        message = client.session.msg("execute_request", {**CELL, "code": f"print(x + {n})"})
        message["header"]["subshell_id"] = subshell
        client.shell_channel.send(message)
        while True:
            reply = await asyncio.wait_for(client.get_shell_msg(), PATIENCE)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                break
        assert reply["content"]["status"] == "ok"


async def test_a_change_of_size_that_would_lose_something_is_refused(kernels: Kernels) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "g = (n for n in range(3))")
    runtime = Runtime.instance()
    with pytest.raises(NotPossible, match=r"Changing the size to 0 now would lose generator `g`"):
        await runtime.change_size(manager.kernel_id, Size.parse("0"), lose_variables=False)
    assert await run(client, "print(next(g))") == "0"


async def test_variables_that_cannot_be_taken_over_now_are_kept_for_the_next_server(
    kernels: Kernels, saving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime.instance()
    manager = kernels.manager()
    taken = runtime.kept_folder / f"{hashlib.sha256(b'earlier').hexdigest()[:32]}.kept"
    taken.parent.mkdir(parents=True, exist_ok=True)
    taken.write_bytes(b"variables")
    runtime.adopted["earlier"] = Adoptable(
        "earlier", "python3", Size.parse("1/2"), key=b"", saved=True
    )

    def fails(self: object, **options: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(type(manager), "write_connection_file", fails)
    with pytest.raises(OSError, match="no space"):
        await manager.start_kernel(kernel_id="earlier")
    assert taken.exists()
