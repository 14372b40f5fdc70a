"""What goes wrong on the way off the GPUs and back, and how it ends. The driver is a FAKE."""

from __future__ import annotations

import pytest
from cuda_process import GIB, MIB, Process
from fake_frameworks import MODULE

pytestmark = pytest.mark.slow

LOST = "The GPU's state is lost: restart the kernel."
LOCKED = "Its calls to CUDA stay locked: try again, or restart the kernel."

#: What fails, the state in the end, what was done, and what is said.
VACATE: dict[str, tuple[str, str, list[str], str]] = {
    "work that does not end in time": (
        "{'Lock': ('CUDA_ERROR_NOT_READY', None)}",
        "RUNNING",
        ["Lock"],
        (
            "NVIDIA's driver could not stop this process's calls (CUDA_ERROR_NOT_READY). "
            "Nothing has changed."
        ),
    ),
    "a lock that was taken all the same": (
        "{'Lock': ('CUDA_ERROR_NOT_READY', 'LOCKED')}",
        "RUNNING",
        ["Lock", "Unlock"],
        (
            "NVIDIA's driver could not stop this process's calls (CUDA_ERROR_NOT_READY). "
            "Nothing has changed."
        ),
    ),
    "a function that the driver does not have": (
        "{'Lock': (RuntimeError('Function \"cuCheckpointProcessLock\" not found'), None)}",
        "RUNNING",
        ["Lock"],
        (
            "NVIDIA's driver could not stop this process's calls "
            '(Function "cuCheckpointProcessLock" not found). Nothing has changed.'
        ),
    ),
    "a checkpoint that cannot be": (
        "{'Checkpoint': ('CUDA_ERROR_NOT_SUPPORTED', None)}",
        "RUNNING",
        ["Lock", "Checkpoint", "Unlock"],
        (
            "NVIDIA's driver could not move the GPU's memory away (CUDA_ERROR_NOT_SUPPORTED). "
            "Nothing has changed."
        ),
    ),
    "a checkpoint that was made all the same": (
        "{'Checkpoint': ('CUDA_ERROR_OPERATING_SYSTEM', 'CHECKPOINTED')}",
        "RUNNING",
        ["Lock", "Checkpoint", "Restore", "Unlock"],
        (
            "NVIDIA's driver could not move the GPU's memory away (CUDA_ERROR_OPERATING_SYSTEM). "
            "Nothing has changed."
        ),
    ),
    "a checkpoint that loses everything": (
        "{'Checkpoint': ('CUDA_ERROR_OUT_OF_MEMORY', 'FAILED')}",
        "FAILED",
        ["Lock", "Checkpoint"],
        f"NVIDIA's driver could not move the GPU's memory away (CUDA_ERROR_OUT_OF_MEMORY). {LOST}",
    ),
    "a checkpoint, and the unlocking after it": (
        (
            "{'Checkpoint': ('CUDA_ERROR_NOT_SUPPORTED', None),"
            " 'Unlock': ('CUDA_ERROR_ILLEGAL_STATE', None)}"
        ),
        "LOCKED",
        ["Lock", "Checkpoint", "Unlock"],
        (
            "NVIDIA's driver could not move the GPU's memory away (CUDA_ERROR_NOT_SUPPORTED). "
            f"{LOCKED}"
        ),
    ),
}


@pytest.mark.parametrize("what", VACATE)
def test_what_goes_wrong_on_the_way_off(what: str, process: Process) -> None:
    fail, state, steps, said = VACATE[what]
    process.do(f"driver.fail.update({fail})")
    assert process.fails("cuda.vacate()") == said
    assert (process.state, process.steps) == (state, steps)
    if state == "RUNNING":
        assert process.gpus.used(process.pid) == 2 * GIB
        assert process.get("gc.isenabled()")
        process.do("driver.fail.clear()")
        assert process.get("cuda.vacate()") == 2 * GIB, "it can be tried again"


def test_a_lock_that_is_left_is_undone_by_the_way_back(process: Process) -> None:
    process.do(f"driver.fail.update({VACATE['a checkpoint, and the unlocking after it'][0]})")
    process.fails("cuda.vacate()")
    process.do("driver.fail.clear()")
    process.get("cuda.resume()")
    assert process.state == "RUNNING"
    assert process.get("gc.isenabled()")


def test_an_interrupt_on_the_way_off(process: Process) -> None:
    process.do("driver.fail['Checkpoint'] = (KeyboardInterrupt(), None)")
    process.do("driver_code = cuda._code")
    # The interrupt comes when the driver has returned: Python looks for it only then.
    process.do(
        "def code(function, *args):\n"
        "    try: return driver_code(function, *args)\n"
        "    finally:\n"
        "        if function is driver.cuCheckpointProcessCheckpoint: driver.fail.clear()\n"
        "cuda._code = code"
    )
    kind, _ = process._ask("eval", "cuda.vacate()")
    assert kind == "KeyboardInterrupt"
    assert (process.state, process.get("gc.isenabled()")) == ("RUNNING", True)


@pytest.mark.parametrize("state", ["FAILED", "CHECKPOINTING"])
def test_nothing_is_moved_in_a_bad_state(state: str, process: Process) -> None:
    process.do(f"driver.state = {state!r}")
    process.fails("cuda.vacate()")
    process.fails("cuda.resume()")
    assert (process.state, process.steps) == (state, [])


