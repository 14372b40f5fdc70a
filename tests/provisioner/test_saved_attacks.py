"""Files that somebody wants a kernel to load: nothing of them runs, and the notebook says why."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from managers import Kernels, controller, run, state

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.kernels.saved import Note
from jupyter_gpu_share.runtime import Runtime

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_gpu")]

NOBODY = 65534


def evil(mark: Path) -> str:
    """A cell with a variable that runs a command when it is loaded."""
    return (
        "import os\ndef load(command): os.system(command); return Evil()\n"
        "class Evil:\n"
        f"    def __reduce__(self): return load, ('touch {mark}',)\n"
        "evil = Evil(); rest = [bytes([n]) * 3000 for n in range(200)]"
    )


@pytest.fixture
async def file(kernels: Kernels, tmp_path: Path) -> Path:
    """A file that runs something, of a kernel that is not the one under attack."""
    Runtime.instance().idle_policy.set_trait("in_place", False)
    manager, _ = await kernels.computed(evil(tmp_path / "ran"))
    await Runtime.instance().release(manager.kernel_id, lose_variables=False)
    (tmp_path / "ran").unlink()  # the proof has loaded it, for the one whose it is
    return controller(manager).keeper._file


async def refused(kernels: Kernels, manager: Any, client: Any) -> str:
    """Why its variables are not loaded, which is tried by a cell."""
    assert await run(client, "x") == "KernelStartError"
    assert state(manager) is State.RELEASED
    row = Runtime.instance().table.get(manager.kernel_id)
    assert row is not None
    assert "They are still kept" in row.reason
    return row.reason


async def test_what_is_not_what_was_saved_for_this_kernel_is_not_loaded(
    kernels: Kernels, file: Path, tmp_path: Path
) -> None:
    manager, client = await kernels.computed("x = 'precious'")
    await Runtime.instance().release(manager.kernel_id, lose_variables=False)
    own = controller(manager).keeper._file
    good, bad = own.read_bytes(), file.read_bytes()

    def link() -> None:
        own.unlink()
        own.symlink_to(file)

    def folder() -> None:
        own.unlink()
        own.mkdir(0o700)

    def of_somebody_else() -> None:
        own.write_bytes(bad)
        os.chown(own, NOBODY, NOBODY)

    attacks: list[tuple[Callable[[], Any], str]] = [
        (lambda: own.write_bytes(bad), "its digest is another"),
        (lambda: own.write_bytes(good[:-30]), "it is cut off"),
        (lambda: own.write_bytes(good[:400] + bytes([good[400] ^ 1]) + good[401:]), "is damaged"),
        (link, "is a link; it is not followed"),
        (folder, "is not a plain file"),
    ]
    if os.getuid() == 0:
        attacks.append((of_somebody_else, "belongs to somebody else"))
    for attack, why in attacks:
        attack()
        assert why in await refused(kernels, manager, client)
        assert os.path.lexists(own), "it is left alone"
        own.rmdir() if own.is_dir() else own.unlink()
        own.write_bytes(good)
        own.chmod(0o600)
    assert not (tmp_path / "ran").exists()
    assert (await run(client, "print(x)")).endswith("precious")


async def test_nor_what_says_that_it_is_of_another(
    kernels: Kernels, file: Path, tmp_path: Path
) -> None:
    """As the next server meets it, which knows the digest only from what is written beside."""
    manager, client = await kernels.computed("x = 'precious'")
    await Runtime.instance().release(manager.kernel_id, lose_variables=False)
    keeper = controller(manager).keeper
    own, digest, keeper._digest = keeper._file, keeper._digest, ""
    good = own.read_bytes()
    note = Note(manager.kernel_id, "python3", "3/4", "/root", "a.ipynb")
    beside = own.with_suffix(".json")
    assert "nothing says whose it is" in await refused(kernels, manager, client)

    own.write_bytes(file.read_bytes())
    other = replace(note, kernel_id="another")
    other.write(own, digest)
    assert "it is of another kernel" in await refused(kernels, manager, client)

    note.write(own, digest)
    beside.write_text(beside.read_text().replace('"format": 2', '"format": 3'))
    assert "it is of version 3 of the format" in await refused(kernels, manager, client)

    note.write(own, digest)
    beside.write_text(beside.read_text().replace("a.ipynb", "b.ipynb"))
    assert "its seal is not of this user's servers" in await refused(kernels, manager, client)

    assert not (tmp_path / "ran").exists()
    own.write_bytes(good)
    note.write(own, digest)
    assert (await run(client, "print(x)")).endswith("precious")
