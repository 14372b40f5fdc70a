"""Whatever is done to a kernel in any order loses nothing and doubles nothing, whoever dies.

Schedules run side by side on one server, on GPUs for which they partly compete; each twentieth has
a server of its own, which is stopped in good order now and then. ``make faults`` runs 500 for
processes that live on without their share, and 500 for variables that are saved.

``JUPYTER_GPU_SHARE_FAULT_SEED`` is the seed that all others are made of. One that fails tells its
own, from which it can be run alone::

    JUPYTER_GPU_SHARE_FAULT_ONE=20260301-in-place-17 pytest tests/release/test_schedules.py
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from release.machine import GPU_BYTES, LocalMachine, faults_in_log, kernels_of
from release.schedules import ALL_ACTIONS, Schedule
from rounds import ROUNDS, SEED
from servers import Server, run_server, stop_server, until

ONE = os.environ.get("JUPYTER_GPU_SHARE_FAULT_ONE", "")
WAYS = ("in-place", "snapshot")
#: Schedules of one test, and how many of them run at a time.
BATCH, BESIDE = (25, 8) if ROUNDS > 1 else (8, 8)
#: One of so many schedules has a server of its own.
OWN_SERVER = 20 if ROUNDS > 1 else 8
STEPS = 12
GPUS = "2xA100-80GB"
#: So small that most of the schedules at a time find room, and some do not.
STARTS = ("1/8", "1/8", "1/4", "1/4", "1/2")
SIZES = (*STARTS, "3/4")
#: Seconds that a kernel may have to wait for the shares of the others.
PATIENCE = 180.0
_saying = threading.Lock()

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> Any:
    if ONE and f"-{request.param}-" not in ONE:
        pytest.skip("the other way is to be run")
    return request.param


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, way: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    say(request, f"schedules {way}, seed {SEED}")
    running = run_server(tmp_path_factory.mktemp("beside"), *arguments(way), simulate=GPUS)
    yield running
    stop_server(running)
    assert not kernels_of(running)


def arguments(way: str) -> tuple[str, ...]:
    """Of a server. Unused shares go soon, and kernels that died are started again at once."""
    return (
        f"--IdlePolicy.in_place={way == 'in-place'}",
        "--IdlePolicy.rule=fixed",
        "--IdlePolicy.timeout=4",
        "--IdlePolicy.demand_after=2",
        "--IdlePolicy.idle_after=1",
        "--IdlePolicy.warn_before=1",
        "--GpuShareProvisioner.queue_patience=1",
        "--AsyncIOLoopKernelRestarter.time_to_dead=0.5",
        "--AsyncIOLoopKernelRestarter.restart_limit=100",
    )


def run_beside(server: Server, seed: str) -> None:
    """One schedule on a server that has other kernels."""
    size = random.Random(seed).choice(STARTS)
    folder = server.folder / seed
    folder.mkdir(exist_ok=True)
    kernel_id = server.start_kernel(size, folder=seed)
    machine = LocalMachine(server, kernel_id, folder, simulate=GPUS)
    kills = {"kernel": machine.kill_kernel}
    try:
        Schedule(
            server,
            kernel_id,
            seed,
            kills,
            actions=ALL_ACTIONS,
            sizes=SIZES,
            machine=machine,
            patience=PATIENCE,
        ).run(STEPS)
    finally:
        server.ok(f"api/kernels/{kernel_id}", "DELETE")
    machine.check_gone()


def run_alone(folder: Path, way: str, seed: str) -> None:
    """One schedule on a server of its own, which is stopped and followed by another."""
    server = run_server(folder, *arguments(way), simulate=GPUS)
    machine = None
    try:
        kernel_id = server.start_kernel("3/4")
        machine = LocalMachine(server, kernel_id, arguments=arguments(way), simulate=GPUS)
        kills = {"kernel": machine.kill_kernel, "server": machine.stop_server}
        Schedule(server, kernel_id, seed, kills, actions=ALL_ACTIONS, machine=machine).run(STEPS)
        machine.server.ok(f"api/kernels/{kernel_id}", "DELETE")
        machine.check_gone()
        check_free(machine.server)
    finally:
        last = machine.server if machine is not None else server
        if last.process.poll() is None:
            stop_server(last)
    assert not faults_in_log(last), faults_in_log(last)


def say(request: pytest.FixtureRequest, text: str) -> None:
    """Print at once what a run of many minutes is to tell."""
    plugins = request.config.pluginmanager
    terminal: Any = plugins.getplugin("terminalreporter")
    capture: Any = plugins.getplugin("capturemanager")
    with _saying, capture.global_and_fixture_disabled():
        terminal.write_line(f"\n{text}")


def check_free(server: Server) -> None:
    """All that the GPUs have is free again, and no kernel runs."""
    gpus = server.ok("gpu-share/status")["gpus"]
    assert [gpu["free_bytes"] for gpu in gpus] == [GPU_BYTES] * len(gpus)
    until(lambda: not kernels_of(server), "no kernel is left")


@pytest.mark.parametrize("batch", range(1 if ONE else ROUNDS))
def test_no_cell_is_lost_or_doubled(
    server: Server, way: str, batch: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    turns = [int(ONE.rpartition("-")[2])] if ONE else range(batch * BATCH, (batch + 1) * BATCH)
    base = ONE.partition("-")[0] or SEED
    failed: list[str] = []

    def run(turn: int) -> None:
        seed = f"{base}-{way}-{turn}"
        try:
            if turn % OWN_SERVER == OWN_SERVER - 1:
                run_alone(tmp_path / seed, way, seed)
            else:
                run_beside(server, seed)
        except Exception as error:
            failed.append(_told(error))
            say(request, failed[-1])

    with ThreadPoolExecutor(BESIDE) as pool:
        list(pool.map(run, turns))
    fault = faults_in_log(server)
    assert not failed and not fault, "\n\n".join([*failed, fault])
    check_free(server)


def _told(error: BaseException | None) -> str:
    """What went wrong, and what had gone wrong before."""
    texts: list[str] = []
    while error is not None:
        texts.insert(0, str(error) or repr(error))
        error = None if error.__suppress_context__ else error.__context__
    return "\n".join(dict.fromkeys(texts))
