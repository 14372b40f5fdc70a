"""What a server sees of GPUs that change, through NVIDIA's own binding on a FAKE driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_driver import APART, GIB, MIB, NO_MEMORY, UUIDS, FakeDriver, needs_namespaces
from waiting import PATIENCE

from jupyter_gpu_share.engines.local import _inventory

HERE = Path(__file__).parent
ASK = """
import dataclasses, json, sys
from jupyter_gpu_share.engines.local import _doctor
from jupyter_gpu_share.engines.local._inventory import certain_use, inventory, real_use
from jupyter_gpu_share.errors import NoGpuError
try:
    found = inventory()
    pids = [int(pid) for pid in sys.argv[1:]]
    use = real_use(found.gpus, pids)
    print(json.dumps({
        "gpus": [gpu.index for gpu in found.gpus], "driver": found.driver,
        "all": [dataclasses.asdict(gpu) for gpu in found.gpus], "troubles": found.troubles,
        "numbered": found.numbered, "in use": found.in_use,
        "use": {pid: [dict(row.used), row.utilization] for pid, row in use.items()},
        "certain": certain_use(found.gpus, pids),
        "doctor": [finding.what for finding in _doctor.about_gpus(found)],
    }))
except NoGpuError as error:
    print(json.dumps({"error": str(error), "cause": type(error.__cause__).__name__}))
