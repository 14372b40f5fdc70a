"""A broker of a newer version takes the place of one while users' kernels run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from installed import ROOT
from machines import ANN, BOB, Machine, Person, running_machine
from servers import stop_server, until

pytestmark = pytest.mark.slow


@pytest.fixture
def machine() -> Iterator[Machine]:
    with running_machine() as made:
        yield made


def newer(folder: Path) -> Path:
    """The package with a later version's number, installed elsewhere; what to import it from."""
    path = folder / "newer"
    ignored = shutil.ignore_patterns("__pycache__", "labextension", "locale")
    shutil.copytree(ROOT / "jupyter_gpu_share", path / "jupyter_gpu_share", ignore=ignored)
    (path / "jupyter_gpu_share" / "_version.py").write_text('__version__ = "99.0.0"\n')
    return path


def test_kernels_run_on_while_a_newer_broker_takes_its_place(machine: Machine) -> None:
    """What runs, waits and is released is as it was; what is new has its share."""
    machine.start_broker()
    with ExitStack() as stack:
        one, two = (Person(machine, name).server("server") for name in (ANN, BOB))
        for server in (one, two):
            stack.callback(stop_server, server)
        kernel, released = one.start_kernel("1/2"), one.start_kernel("1/2")
        assert one.run_cell(kernel, "x = 42; print(x)") == "42"
        one.run_cell(released, "y = 1")
        one.ok(f"gpu-share/allocations/{released}/release", "POST", {})
        one.wait_for(released, "released")
        held = two.start_kernel("1/2")
        machine.stop_broker()
        assert one.run_cell(kernel, "x += 1; print(x)") == "43", "it needs no broker to run"
        machine.start_broker(environment={"PYTHONPATH": str(newer(machine.folder))})
        assert machine.ask_broker("GET", "/v1/machine")["version"] == "99.0.0"
        claims = {kernel: (ANN, "held"), held: (BOB, "held")}
        assert machine.claims() == claims
        assert one.run_cell(kernel, "x += 1; print(x)") == "44"
        one.ok(f"gpu-share/allocations/{released}/wake", "POST", {})
        one.wait_for(released, "waking")
        until(lambda: machine.claims() == {**claims, released: (ANN, "waiting")}, "it waits")
        two.ok(f"api/kernels/{held}", "DELETE")
        assert one.run_cell(released, "print(y)") == "1", "its variables are back"
        assert machine.claims() == dict.fromkeys((kernel, released), (ANN, "held"))
    until(lambda: machine.claims() == {}, "what has ended holds nothing")
