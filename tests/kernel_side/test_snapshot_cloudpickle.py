"""Which cloudpickle is used: the kernel's own, else the delivered one, and nothing beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cloudpickle
import pytest
from sessions import CellError, Sessions
from waiting import PATIENCE

from jupyter_gpu_share import kernel_side

pytestmark = pytest.mark.slow

WHICH = "__import__('sys').modules['cloudpickle'].__file__"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """The kernels of these tests."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"), ahead=0)) as made:
        yield made


def test_the_servers_is_where_it_is_said_to_be() -> None:
    folder = kernel_side.cloudpickle()
    assert folder / "cloudpickle" / "__init__.py" == Path(cloudpickle.__file__)


def test_the_kernels_own_comes_first(house: Sessions, tmp_path: Path) -> None:
    kernel = house.start(JUPYTER_GPU_SHARE_CLOUDPICKLE=str(tmp_path))
    (tmp_path / "cloudpickle.py").write_text("raise SystemExit('not to be imported')")
    kernel.run("def f(): return 1")
    assert kernel.ask("survey()")["variables"] == 1
    assert kernel.value(WHICH) == cloudpickle.__file__


def test_without_one_of_its_own_a_kernel_has_the_servers(house: Sessions, tmp_path: Path) -> None:
    # A kernel whose environment has none, as far as it can tell.
    (tmp_path / "cloudpickle.py").write_text("raise ImportError('not installed')")
    folder = str(kernel_side.cloudpickle())
    first, second = (
        house.start(path=[tmp_path], JUPYTER_GPU_SHARE_CLOUDPICKLE=folder) for _ in range(2)
    )
    first.run("def f(): return lambda: a\na = [1]; g = f()")
    assert first.ask("survey()")["lost"] == []
    assert first.value(WHICH) == cloudpickle.__file__
    first.ask(f"save({str(house.file)!r})")
    assert second.ask(f"restore({str(house.file)!r})")["failed"] == []
    assert second.value("g() is a")


def test_nothing_else_can_be_imported_from_where_it_is() -> None:
    folder = kernel_side.cloudpickle()
    assert (folder / "jupyter_client").is_dir(), "there is something beside it"
    code = (
        "import sys; before = list(sys.path)\n"
        "from gpu_share_kernel.snapshot import pickles\n"
        "assert 'cloudpickle' not in sys.modules, 'only when it is needed'\n"
        "print(pickles.cloudpickle().__file__)\n"
        "import cloudpickle.cloudpickle\n"
        "assert pickles.cloudpickle() is cloudpickle and sys.path == before\n"
        "import jupyter_client"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(kernel_side.PATH),
            kernel_side.CLOUDPICKLE: str(folder),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.strip() == cloudpickle.__file__
    assert done.stderr.endswith("No module named 'jupyter_client'\n")


def test_one_that_is_too_old_is_said_to_be(house: Sessions, tmp_path: Path) -> None:
    (tmp_path / "cloudpickle.py").write_text("class CloudPickler: pass")
    kernel = house.start(path=[tmp_path])
    why = kernel.ask("survey()")["why"]
    old = "The cloudpickle of the kernel's environment is too old."
    assert why == f"The variables cannot be saved: {old}"
    house.file.write_bytes(b"what an earlier one has left")
    with pytest.raises(CellError, match=f"Refused: The variables cannot be restored: {old}"):
        kernel.ask(f"restore({str(house.file)!r})")
