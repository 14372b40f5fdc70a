"""Servers for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Server, run_server, stop_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every file here starts servers: together they take too long for the part run most often."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one simulated GPU of 80 GiB, for all tests of a file."""
    found = run_server(
        tmp_path_factory.mktemp("server"), "--GpuShareProvisioner.queue_patience=1.5"
    )
    yield found
    stop_server(found)


@pytest.fixture
def clean(server: Server) -> Iterator[Server]:
    """The server, with no kernels before and after the test."""
    yield server
    for kernel in server.ok("api/kernels"):
        server.fetch(f"api/kernels/{kernel['id']}", "DELETE")
