"""The ledger on disks that can do less, and after a power cut: on a fake of a file system."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.engines._processes import this_boot
from jupyter_gpu_share.engines.local._ledger import Ledger

_PROGRAM = """
import sys
from pathlib import Path
from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.errors import LedgerError
from jupyter_gpu_share.size import Size

try:
    ledger = Ledger(Path(sys.argv[1]), timeout=0.1)
    ledger.set_gpus([Gpu("G0", "A100", 0, 80 * 2**30)])
    print(ledger.claim("a", Size.parse("1/4"), this_process(), {}).held)
except LedgerError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[str, bool]]:
    """Claim a share on the fake file system: what is said, and whether it was written through."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the fake of a file system is C, and there is no C compiler (cc)")
    library = tmp_path_factory.mktemp("disk") / "fake_disk.so"
    source = Path(__file__).with_name("fake_disk.c")
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(source)]
    subprocess.run([*command, "-ldl"], timeout=PATIENCE, check=True)

    def claim(path: Path, kind: str = "") -> tuple[str, bool]:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(path)],
            env={**os.environ, "LD_PRELOAD": str(library), "FAKE_DISK": kind},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        return done.stdout.strip(), "written through" in done.stderr

    return claim


@pytest.mark.parametrize("made", [False, True])
def test_a_file_system_without_locks_is_named(
    on_disk: Callable[..., tuple[str, bool]], tmp_path: Path, made: bool
) -> None:
    """Also where the file came from elsewhere, as by a mount that had locks before."""
    path = tmp_path / "ledger.db"
    if made:
        Ledger(path).close()
    said, _ = on_disk(path, "no locks")
    assert said == (
        f"The file system of the ledger {path} has no locks, without which servers would give out "
        "the same memory; name a folder on a local disk (LocalEngine.directory)."
    )
    assert path.exists() is made, "none is made where it would be of no use"
    assert on_disk(path)[0] == "True"
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_ledger_of_all_boots_is_whole_after_a_power_cut(
    on_disk: Callable[..., tuple[str, bool]], tmp_path: Path
) -> None:
    """One of a single boot is not looked at again after it, and need not wait for the disk."""
    assert on_disk(tmp_path / "common" / "ledger.db") == ("True", True)
    assert on_disk(tmp_path / this_boot() / "ledger.db") == ("True", False)
