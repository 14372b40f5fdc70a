"""The administrator's rules, as a server's users meet them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from servers import Server, run_server, stop_server


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Server]:
    """A server whose kernels may hold half a GPU each and three quarters together."""
    found = run_server(
        tmp_path,
        "--SizePolicy.maximum=1/2",
        "--SizePolicy.max_total=3/4",
        "--SizePolicy.allow_zero=False",
        "--GpuShareApp.show_queue=False",
    )
    yield found
    stop_server(found)


def test_offers_tell_what_the_rules_leave(strict: Server) -> None:
    rows = strict.ok("gpu-share/sizes")["sizes"]
    assert [(row["size"], row["available"]) for row in rows] == [("1/4", True), ("1/2", True)]
    strict.start_kernel("1/2")
    rows = {row["size"]: row for row in strict.ok("gpu-share/sizes")["sizes"]}
    assert rows["1/4"]["available"]
    assert "3/4 GPUs is the limit" in rows["1/2"]["why"]
    assert [rows[size]["over_limit"] for size in ("1/4", "1/2")] == [False, True]
    assert strict.ok("gpu-share/status")["queue"] is None


@pytest.mark.parametrize("size", ["3/4", "0"])
def test_a_request_that_the_rules_exclude(strict: Server, size: str) -> None:
    status, found = strict.fetch(f"gpu-share/requests/{uuid4()}", "PUT", {"size": size})
    assert status == 400, found


def test_the_total_counts_memory_too(strict: Server) -> None:
    strict.start_kernel("40GiB")
    kernel_id = str(uuid4())
    strict.ok(f"gpu-share/requests/{kernel_id}", "PUT", {"size": "30GiB"})
    body = {"name": "python3", "kernel_id": kernel_id}
    status, found = strict.fetch("api/kernels", "POST", body)
    assert status >= 400
    assert "3/4 GPUs is the limit" in found["message"]
    assert len(strict.ok("gpu-share/allocations")) == 1