RESUME: dict[str, tuple[str, str, list[str], str]] = {
    "a restore that has no room": (
        "{'Restore': ('CUDA_ERROR_OUT_OF_MEMORY', None)}",
        "CHECKPOINTED",
        ["Restore"],
        (
            "NVIDIA's driver could not move the GPU's memory back (CUDA_ERROR_OUT_OF_MEMORY). "
            "It stays off the GPU."
        ),
    ),
    "a restore that loses everything": (
        "{'Restore': ('CUDA_ERROR_OPERATING_SYSTEM', 'FAILED')}",
        "FAILED",
        ["Restore"],
        (
            f"NVIDIA's driver could not move the GPU's memory back (CUDA_ERROR_OPERATING_SYSTEM). "
            f"{LOST}"
        ),
    ),
    "the unlocking": (
        "{'Unlock': ('CUDA_ERROR_ILLEGAL_STATE', None)}",
        "CHECKPOINTED",
        ["Restore", "Unlock", "Checkpoint"],
        (
            "NVIDIA's driver could not let this process's calls go on (CUDA_ERROR_ILLEGAL_STATE). "
            "It is off the GPU again."
        ),
    ),
    "the unlocking, and moving off again": (
        (
            "{'Unlock': ('CUDA_ERROR_ILLEGAL_STATE', None),"
            " 'Checkpoint': ('CUDA_ERROR_NOT_SUPPORTED', None)}"
        ),
        "LOCKED",
        ["Restore", "Unlock", "Checkpoint"],
        (
            "NVIDIA's driver could not let this process's calls go on (CUDA_ERROR_ILLEGAL_STATE). "
            f"{LOCKED}"
        ),
    ),
    "the state": (
        "{'GetState': ('CUDA_ERROR_OPERATING_SYSTEM', None)}",
        "CHECKPOINTED",
        [],
        "NVIDIA's driver does not tell the state of this process (CUDA_ERROR_OPERATING_SYSTEM).",
    ),
}


@pytest.mark.parametrize("what", RESUME)
def test_what_goes_wrong_on_the_way_back(what: str, process: Process) -> None:
    fail, state, steps, said = RESUME[what]
    process.get("cuda.vacate()")
    process.do("driver.calls.clear()")
    process.do(f"driver.fail.update({fail})")
    assert process.fails("cuda.resume()") == said
    assert (process.state, process.steps) == (state, steps)
    assert not process.get("gc.isenabled()"), "it is not back"
    if state != "FAILED":
        process.do("driver.fail.clear()")
        process.get("cuda.resume()")
        assert process.state == "RUNNING"
        assert process.gpus.used(process.pid) == 2 * GIB
        assert process.get("gc.isenabled()")


def test_a_driver_that_tells_nothing_of_a_process_that_was_never_moved(process: Process) -> None:
    process.do("driver.fail['GetState'] = ('CUDA_ERROR_NOT_INITIALIZED', None)")
    assert process.get("cuda.resume()") is None
    process.fails("cuda.vacate()")
    assert process.steps == []


def test_what_frameworks_only_keep_is_not_carried_along(process: Process) -> None:
    process.do(MODULE + "from gpu_share_kernel import vacate")
    process.do(
        "module('torch', cuda=Thing(is_initialized=lambda: True,"
        " empty_cache=lambda: driver.calls.append('empty')))"
    )
    assert process.get("vacate.vacate()")["proven"]
    assert process.steps == ["empty", "Lock", "Checkpoint"]
    process.do("cuda.own_driver.reached = lambda: True")
    process.get("vacate.vacate()")
    assert process.steps == [], "a call to CUDA would wait for ever now"
    process.get("vacate.resume()")
    # Nor does the machine need room for it.
    process.do(
        f"sys.modules['torch'].cuda.empty_cache = lambda: driver.allocate({-GIB})\n"
        f"cuda_signs.host_memory = lambda: {GIB + 300 * MIB}"
    )
    assert process.get("cuda.hindrance()") == ""


def test_what_failed_once_is_not_tried_again(process: Process) -> None:
    process.do("from gpu_share_kernel import vacate")
    process.do("driver.fail['Checkpoint'] = ('CUDA_ERROR_NOT_SUPPORTED', None)")
    process.fails("vacate.vacate()")
    process.do("vacate.resume(); driver.fail.clear(); driver.calls.clear()")
    planned = process.get("vacate.plan()")
    assert (planned["how"], planned["why"][:30]) == ("none", "Moving the GPU's memory away d")
    assert "CUDA_ERROR_NOT_SUPPORTED" in process.fails("vacate.vacate()")
    assert process.steps == []


def test_a_gpu_at_work_is_asked_again_more_and_more_seldom(process: Process) -> None:
    """Nothing was moved then."""
    process.do("from gpu_share_kernel import vacate; waits, clock = [], [0.0]")
    process.do("vacate.time = types.SimpleNamespace(monotonic=lambda: clock[0])")
    process.do("driver.fail['Lock'] = ('CUDA_ERROR_NOT_READY', None)")
    for _ in range(8):
        process.fails("vacate.vacate()")
        process.do("vacate.resume()")
        assert process.get("vacate.plan()")["how"] == "none"
        process.do("waits.append(vacate._until - clock[0]); clock[0] = vacate._until")
        assert process.get("vacate.plan()")["how"] == "cuda"
    assert process.get("waits")[:3] == [60, 120, 240]
    assert process.get("waits")[-1] == 3600
    process.do("driver.fail.clear()")
    assert process.get("vacate.vacate()")["proven"]


def test_the_driver_has_to_tell_the_state_too(process: Process) -> None:
    process.do("driver.fail['Checkpoint'] = ('CUDA_SUCCESS', None)")
    said = process.fails("cuda.vacate()")
    assert said == (
        "NVIDIA's driver says that the GPU's memory was moved away, and then that the process is "
        "LOCKED. Nothing has changed."
    )
    assert process.state == "RUNNING"
