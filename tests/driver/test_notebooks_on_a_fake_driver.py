"""Whole notebooks on a FAKE of NVIDIA's driver: fill, idle, give the share back, wake.

The engine, the kernels, `nvidia-ml-py` and `cuda-bindings` are the true ones; the driver below them
is the fake of this folder. What a real one does is tried in `tests/gpu`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fake_driver import APART, GIB, MIB, NO_MEMORY, NO_PROCESS, TOLD, FakeDriver, needs_namespaces
from limiters import running, tree_of
from waiting import PATIENCE

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CONTEXT = 256 * MIB


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[FakeDriver]:
    made = FakeDriver(tmp_path / "driver")
    yield made
    made.close()


Story = Callable[..., dict[str, Any]]


@pytest.fixture
def tell(driver: FakeDriver, jupyter_dirs: Path) -> Story:
    """Runs a story of `stories.py` in a process that sees the fake driver; what it found."""

    def run(name: str, *, apart: bool = False) -> dict[str, Any]:
        if name in _MOVED and not _has_bindings():
            pytest.skip("NVIDIA's package `cuda-bindings` is not installed")
        if apart:
            needs_namespaces()
        paths = [ROOT, HERE, HERE.parent, HERE.parent / "provisioner"]
        env = {
            **{name: value for name, value in os.environ.items() if name not in _OURS},
            **driver.env,
            "JUPYTER_DEFAULT_PROVISIONER_NAME": "gpu-share-provisioner",
            "PYTHONPATH": os.pathsep.join(
                [*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
        }
        done = subprocess.run(
            [*(APART if apart else ()), sys.executable, HERE / "stories.py", name],
            env=env,
            capture_output=True,
            text=True,
            timeout=5 * PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


#: Stories in which a process is moved.
_MOVED = ("share", "lie", "astray", "wall")


def _has_bindings() -> bool:
    try:
        return find_spec("cuda.bindings") is not None
    except ModuleNotFoundError:
        return False


_OURS = ("JUPYTER_GPU_SHARE_SIMULATE", "CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("apart", "told", "used"),
    [(False, TOLD, 10 * GIB + CONTEXT), (True, TOLD, None), (False, NO_MEMORY, None)],
    ids=["plain", "container", "vgpu"],
)
def test_a_share_is_somebody_elses_meanwhile(
    apart: bool, told: int, used: int | None, driver: FakeDriver, tell: Story
) -> None:
    """Where the driver tells nothing of its processes, its word and the room prove it."""
    driver.state.told = told
    found = tell("share", apart=apart)
    assert found["used"] == used
    assert (found["how"], found["state"]) == ("in-place", "released")
    assert (found["free"], found["in use"]) == (16 * GIB, 0)
    assert found["rival"] == 15 * GIB + 512 * MIB, "all that its context leaves"
    assert found["same process"]
    assert (found["text"], found["number"]) == ("a picture", 1)
    assert driver.calls() == {"Lock": 1, "Checkpoint": 1, "Restore": 1, "Unlock": 1}
    assert found["held"] is True, "nobody is given the share while it is used"


@pytest.mark.parametrize("told", [NO_MEMORY, NO_PROCESS], ids=["no memory", "no process"])
def test_under_wsl_the_process_ends_and_its_variables_stay(
    told: int, driver: FakeDriver, tell: Story
) -> None:
    driver.state.wsl, driver.state.told = 1, told
    found = tell("share")
    assert found["used"] is None
    assert (found["how"], found["state"]) == ("snapshot", "released")
    assert found["in use"] == 0, "nothing is left on the GPU that somebody else gets"
    assert not found["same process"]
    assert found["rival"] == 15 * GIB + 512 * MIB
    assert "Lock" not in driver.calls()


@pytest.mark.parametrize("apart", [False, True], ids=["plain", "container"])
def test_a_driver_that_lies_frees_no_share(apart: bool, driver: FakeDriver, tell: Story) -> None:
    """It says that all was moved, and the memory stays. What failed once is not tried again."""
    driver.state.lies = 1
    found = tell("lie", apart=apart)
    assert "seen to be free" in found["first"]
    assert found["held"] == "active"
    assert (found["how"], found["in use"]) == ("snapshot", 0)
    assert driver.calls()["Checkpoint"] == 1


def test_work_that_does_not_end_in_time_is_waited_for(driver: FakeDriver, tell: Story) -> None:
    driver.answer("Lock", 600)
    found = tell("lie")
    assert "CUDA_ERROR_NOT_READY" in found["first"]
    assert found["in use"] == 0
    assert driver.calls()["Lock"] == 1


def test_who_asked_only_whether_there_is_a_gpu_leaves_at_once(
    driver: FakeDriver, tell: Story
) -> None:
    found = tell("asked")
    assert (found["nvml"], found["begun"]) == ("in-place", "in-place")
    assert found["same process"]
    assert driver.calls() == {}
    assert (found["late"], found["in use"]) == ("['none']", 0), "no thread begins meanwhile"
    assert found["again"] == "in-place", "one that was told of no GPU has nothing there"


def test_a_training_that_fills_its_cap_is_not_stopped(driver: FakeDriver, tell: Story) -> None:
    found = tell("fill")
    assert found["printed"].endswith("whole"), found
    assert found["used"] <= found["share"]


def test_a_context_is_measured_and_later_caps_leave_room_for_it(
    driver: FakeDriver, tell: Story
) -> None:
    """Here it takes more than the estimate: who fills such a cap would be stopped."""
    driver.state.gpus[0].context = 700 * MIB
    found = tell("contexts")
    assert found["estimated"].endswith(
        "takes 512 MiB of NVIDIA Fake-16GB (estimated until a kernel has been measured)."
    )
    assert found["first cap"] == 4 * GIB - 512 * MIB
    assert found["files"] == [["NVIDIA_Fake-16GB-999.1-fake.json", 0o600]]
    assert found["measured"].endswith("takes 700 MiB of NVIDIA Fake-16GB (measured).")
    assert found["second cap"] == 8 * GIB - 764 * MIB
    assert 0.9 * found["share"] < found["used"] <= found["share"]
    assert "CUDA itself takes 700 MiB" in found["too small"]


@pytest.mark.parametrize(
    ("apart", "told"), [(True, TOLD), (False, NO_MEMORY)], ids=["container", "vgpu"]
)
def test_a_context_is_not_measured_where_the_driver_does_not_tell(
    apart: bool, told: int, driver: FakeDriver, tell: Story
) -> None:
    driver.state.told = told
    assert tell("contexts", apart=apart)["files"] == []


def test_processes_of_one_kernel_count_together(driver: FakeDriver, tell: Story) -> None:
    """A cap is told to each process, so that workers of `torchrun` may have more in all."""
    found = tell("family")
    assert found["used"] == 10 * GIB + 2 * CONTEXT
    assert found["cell"].endswith("KeyboardInterrupt")
    assert "uses more GPU memory than its share (10.5 GiB of 8 GiB)" in found["told"][-1]


@pytest.fixture
def limiter(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Root's service, on control groups of its own."""
    with tree_of() as tree, running(driver, tree) as path:
        monkeypatch.setenv("TEST_LIMITER", str(path))
        yield


