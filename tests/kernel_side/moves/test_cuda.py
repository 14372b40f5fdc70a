"""A process that uses CUDA moves off its GPUs and back: what our code does with each answer.

Unit tests. NVIDIA's module and NVML are FAKES of which a test chooses every answer and state, so
they claim nothing about a driver. Processes and notebooks on one fake driver, through the true
bindings, are in `tests/driver`; what a real one does is tried in `tests/gpu`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cuda_process import FAKE, GIB, MIB, UUID, Gpus, Process, sentence
from sessions import CellError, Session

pytestmark = pytest.mark.slow

# -- there and back ------------------------------------------------------------------------------


def test_there_and_back(process: Process) -> None:
    assert process.get("cuda.hindrance()") == ""
    assert process.steps == [], "looking changes nothing"
    assert process.get("cuda.vacate()") == 2 * GIB
    assert process.steps == ["Lock", "Checkpoint"]
    assert process.state == "CHECKPOINTED"
    assert 0 < process.get("driver.limit") <= 60_000, "the lock has a time limit"
    assert process.gpus.used(process.pid) is None
    assert process.get("cuda.vacate()") == 2 * GIB, "a second time does nothing"
    assert process.get("cuda.resume()") is None
    assert process.steps == ["Restore", "Unlock"]
    assert process.state == "RUNNING"
    assert process.gpus.used(process.pid) == 2 * GIB
    process.get("cuda.resume()")
    assert process.steps == [], "a running process is left alone"
    assert process.get("cuda.vacate()") == 2 * GIB, "and once more"
    process.get("cuda.resume()")
    assert process.get("driver.blocked") == []


def test_no_garbage_is_collected_while_it_is_away(process: Process) -> None:
    """It may hold memory of the GPU: to free it would block the only thread that can go on."""
    process.do(f"a = [driver.Array({MIB})]; a.append(a); del a")
    process.get("cuda.vacate()")
    assert process.get("driver.on_gpu") == {UUID: 2 * GIB}, "it was collected before"
    process.do(f"driver.state = 'RUNNING'; a = [driver.Array({MIB})]; a.append(a); del a")
    process.do("driver.state = 'CHECKPOINTED'; x = [[i] for i in range(100_000)]; del x")
    assert process.get("driver.blocked") == []
    process.get("cuda.resume()")
    process.do("gc.collect()")
    assert process.get("driver.on_gpu") == {UUID: 2 * GIB}
    assert process.get("gc.isenabled()")


def test_who_collects_garbage_himself_goes_on_doing_so(process: Process) -> None:
    process.do("gc.disable()")
    process.get("cuda.vacate()")
    process.get("cuda.resume()")
    assert not process.get("gc.isenabled()")


# -- room to come back ---------------------------------------------------------------------------


def test_it_comes_back_only_where_there_is_room(process: Process) -> None:
    process.get("cuda.vacate()")
    process.do("driver.calls.clear()")
    process.gpus.neighbour(79 * GIB)
    assert process.fails("cuda.resume()") == (
        "The GPU has no room for the 2.062 GiB that were moved away: 1 GiB are free. "
        "It stays off the GPU."
    )
    assert (process.state, process.steps) == ("CHECKPOINTED", []), "the driver was not asked"
    process.gpus.neighbour(77 * GIB)
    process.get("cuda.resume()")
    assert process.state == "RUNNING"


def test_it_does_not_come_back_where_the_room_is_not_known(process: Process) -> None:
    process.get("cuda.vacate()")
    blind = process.gpus.folder / "noload"
    blind.touch()
    assert "cannot be read" in process.fails("cuda.resume()")
    assert process.state == "CHECKPOINTED"
    blind.unlink()
    process.get("cuda.resume()")


def test_a_use_that_the_driver_does_not_tell(process: Process) -> None:
    """In a pod: what was free before and after tells, and the share is what it needs at most."""
    (process.gpus.folder / "outside").touch()
    assert process.get("cuda.vacate()") == 2 * GIB
    process.gpus.neighbour(61 * GIB)
    assert "no room for the 20 GiB" in process.fails("cuda.resume()")
    process.gpus.neighbour(60 * GIB)
    process.get("cuda.resume()")
    assert process.state == "RUNNING"


def test_a_share_of_all_that_there_is_comes_back(process: Process) -> None:
    """Though a GPU never has quite as much free as it has, and neighbours take some."""
    (process.gpus.folder / "outside").touch()
    process.do(f"os.environ['JUPYTER_GPU_SHARE_MEMORY_BYTES'] = '{80 * GIB}'")
    process.gpus.neighbour(GIB)
    assert process.get("cuda.vacate()") == 2 * GIB
    process.get("cuda.resume()")
    assert process.state == "RUNNING"


def test_each_gpu_of_a_share_needs_its_own_room(gpus: Gpus, start: Callable[..., Process]) -> None:
    gpus.add("GPU-b")
    process = start(JUPYTER_GPU_SHARE_UUID="GPU-a,GPU-b")
    process.do(f"driver.allocate({5 * GIB}, 'GPU-b')")
    assert process.get("cuda.vacate()") == 7 * GIB
    gpus.neighbour(76 * GIB, "GPU-b")
    assert "no room for the 5.062 GiB" in process.fails("cuda.resume()")
    gpus.neighbour(0, "GPU-b")
    process.get("cuda.resume()")


def test_what_another_tool_has_moved_comes_back_too(process: Process) -> None:
    process.do("driver._enter('CHECKPOINTED')")
    assert process.get("cuda.vacate()") == 0
    process.gpus.neighbour(61 * GIB)
    assert "no room for the 20 GiB" in process.fails("cuda.resume()")
    process.gpus.neighbour(0)
    process.get("cuda.resume()")
    assert process.state == "RUNNING"


# -- a kernel ------------------------------------------------------------------------------------


@pytest.fixture
def kernel(gpus: Gpus, tmp_path: Path) -> Iterator[Session]:
    """A real one, with the fakes."""
    session = Session(tmp_path, path=[FAKE], **gpus.env)
    yield session
    session.close()


def test_a_kernel_moves_off_and_back(kernel: Session, gpus: Gpus) -> None:
    nothing = {"how": "nothing", "why": ""}
    assert kernel.ask("plan()", "vacate") == nothing, "it never opened the GPU"
    kernel.run("from cuda.bindings import driver; state = [1]; same = state")
    kernel.run(f"driver.allocate({3 * GIB})")
    pid = kernel.process.pid
    assert kernel.ask("plan()", "vacate") == {"how": "cuda", "why": ""}
    moved = {"how": "cuda", "bytes": 3 * GIB, "most": 3 * GIB, "proven": True}
    assert kernel.ask("vacate()", "vacate") == moved
    assert (gpus.used(pid), kernel.value("driver.state")) == (None, "CHECKPOINTED")
    gpus.neighbour(79 * GIB)
    with pytest.raises(CellError, match="no room for the 3"):
        kernel.ask("resume()", "vacate")
    gpus.neighbour(0)
    assert kernel.ask("resume()", "vacate") is None
    assert (gpus.used(pid), kernel.value("driver.state")) == (3 * GIB, "RUNNING")
    assert kernel.value("[state, same is state, driver.blocked]") == [[1], True, []]


def test_children_of_one_that_holds_nothing_may_hold_something(kernel: Session) -> None:
    """As a training that a cell has started: its memory does not leave with the kernel's share."""
    kernel.run("import os, subprocess; from cuda.bindings import driver")
    kernel.run("number = driver.open_driver()")
    kernel.run("child = subprocess.Popen(['sleep', '60'], pass_fds=[number]); os.close(number)")
    planned = kernel.ask("plan()", "vacate")
    assert (planned["how"], planned["why"][:27]) == ("none", "Child processes use the GPU")
    kernel.run("child.kill(); child.wait()")
    assert kernel.ask("plan()", "vacate") == {"how": "nothing", "why": ""}


def test_a_kernel_that_cannot_says_why(kernel: Session) -> None:
    kernel.run(f"from cuda.bindings import driver; driver.allocate({GIB}); driver.version = 12020")
    planned = kernel.ask("plan()", "vacate")
    assert planned["how"] == "none"
    assert "driver 570 or newer" in sentence(planned["why"])
    with pytest.raises(CellError, match="driver 570 or newer"):
        kernel.ask("vacate()", "vacate")
    assert kernel.value("[driver.state, driver.calls]") == ["RUNNING", []]
