"""A kernel whose share went back long ago is ended, and the server is none the worse for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from servers import run_server, stop_server, until

pytestmark = pytest.mark.slow

OPTIONS = (
    "--IdlePolicy.rule=fixed",
    "--IdlePolicy.idle_after=0.1",
    "--IdlePolicy.timeout=0.5",
    "--IdlePolicy.warn_before=0",
    "--IdlePolicy.cull_after=0.5",
)


@pytest.mark.parametrize("in_place", [True, False], ids=["in-place", "saved"])
def test_a_kernel_is_ended_long_after_its_share_went_back(tmp_path: Path, in_place: bool) -> None:
    server = run_server(tmp_path, f"--IdlePolicy.in_place={in_place}", *OPTIONS)
    try:
        kernel_id = server.start_kernel("1/2")
        server.run_cell(kernel_id, "x = 1")
        until(lambda: kernel_id not in server.kernels(), "the kernel is ended")
        until(lambda: server.ok("gpu-share/allocations") == [], "its allocation is over")
        assert server.fetch(f"api/kernels/{kernel_id}", "DELETE")[0] == 404
        assert server.ok("gpu-share/status")["gpus"][0]["free_bytes"] == 80 * 2**30
        again = server.start_kernel("1")
        assert server.run_cell(again, "print('goes on')") == "goes on"
    finally:
        began = time.monotonic()
        stop_server(server)
    assert time.monotonic() - began < 20
    assert "Traceback" not in server.log.read_text()