@pytest.mark.usefixtures("limiter")
def test_the_driver_limits_a_kernel_and_all_that_it_starts(driver: FakeDriver, tell: Story) -> None:
    found = tell("wall")
    assert found["isolation"] == "driver"
    assert found["took"] == 8 * GIB - 512 * MIB, "all that its context leaves of the share"
    assert (found["child"], found["above"]) == ("True", False)
    sizes = [8 * GIB, 4 * GIB, 12 * GIB, 0, 12 * GIB]
    assert found["limits"] == [*([size] for size in sizes), []]
    assert found["again"].endswith("42")
    assert not found["left"]
    assert found["free"] == 16 * GIB
    assert any("driver limits the memory of kernels" in line for line in found["doctor"])


@pytest.mark.usefixtures("limiter")
def test_what_the_driver_does_not_limit_is_nobodys(driver: FakeDriver, tell: Story) -> None:
    """Where a limit cannot be changed, the share is as it was, and held."""
    found = tell("wall_breaks")
    for what in ("grown", "shrunk"):
        assert "driver 615" in found[what], found
        assert (found[f"{what} free"], found[f"{what} size"]) == (8 * GIB, "1/2")
    assert "driver 615" in found["released"]
    assert (found["free"], found["state"], found["lives"]) == (8 * GIB, "active", "42")
    assert (found["later"], found["limits"]) == ("in-place", [0])


@pytest.mark.usefixtures("limiter")
def test_no_kernel_starts_without_the_limit_it_was_to_have(driver: FakeDriver, tell: Story) -> None:
    found = tell("unwalled")
    assert "does not answer at /nowhere/limiter.sock" in found["absent"]
    assert "driver 615" in found["old"]
    assert "while MPS runs" in found["mps"]
    assert {found[f"{name} free"] for name in ("absent", "old", "mps")} == {16 * GIB}


def test_a_gpu_that_is_lost_is_offered_to_nobody(driver: FakeDriver, tell: Story) -> None:
    driver.state.count = 2
    found = tell("lost")
    assert found["second"] == found["third"] != found["lost"]
    assert found["capacity"] == 1
    assert "does not answer any more" in found["told"]
    assert found["others used"] == GIB + CONTEXT, "those of the other one are read"


def test_a_gpu_of_another_is_told_and_never_left_blindly(driver: FakeDriver, tell: Story) -> None:
    """A cell sets CUDA_VISIBLE_DEVICES, as the first cell of half of all notebooks does."""
    driver.state.count = 2
    found = tell("astray")
    assert "no share of what CUDA_VISIBLE_DEVICES names now" in found["chosen"]
    assert "uses a GPU that it has no share of" in found["told"]
    assert "no share of" in found["why"]
    assert driver.calls() == {}


def test_memory_of_others_is_not_given_out(driver: FakeDriver, tell: Story) -> None:
    driver.state.gpus[0].others = 10 * GIB
    found = tell("others")
    assert found["fits"] == "It needs 8 GiB of one GPU; the emptiest has 6 GiB of 16 GiB free."
    assert found["free"] == 6 * GIB
    assert found["later"] is None


def test_a_daemon_of_mps_that_has_ended_promises_nothing(driver: FakeDriver, tell: Story) -> None:
    assert tell("mps") == {"with": "mps", "without": "framework"}


def test_mps_is_refused_where_several_users_share_the_gpus(driver: FakeDriver, tell: Story) -> None:
    """It serves one user at a time. Turned off, kernels do not find its daemon either."""
    found = tell("mps_of_several")
    assert "serves one user at a time" in found["refused"]
    assert any("serves one user at a time" in line for line in found["doctor"])
    assert found["free"] == 16 * GIB
    assert (found["off"], found["seen"]) == ("framework", "''")


def test_a_gpu_that_is_split_meanwhile_is_offered_in_pieces(
    driver: FakeDriver, tell: Story
) -> None:
    found = tell("split")
    assert found["profiles"] == ["1g.10gb"] * 7
    assert found["started"].startswith("MIG-0-")


def test_the_servers_own_variable_is_honoured(driver: FakeDriver, tell: Story) -> None:
    driver.state.count = 2
    found = tell("own")
    assert found == {"1": [1], "0,1": [0, 1], "": "error", "GPU-…1": [1], "5,0": "error"}
