"""What the processes of a kernel use, read from within a pod."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import ARGV, FAST, Pod, as_first_process, both_ways, run, share_of_simulated
from driver.fake_driver import FakeDriver
from waiting import PATIENCE, eventually

from jupyter_gpu_share.kernel_side import PATH
from jupyter_gpu_share.kernel_side.gpu_share_kernel.readings import (
    Gpu,
    memory_events,
    resident_bytes,
    simulated_use,
    tree,
)

MIB, GIB = 2**20, 2**30

# -- GPUs: NVIDIA's library is the FAKE one of tests/driver --------------------------------------


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[FakeDriver]:
    made = FakeDriver(tmp_path / "driver", 2)
    made.state.gpus[0].busy, made.state.gpus[1].busy = 40, 10
    yield made
    made.close()


def reading(driver: FakeDriver, pids: set[int]) -> list[object]:
    """Whether the library answers, and what is read of these processes."""
    code = "import json, sys; from gpu_share_kernel.readings import Gpu; gpu = Gpu(); "
    code += "print(json.dumps([gpu.present, *gpu.read(set(json.loads(sys.argv[1])))]))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, json.dumps(sorted(pids))],
        env={**os.environ, **driver.env, "PYTHONPATH": str(PATH)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    found: list[object] = json.loads(done.stdout)
    return found


def test_without_the_drivers_library_nothing_is_known() -> None:
    none = Gpu("libno-such-library.so.1")
    assert not none.present
    assert none.read({1}) == (None, None)


@pytest.mark.parametrize("init", [0, 9], ids=["no GPU", "not loaded"])
def test_without_a_gpu_nothing_is_known(init: int, driver: FakeDriver) -> None:
    driver.state.init, driver.state.count = init, 0
    assert reading(driver, {1}) == [False, None, None]


@pytest.mark.parametrize(
    ("running", "used"),
    [
        ({100: 5}, 5 * MIB),
        ({100: 5, 101: 7, 200: 1000}, 12 * MIB),
        ({100: 0}, 0),
        ({200: 1000}, None),  # the driver numbers processes as they are outside: not known
        ({100: None}, None),
        ({100: None, 101: 3}, 3 * MIB),
        ({}, None),
        (dict.fromkeys(range(31, 131), 1), 2 * MIB),
    ],
    ids=str,
)
def test_the_memory_of_the_kernels_own_processes(
    running: dict[int, int | None], used: int | None, driver: FakeDriver
) -> None:
    for pid, mib in running.items():
        driver.pretend(pid, None if mib is None else mib * MIB)
    assert reading(driver, {100, 101}) == [True, used, 0.4], "that of the busiest GPU"


def test_a_driver_that_tells_no_utilisation(driver: FakeDriver) -> None:
    driver.state.count, driver.state.gpus[0].instances = 1, 7
    driver.pretend(100, 5 * MIB)
    assert reading(driver, {100}) == [True, 5 * MIB, None]


def test_a_driver_that_is_too_old_to_list_processes(driver: FakeDriver) -> None:
    driver.state.old = 2
    driver.pretend(100, 5 * MIB)
    assert reading(driver, {100}) == [True, None, 0.4]


# -- simulated GPUs ----------------------------------------------------------------------------


def test_simulated_use_is_the_sum_over_processes_and_devices(tmp_path: Path) -> None:
    now = time.time()
    rows = {
        1: {"used": {"SIM-0": 5, "SIM-1": 7}, "busy_until": 0},
        2: {"used": {"SIM-0": 11}, "busy_until": now + 60},
        3: {"used": {"SIM-0": 1000}, "busy_until": now + 60},
    }
    for pid, row in rows.items():
        (tmp_path / f"{pid}.json").write_text(json.dumps(row))
    assert simulated_use(str(tmp_path), {1, 2, 99}, now) == (23, 1.0)
    assert simulated_use(str(tmp_path), {1}, now) == (12, 0.0)
    assert simulated_use(str(tmp_path / "none"), {1}, now) == (0, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"used": 5, "busy_until": 0}',
        '{"used": {"a": "x"}, "busy_until": 0}',
        '{"used": {"a": null}, "busy_until": 0}',
        '{"used": {"a": 1e999}, "busy_until": 0}',
        '{"used": {"a": 5}}',
        '{"used": {"a": 5}, "busy_until": "late"}',
        "[" * 100_000,
        "\x00\xff",
    ],
)
def test_what_something_else_wrote_there_counts_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text(text, encoding="latin-1")
    (tmp_path / "2.json").write_text('{"used": {"a": 5}, "busy_until": 0}')
    (tmp_path / "3.json").mkdir()
    assert simulated_use(str(tmp_path), {1, 2, 3}, 1.0) == (5, 0.0)


# -- the machine -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n", 3),
        ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", 4),
        ("memory.events", "low 0\nmax 7\n", None),
        ("memory.events", "", None),
        ("memory.events", "oom_kill many\n", None),
        ("memory.events", "oom_kill 1 2\n", None),
        ("memory.other", "oom_kill 5\n", None),
    ],
)
def test_how_often_memory_was_wanting(
    name: str, text: str, number: int | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert memory_events(str(tmp_path)) == number


def test_the_second_version_of_control_groups_counts_first(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("oom_kill 1\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.oom_control").write_text("oom_kill 2\n")
    assert memory_events(str(tmp_path)) == 1


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own with 50 MiB, and one of its own with as much."""
    code = (
        "import subprocess, sys\n"
        "held = b'x' * (50 * 2**20)\n"
        "mine = ['-c', 'h = b\"x\" * (50 * 2**20); print(flush=True); input()']\n"
        "p = subprocess.Popen([sys.executable, *mine], stdin=subprocess.PIPE,\n"
        "                     stdout=subprocess.PIPE, start_new_session=True)\n"
        "p.stdout.readline()\n"
        "print(p.pid, flush=True)\n"
        "input()\n"
        "p.communicate(b'.')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.communicate("\n", timeout=PATIENCE)


def test_a_tree_has_children_whatever_their_session_and_their_memory(
    child: subprocess.Popen[str],
) -> None:
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    assert tree(child.pid) == {child.pid, grandchild}
    assert os.getpid() not in tree(child.pid)
    assert {child.pid, grandchild} < tree(os.getpid())
    one, both = resident_bytes({child.pid}), resident_bytes({child.pid, grandchild})
    assert 50 * MIB < one < 150 * MIB
    assert one + 50 * MIB < both
    assert resident_bytes({2**22 + 1}) == 0, "one that is gone uses nothing"


# -- told by an agent --------------------------------------------------------------------------


@pytest.mark.slow
@both_ways
async def test_an_agent_tells_of_simulated_memory_and_work(env: dict[str, str], pod: Pod) -> None:
    pod.boot(before=FAST)
    link = pod.link()
    await link.start("r1", ARGV, env | share_of_simulated(pod.folder), None)
    client = await pod.ready()
    await eventually(lambda: link.state and link.state.used_bytes == 0, "nothing is used")
    await run(client, "from gpu_share_kernel import simulated; m = simulated.allocate('3GiB')")
    await eventually(lambda: link.state and link.state.used_bytes == 3 * GIB, "the use is told")
    assert link.state is not None
    assert link.state.utilization == 0.0
    # A process that the kernel starts uses the same share.
    await run(client, "def take():\n    n = simulated.allocate('2GiB'); simulated.work(60)")
    await run(client, "from multiprocessing import get_context as how")
    await run(client, "p = how('fork').Process(target=take); p.start()")
    await eventually(lambda: link.state and link.state.used_bytes == 5 * GIB, "both count")
    await eventually(lambda: link.state and link.state.utilization == 1.0, "the work is told")
    await link.start("r2", ARGV, env | share_of_simulated(pod.folder), None)
    await eventually(lambda: link.state and link.state.used_bytes == 0, "all is given back")


@pytest.mark.slow
@both_ways
async def test_an_agent_tells_of_the_machines_memory(env: dict[str, str], pod: Pod) -> None:
    pod.boot(before=FAST)
    link = pod.link()
    await link.start("r1", ARGV, env, None)
    client = await pod.ready()
    before = await eventually(lambda: link.state and link.state.memory_bytes, "it is told")
    assert 20 * MIB < before < 1000 * MIB
    await run(client, "held = b'x' * (300 * 2**20)")
    await eventually(
        lambda: link.state and (link.state.memory_bytes or 0) > before + 290 * MIB, "it has grown"
    )
    assert link.state is not None
    assert (link.state.used_bytes, link.state.utilization) == (None, None), "there is no GPU"


@pytest.mark.slow
async def test_an_agent_tells_only_what_has_changed(pod: Pod) -> None:
    count = """
from gpu_share_kernel import readings
real = readings.simulated_use
def noted(*args):
    with open("readings", "a") as file:
        file.write(".")
    return real(*args)
readings.simulated_use = noted
"""
    pod.boot(before=FAST + count)
    link = pod.link(renewal=60.0)
    await link.start("r1", ["sleep", "600"], share_of_simulated(pod.folder), None)
    await eventually(lambda: link.state and link.state.used_bytes == 0, "a reading is told")
    peer = pod.peer()
    await peer.say("renew")
    await peer.heard()  # from here on it is the peer that is told
    number = len((pod.folder / "readings").read_text())
    await eventually(
        lambda: len((pod.folder / "readings").read_text()) > number + 5, "it goes on to read"
    )
    (pod.folder / "simulated" / f"{min(pod.kernels())}.json").write_text(
        '{"used": {"SIM-0": 7}, "busy_until": 0}'
    )
    assert (await peer.heard())["reading"]["used_bytes"] == 7, "nothing was said in between"


def cgroup(pod: Pod) -> tuple[Path, str]:
    """A fake of what a container's control group counts, and how an agent comes to read it."""
    path = pod.folder / "fake-cgroup" / "memory.events"
    path.parent.mkdir()
    path.write_text("oom_kill 2\n")
    before = (
        "from gpu_share_kernel import readings\n"
        f"readings.memory_events.__defaults__ = ({str(path.parent)!r},)\n"
    )
    return path, before


#: What the control group has counted in the meantime, how the kernel ended, and what is said.
WANTS: list[tuple[str, str, int, str]] = [
    ("oom_kill 3\n", "import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, "oom"),
    ("oom_kill 2\n", "import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
    ("oom_kill 3\n", "import os; os._exit(5)", 5, ""),
    ("oom_kill 3\n", "import os; os.kill(os.getpid(), 15)", -signal.SIGTERM, ""),
    ("", "import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
]


@pytest.mark.slow
@both_ways
async def test_want_of_memory_is_named_only_where_the_container_had_none_left(
    env: dict[str, str], pod: Pod
) -> None:
    path, before = cgroup(pod)
    pod.boot(before=before)
    link = pod.link()
    for number, (counted, cell, code, why) in enumerate(WANTS):
        path.write_text("oom_kill 2\n")
        await link.start(f"r{number}", ARGV, env, None)
        client = await pod.ready()
        path.write_text(counted)
        client.execute(cell)
        await eventually(lambda: link.state and link.state.exit_code is not None, "it has ended")
        assert link.state is not None
        assert (link.state.exit_code, link.state.exit_why) == (code, why)


@pytest.mark.slow
async def test_a_kernel_that_the_server_ended_did_not_want_memory(pod: Pod) -> None:
    """Though a process that it had started did, a while ago."""
    path, before = cgroup(pod)
    pod.boot(before=before)
    link = pod.link()
    await link.start("r1", ARGV, {}, None)
    await pod.ready()
    path.write_text("oom_kill 3\n")
    await link.end(PATIENCE)
    assert link.state is not None
    assert (link.state.exit_code, link.state.exit_why) == (-signal.SIGKILL, "")


@pytest.mark.slow
@as_first_process
async def test_numbers_of_a_container_are_not_taken_for_the_drivers(
    driver: FakeDriver, first: Pod
) -> None:
    """The driver is the FAKE one. It tells of processes that have our numbers outside."""
    for pid in range(1, 100):
        driver.pretend(pid, 7 * MIB)
    env = {name: driver.env[name] for name in ("FAKE_DRIVER", "LD_LIBRARY_PATH")}
    first.boot(before=FAST, env=env)
    link = first.link()
    await link.start("r1", ["sleep", "600"], {}, None)
    await eventually(lambda: link.state and link.state.utilization == 0.4, "the GPU is read")
    assert link.state is not None
    assert link.state.used_bytes is None, "the driver counts processes as they are outside"