"""
USE = f"""
import fake_gpu_program as gpu
mine = gpu.Array({GIB})
print(flush=True); input()
"""


@pytest.fixture
def program(driver: FakeDriver) -> Iterator[subprocess.Popen[str]]:
    """One that uses 1 GiB of the first GPU."""
    with subprocess.Popen(
        [sys.executable, "-c", USE],
        env={**os.environ, **driver.env, "PYTHONPATH": str(HERE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.communicate("\n", timeout=PATIENCE)


def ask(driver: FakeDriver, *pids: int, before: tuple[str, ...] = ()) -> Any:
    done = subprocess.run(
        [*before, sys.executable, "-c", ASK, *map(str, pids)],
        env={**os.environ, **driver.env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_whole_gpus(driver: FakeDriver) -> None:
    driver.state.gpus[0].reserved = GIB
    found = ask(driver)
    assert found["driver"] == "999.1-fake"
    first, second = found["all"]
    assert (first["uuid"], first["index"], first["model"]) == (UUIDS[0], 0, "NVIDIA Fake-16GB")
    assert (first["memory_bytes"], second["memory_bytes"]) == (15 * GIB, 16 * GIB)
    assert (first["simulated"], first["profile"], first["parent"]) == (False, None, None)


def test_an_old_driver_tells_no_reserve(driver: FakeDriver) -> None:
    driver.state.gpus[0].reserved, driver.state.old = GIB, 2
    driver.pretend(101, GIB)
    found = ask(driver, 101)
    assert found["all"][0]["memory_bytes"] == 16 * GIB
    assert found["use"] == {}, "nor does it list processes"
    assert found["certain"] is None


def test_instances_of_mig_stand_for_their_gpu(driver: FakeDriver) -> None:
    driver.state.gpus[0].instances = 7
    gpus = ask(driver)["all"]
    assert [gpu["uuid"] for gpu in gpus] == [*(f"MIG-0-{n}" for n in range(7)), UUIDS[1]]
    assert [gpu["profile"] for gpu in gpus] == ["1g.10gb"] * 7 + [None]
    assert [gpu["parent"] for gpu in gpus] == [UUIDS[0]] * 7 + [None]
    assert gpus[0]["memory_bytes"] == 16 * GIB // 7


def test_of_several_processes_those_that_are_not_told_are_left_out(driver: FakeDriver) -> None:
    for pid, nbytes in ((101, 2 * GIB), (102, None), (999, GIB)):
        driver.pretend(pid, nbytes)
    found = ask(driver, 101, 102, 103)
    assert found["use"] == {"101": [{UUIDS[0]: 2 * GIB}, None]}
    assert found["certain"] is None, "of one it is not known"


def test_what_processes_use_is_certain_where_it_is_known_of_each(
    driver: FakeDriver, program: subprocess.Popen[str]
) -> None:
    """One that no GPU lists uses nothing."""
    driver.pretend(101, 2 * GIB)
    both = {UUIDS[0]: 3 * GIB + 256 * MIB, UUIDS[1]: 0}
    assert ask(driver, program.pid, 101, 103)["certain"] == both
    assert ask(driver, 103)["certain"] == {UUIDS[0]: 0, UUIDS[1]: 0}
    driver.state.gpus[1].others = 2 * GIB
    assert ask(driver, 103)["certain"] is None, "somebody uses it who is not listed"


@pytest.mark.parametrize(
    ("init", "says", "cause"),
    [(9, "driver is not loaded", "NVMLError_DriverNotLoaded"), (0, "sees no GPU", "NoneType")],
)
def test_no_gpu(init: int, says: str, cause: str, driver: FakeDriver) -> None:
    driver.state.init, driver.state.count = init, 0
    found = ask(driver)
    assert says in found["error"]
    assert "Choose size 0" in found["error"]
    assert found["cause"] == cause


def test_each_gpu_answers_for_itself(driver: FakeDriver, program: subprocess.Popen[str]) -> None:
    driver.state.gpus[1].lost = 1
    found = ask(driver, program.pid)
    assert found["gpus"] == [0]
    assert found["troubles"] == [
        "GPU 1 does not answer (GPU is lost) and is not offered; nvidia-smi says more."
    ]
    assert found["troubles"][0] in found["doctor"]
    assert found["use"] == {str(program.pid): [{UUIDS[0]: GIB + 256 * MIB}, None]}
    assert not found["numbered"], "CUDA does not count the one that is lost"
    driver.state.gpus[0].lost = 1
    assert "GPU 0 does not answer" in ask(driver)["error"]


def test_what_is_in_use_is_told_by_gpu(driver: FakeDriver, program: subprocess.Popen[str]) -> None:
    driver.state.gpus[0].reserved = GIB
    driver.state.gpus[1].others = 3 * GIB
    found = ask(driver)
    assert found["in use"] == {UUIDS[0]: GIB + 256 * MIB, UUIDS[1]: 3 * GIB}
    assert found["numbered"]
    driver.state.gpus[1].instances = 2
    assert not ask(driver)["numbered"], "instances are counted apart"


def test_memory_that_is_not_told_is_not_taken_for_none(
    driver: FakeDriver, program: subprocess.Popen[str]
) -> None:
    driver.state.told = NO_MEMORY
    found = ask(driver, program.pid)
    assert (found["use"], found["certain"]) == ({}, None)


def test_numbers_of_another_namespace_are_nobodys(
    driver: FakeDriver, program: subprocess.Popen[str]
) -> None:
    """A process there may have by chance the number that the driver tells of one here."""
    needs_namespaces()
    found = ask(driver, program.pid, before=APART)
    assert (found["use"], found["certain"]) == ({}, None)
    assert "not known" in found["doctor"][-1]


@pytest.mark.parametrize(
    ("age", "sm", "told"), [(0, 40, 0.4), (0, 4294967295, None), (0, 101, None), (60, 40, None)]
)
def test_utilisation_is_of_now_and_a_share(
    age: int, sm: int, told: float | None, driver: FakeDriver, program: subprocess.Popen[str]
) -> None:
    """Drivers remember samples of what has long ended, and some are garbage."""
    with driver.changed() as state:
        (process,) = [row for row in state.processes if row.pid == program.pid]
        process.sm, process.stamp = sm, int((time.time() - age) * 1e6)
    assert ask(driver, program.pid)["use"][str(program.pid)][1] == told


def test_drivers_that_give_all_that_they_remember_are_asked_for_little() -> None:
    """Each by itself keeps the old out: what is asked for, and what is taken of the answer."""
    now, asked = time.time() * 1e6, list[int]()
    rows = [
        SimpleNamespace(pid=n, timeStamp=now - age * 1e6, smUtil=40) for n, age in ((1, 0), (2, 60))
    ]

    class Remembering:
        NVMLError = RuntimeError

        @staticmethod
        def nvmlDeviceGetProcessUtilization(_: object, since: int) -> list[SimpleNamespace]:
            asked.append(since)
            return rows

    assert list(_inventory._utilizations(Remembering, None)) == [(1, 0.4)]
    assert now - 60e6 < asked[0] <= now + 60e6


def test_a_gpu_without_memory_of_its_own_is_named(driver: FakeDriver) -> None:
    driver.state.count, driver.state.gpus[0].no_memory = 1, 1
    assert "has no memory of its own" in ask(driver)["error"]


def test_a_driver_that_was_updated_under_the_system(driver: FakeDriver) -> None:
    driver.state.init = 18
    assert "Restart the machine" in ask(driver)["error"]


def test_what_the_server_may_not_use_is_not_offered(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert ask(driver)["gpus"] == [1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", UUIDS[0][:-1])
    assert ask(driver)["gpus"] == [0, 1], "by how a name begins"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,7,1")
    assert ask(driver)["gpus"] == [0], "behind a wrong name nothing is seen"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "leaves it no GPU" in ask(driver)["error"]
