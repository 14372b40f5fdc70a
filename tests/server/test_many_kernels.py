"""Many kernels in one server: each starts, runs a cell and ends, and nothing is left."""

from __future__ import annotations

import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rounds import ROUNDS
from servers import Server, run_server, stop_server, until

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(1500)]

#: In `make faults` it is as many as a busy server has.
KERNELS = 200 if ROUNDS > 1 else 24
AT_ONCE = 6


def held(server: Server) -> dict[str, int]:
    """Threads and descriptors of the server's process."""
    process = Path(f"/proc/{server.process.pid}")
    return {name: len(os.listdir(process / name)) for name in ("task", "fd")}  # noqa: PTH208


def test_each_starts_runs_a_cell_and_ends(tmp_path: Path) -> None:
    # What systems give a user's programs at first; the server raises it as far as it may.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 30 * KERNELS, "this machine lets no program open that many files"
    server = run_server(tmp_path, simulate="4xA100-80GB")
    try:
        before = held(server)

        def start(number: int) -> str:
            kernel_id = server.start_kernel("1/64")
            assert server.run_cell(kernel_id, f"print({number})") == str(number)
            return kernel_id

        with ThreadPoolExecutor(AT_ONCE) as pool:
            kernels = list(pool.map(start, range(KERNELS)))
        rows = server.ok("gpu-share/allocations")
        assert {row["kernel_id"] for row in rows} == set(kernels)
        assert all(row["share"] for row in rows)
        now = held(server)
        each = {name: (now[name] - before[name]) / KERNELS for name in now}
        print(f"{KERNELS} kernels, each: {each}")
        assert each["task"] < 4, each
        assert server.run_cell(kernels[0], "print('still here')") == "still here"
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda each: server.ok(f"api/kernels/{each}", "DELETE"), kernels))
        assert server.ok("gpu-share/allocations") == []
        for gpu in server.ok("gpu-share/status")["gpus"]:
            assert gpu["free_bytes"] == gpu["memory_bytes"]
        until(lambda: held(server)["fd"] < before["fd"] + 40, "the descriptors are free again")
        until(lambda: held(server)["task"] < before["task"] + 40, "so are the threads")
    finally:
        stop_server(server)
    assert "Traceback" not in server.log.read_text()
