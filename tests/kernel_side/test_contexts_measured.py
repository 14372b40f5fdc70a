"""What a process measures of CUDA's context, on the FAKE driver with a FAKE of PyTorch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import fake_driver
from driver.fake_driver import GIB, MIB, NO_MEMORY, UUIDS, FakeDriver
from on_fake_driver import run_on

HERE = fake_driver.HERE
BEGIN = "import json, sys\nfrom gpu_share_kernel import contexts\n"


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[FakeDriver]:
    made = FakeDriver(tmp_path / "driver", 2)
    made.state.gpus[0].context = 400 * MIB
    yield made
    made.close()


def said(driver: FakeDriver, code: str, **env: str) -> object:
    path = HERE, HERE / "fake_frameworks"
    done = run_on(driver, BEGIN + code, *path, uuid=UUIDS[0], memory=8 * GIB, **env)
    return json.loads(done.stdout)


MEASURE = "\nprint(json.dumps(contexts.measure()))"


def test_it_is_what_the_driver_shows_without_what_frameworks_hold(driver: FakeDriver) -> None:
    code = f"import torch; torch.cuda.take({3 * GIB}); torch.cuda.take({GIB})"
    assert said(driver, code + MEASURE) == {UUIDS[0]: 400 * MIB}


def test_each_gpu_of_a_share_is_measured_by_itself(driver: FakeDriver, tmp_path: Path) -> None:
    """And noted down for its model. Of a GPU that is not of the share, nothing is."""
    driver.state.gpus[1].context = 700 * MIB
    code = f"import torch; torch.cuda.take({GIB}); torch.cuda.take({3 * GIB}, 1)"
    both = {"JUPYTER_GPU_SHARE_UUID": ",".join(reversed(UUIDS[:2]))}
    assert said(driver, code + MEASURE, **both) == {UUIDS[0]: 400 * MIB, UUIDS[1]: 700 * MIB}
    assert said(driver, code + MEASURE) == {UUIDS[0]: 400 * MIB}
    files = [tmp_path / name for name in ("one", "other")]
    code += "; contexts._after_cell(); print(0)"
    assert (
        said(driver, code, JUPYTER_GPU_SHARE_CONTEXT_FILE=os.pathsep.join(map(str, files)), **both)
        == 0
    )
    assert [json.loads(file.read_text())["bytes"] for file in files] == [700 * MIB, 400 * MIB]


def test_beside_communicators_nothing_is_measured(driver: FakeDriver) -> None:
    """They take memory that PyTorch does not count."""
    code = "import torch, sys, types; torch.cuda.take(1); sys.modules['nccl.core'] = types\n"
    code += "class Communicator: pass\n"
    code += "types.Communicator = Communicator"
    assert said(driver, code + MEASURE) == {UUIDS[0]: 400 * MIB}
    assert said(driver, code + "; one = Communicator()" + MEASURE) == {}


@pytest.mark.parametrize(
    "code",
    [
        "import torch",
        "import fake_gpu_program as gpu; gpu.context()",
        "import torch, types; torch.cuda.take(1); sys.modules['numba.cuda'] = types",
        "import torch.cuda as c; c.take(1); n = [9, 8, 7, 6, 5]; c.memory_reserved = n.pop",
        f"import fake_gpu_program as gpu, torch; torch.cuda.take(1); own = gpu.Array({2 * GIB})",
    ],
    ids=["no context", "no framework", "silent", "meanwhile", "memory of others"],
)
def test_what_is_not_known_is_not_measured(code: str, driver: FakeDriver) -> None:
    assert said(driver, code + MEASURE) == {}


def test_a_driver_that_does_not_tell(driver: FakeDriver) -> None:
    driver.state.told = NO_MEMORY
    assert said(driver, "import torch; torch.cuda.take(1)" + MEASURE) == {}


def test_it_is_asked_after_ever_fewer_cells_that_have_a_context(driver: FakeDriver) -> None:
    """Each time a process is started; and libraries that are loaded later take more."""
    code = """
asked = []
contexts.measure = lambda: asked.append(contexts._cells) or {}
for _ in range(5): contexts._after_cell()
import torch; torch.cuda.take(1)
for _ in range(70): contexts._after_cell()
print(json.dumps(asked))
"""
    assert said(driver, code) == [1, 4, 16, 64]


def test_a_cell_is_never_told_of_an_error_in_it(driver: FakeDriver) -> None:
    code = """
import torch; torch.cuda.take(1)
contexts._after_cell(); print(json.dumps("well"))
"""
    assert said(driver, code, JUPYTER_GPU_SHARE_CONTEXT_FILE="/nowhere/at/all") == "well"


def test_nobody_watches_where_nobody_asks(driver: FakeDriver, tmp_path: Path) -> None:
    code = """
from types import SimpleNamespace as Some
events = []
shell = Some(events=Some(register=lambda *row: events.append(row)))
sys.modules["IPython"] = Some(get_ipython=lambda: shell)
for _ in range(2): contexts.watch()
print(json.dumps(len(events)))
"""
    assert said(driver, code) == 0
    assert said(driver, code, JUPYTER_GPU_SHARE_CONTEXT_FILE=str(tmp_path / "file")) == 1
