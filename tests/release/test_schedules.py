"""Cells, releases and wakes in any order lose nothing and double nothing, whoever dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from release.schedules import Schedule
from rounds import ROUNDS, SEED
from servers import Server, run_server, stop_server, until

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=["in-place", "snapshot"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("release")
    in_place = request.param == "in-place"
    running = run_server(folder, f"--IdlePolicy.in_place={in_place}")
    yield running
    stop_server(running)


def kill_kernel(schedule: Schedule) -> bool:
    """The kernel's process is killed; jupyter_server starts it again."""
    server = schedule.server
    killed = kernels_of(server)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    if not killed:
        return True

    def settled() -> str:
        row = server.ok(f"gpu-share/allocations/{schedule.kernel_id}")
        if row["state"] == "released" and row["kept"]["how"] == "snapshot":
            return "saved"  # a release that was about to end the process
        again = row["state"] in ("active", "idle") and kernels_of(server) - killed
        return "again" if again else ""

    return bool(until(settled, "it runs again") == "saved")


def kernels_of(server: Server) -> set[int]:
    """Processes of kernels of a server."""
    found = set()
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        if _is_kernel_of(cmdline, server.process.pid):
            found.add(int(cmdline.parent.name))
    return found


def _is_kernel_of(cmdline: Path, server: int) -> bool:
    try:
        words = cmdline.read_bytes().split(b"\0")
        parent = int((cmdline.parent / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return False
    return parent == server and any(b"ipykernel" in word for word in words)


@pytest.mark.parametrize("turn", range(4 * ROUNDS))
def test_no_cell_is_lost_or_doubled(server: Server, turn: int) -> None:
    kernel_id = server.start_kernel("3/4")
    schedule = Schedule(server, kernel_id, f"{SEED}-local-{turn}", {"kernel": kill_kernel})
    try:
        schedule.run()
    finally:
        server.ok(f"api/kernels/{kernel_id}", "DELETE")
    assert server.ok("gpu-share/status")["gpus"][0]["free_bytes"] == 80 * 2**30
