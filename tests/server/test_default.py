"""Which kernels start on a share, as a server is installed and as it is configured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from servers import Server, run_server, stop_server

ENVIRONMENT = "import os; print(*(n for n in os.environ if 'SHARE_MEM' in n or 'CUDA_V' in n))"
#: A kernelspec that chooses its provisioner itself.
PLAIN = {"provisioner_name": "local-provisioner"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a server's files are, with a kernelspec that never has a share."""
    monkeypatch.delenv("JUPYTER_DEFAULT_PROVISIONER_NAME", raising=False)
    spec = tmp_path / "data" / "kernels" / "plain"
    spec.mkdir(parents=True)
    argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    stanza = {"kernel_provisioner": PLAIN}
    text = {"argv": argv, "display_name": "plain", "language": "python", "metadata": stanza}
    (spec / "kernel.json").write_text(json.dumps(text))
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Any]:
    """Starts a server, which ends with the test."""
    running: list[Server] = []

    def make(*arguments: str, simulate: str = "1xA100-80GB") -> Server:
        running.append(run_server(folder, *arguments, simulate=simulate))
        return running[-1]

    yield make
    for server in running:
        stop_server(server)


def wish(server: Server, name: str) -> tuple[int, dict[str, Any]]:
    """Ask for a size for a kernel of a kernelspec."""
    status, found = server.fetch(
        f"gpu-share/requests/{uuid4()}", "PUT", {"size": "1/4", "name": name}
    )
    return status, found


def starts_plain(server: Server, name: str = "python3") -> None:
    """A kernel starts as it would without this package."""
    kernel = server.ok("api/kernels", "POST", {"name": name})["id"]
    assert server.ok("gpu-share/allocations") == []
    assert server.run_cell(kernel, ENVIRONMENT) == ""


def test_every_kernel_starts_on_a_share_as_installed(start: Any) -> None:
    server = start()
    assert server.ok("gpu-share/sizes")["kernelspecs"] == ["python3"]
    kernel = server.ok("api/kernels", "POST", {"name": "python3"})["id"]
    assert server.wait_for(kernel, "active")["share"]["fraction"] == "1/4"
    assert wish(server, "python3")[0] == 200
    status, found = wish(server, "plain")
    assert status == 409
    assert "'plain' start without a share" in found["message"]
    status, found = wish(server, "nobody's")
    assert (status, found["message"]) == (409, 'There is no kernelspec "nobody\'s".')
    server.ok(f"api/kernels/{kernel}", "DELETE")
    starts_plain(server, "plain")


@pytest.mark.parametrize(
    ("place", "model"),
    [
        ("api/kernels", {"name": "python3"}),
        ("api/sessions", {"path": "", "type": "program", "kernel": {"name": "python3"}}),
    ],
)
def test_a_kernel_that_a_program_has_a_server_start_has_the_servers_default(
    start: Any, place: str, model: dict[str, Any]
) -> None:
    # Without a server behind it, it would be the one to train with.
    server = start()
    made = server.ok(place, "POST", model)
    row = server.wait_for(made.get("kernel", made)["id"], "active")
    assert (row["path"], row["size"]) == (None, "1/4")


@pytest.mark.parametrize(
    "argument",
    [
        "--GpuShareApp.all_kernels=False",
        "--KernelProvisionerFactory.default_provisioner_name=local-provisioner",
    ],
)
def test_an_administrator_can_switch_it_off(start: Any, argument: str) -> None:
    server = start(argument)
    assert server.ok("gpu-share/sizes")["kernelspecs"] == []
    assert wish(server, "python3")[0] == 409
    starts_plain(server)


def test_what_the_environment_chooses_counts(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "local-provisioner")
    starts_plain(start())


def test_without_a_gpu_kernels_start_as_before(start: Any) -> None:
    server = start(simulate="")
    assert server.ok("gpu-share/sizes")["kernelspecs"] == []
    starts_plain(server)
