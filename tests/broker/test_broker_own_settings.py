"""A user's own files and variables on a machine with a broker: what they change, and what not.

The machine has GPUs of a FAKE driver, the broker at its usual place, and a user of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import nbformat
import pytest
from driver.fake_driver import GIB, UUIDS, FakeDriver, libraries
from installed import ROOT
from machines import BOB, COMMAND, Machine, Person, running_machine
from servers import stop_server, until
from waiting import PATIENCE

from jupyter_gpu_share.broker.client import BrokerAway, BrokerClient

pytestmark = pytest.mark.slow

LIMIT = 'c.Broker.limits = [{"resource": "gpus", "limit": 1, "scope": {"user": ["*"]}}]'
BIN = Path(sys.prefix) / "bin"
#: Says that it runs, as whom it likes, uses 1 GiB of the GPU that it sees, and waits for the test.
CELL = """
import os, time
from pathlib import Path
from fake_gpu_program import Array

array = Array(2**30)
home = Path.home()
(home / "ran" / os.environ["CLIENT"]).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
end = time.monotonic() + 240
while not (home / "go").exists() and time.monotonic() < end:
    time.sleep(0.05)
"""


class Bob(Person):
    """A user with settings of their own, who runs programs."""

    def __init__(self, machine: Machine, driver: FakeDriver) -> None:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "driver")])
        super().__init__(machine, BOB, {**driver.env, "PYTHONPATH": paths})
        self.make("ran")
        self.own_broker = self.home / "run" / "broker.sock"

    def configure(self, text: str) -> None:
        """Say something in every file of settings that a program of Jupyter's may read."""
        names = ("config", "server_config", "notebook_config", "client_config", "console_config")
        for name in (*names, "nbconvert_config", "execute_config", "run_config"):
            self.write(f".jupyter/jupyter_{name}.py", text)
        self.write(".jupyter/broker_config.py", text)
        self.write(".config/jupyter-gpu-share/broker_config.py", text)

    def ran(self) -> set[str]:
        return {path.name for path in (self.home / "ran").iterdir()}

    def notebook(self, name: str) -> Path:
        cells = [nbformat.v4.new_code_cell(CELL, metadata={"tags": ["parameters"]})]
        about = {
            "language_info": {"name": "python"},
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        }
        text = nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=about))
        return self.write(f"{name}.ipynb", text)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with running_machine(libraries()) as made:
        yield made


@pytest.fixture
def driver(machine: Machine) -> Iterator[FakeDriver]:
    """Two GPUs of 16 GiB, as every user of the machine sees them."""
    made = FakeDriver(machine.folder / "driver", 2)
    for name in ("", "dev", "state", "alive"):
        (made.folder / name).chmod(0o777)
    yield made
    made.close()


@pytest.fixture
def bob(machine: Machine, driver: FakeDriver) -> Bob:
    machine.start_broker(LIMIT, simulate="", environment=driver.env)
    return Bob(machine, driver)


def unshared(machine: Machine) -> list[tuple[str, str]]:
    """Users of processes without a share, and which GPU each uses."""
    rows = machine.ask_broker("GET", "/v1/admin/processes")
    return [(row["user"], uuid) for row in rows for uuid in row["used_bytes"]]


def test_own_settings_do_not_widen_a_limit_however_kernels_are_started(
    bob: Bob, machine: Machine
) -> None:
    """Servers, papermill, `execute`, `run` and a console, all at once, each on 3/8 of a GPU."""
    own = bob.home / "ledger"
    bob.configure(
        "c = get_config()\n"
        'c.SizePolicy.max_total = "8"\n'
        'c.SizePolicy.maximum = "1"\n'
        'c.IdlePolicy.rule = "never"\n'
        f"c.LocalEngine.directory = {str(own)!r}\n"
        'c.LocalEngine.mps = "off"\n'
        'c.GpuShareProvisioner.engine = "local"\n'
        f"c.Broker.socket = {str(bob.own_broker)!r}\n"
        "c.Broker.limits = []\n"
    )
    config = bob.write("own.py", f"c.Broker.folder = {str(bob.home / 'state')!r}\n")
    elsewhere = {
        "JUPYTER_GPU_SHARE_BROKER": str(bob.own_broker),
        "JUPYTER_GPU_SHARE_SIZE": "3/8",
        "JUPYTER_GPU_SHARE_CLAIM": "0" * 32,
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(16 * GIB),
        "JUPYTER_GPU_SHARE_UUID": "GPU-00000000-0000-0000-0000-000000000001",
        "CUDA_VISIBLE_DEVICES": "0,1",
    }
    usual = {"JUPYTER_GPU_SHARE_SIZE": "3/8"}
    console = [BIN / "jupyter", "console", "--simple-prompt", "--kernel=python3"]
    script = bob.write("script.py", CELL)
    typed = f"exec({CELL!r})\nexit()\n"
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))  # what it does ends with the servers
        own_broker = bob.start(*COMMAND, "broker", "--config", config, "--socket", bob.own_broker)
        stack.callback(_end, own_broker)
        until(lambda: _answers(bob.own_broker), "the user's own broker answers")
        both = [
            bob.server("one", CLIENT="one", **elsewhere),
            bob.server("two", CLIENT="two", **usual),
        ]
        for server in both:
            stack.callback(stop_server, server)
        starts = {}
        for name, server in zip(("one", "two"), both, strict=True):
            starts[name] = pool.submit(
                server.fetch, "api/kernels", "POST", {"name": "python3"}, patience=4 * PATIENCE
            )  # all start at once
        clients = {
            "papermill": bob.start(
                BIN / "papermill",
                bob.notebook("papermill"),
                "out.ipynb",
                CLIENT="papermill",
                **elsewhere,
            ),
            "execute": bob.start(
                BIN / "jupyter", "execute", bob.notebook("execute"), CLIENT="execute", **usual
            ),
            "run": bob.start(
                BIN / "jupyter", "run", "--kernel=python3", script, CLIENT="run", **elsewhere
            ),
            "console": bob.start(*console, typed=typed, CLIENT="console", **elsewhere),
        }
        for process in clients.values():
            stack.callback(_end, process)
        told = {}
        for name, server in zip(("one", "two"), both, strict=True):
            status, answer = starts[name].result(5 * PATIENCE)
            if status == 201:
                pool.submit(server.run_cell, answer["id"], CELL)
            else:
                told[name] = str(answer)

        def settled() -> bool:
            for name, process in clients.items():
                if name not in told and process.poll() is not None:
                    assert process.stdout is not None
                    told[name] = process.stdout.read()
            return len(told.keys() | bob.ran()) == 6

        until(settled, "each runs or is refused", 6 * PATIENCE)
        rows = machine.ask_broker("GET", "/v1/admin/shares")
        assert [(row["size"], row["state"]) for row in rows] == [("3/8", "held")] * 2, told
        assert len(bob.ran()) == 2
        assert bob.ran().isdisjoint(told)
        for name, line in told.items():
            assert "may have 1 GPU and now has 3/4 GPU. Yours: " in line, (name, line)
        with closing(BrokerClient(bob.own_broker)) as root:
            assert root.ask("GET", "/v1/admin/shares") == []
        assert not own.exists(), "no ledger of their own"
        counted = bob.start(*COMMAND, "usage", **elsewhere)
        stack.callback(_end, counted)
        until(lambda: counted.poll() is not None, "the command ends", PATIENCE)
        assert counted.stdout is not None
        # Their servers' broker counts, not the one that holds nothing.
        assert f"user {BOB}" in counted.stdout.read()
        assert unshared(machine) == [], "all that is used is of a share"
        bob.write("go", "")
    until(lambda: machine.claims() == {}, "what has ended holds nothing")


def test_what_is_used_past_the_broker_is_seen_and_not_given_out(bob: Bob, machine: Machine) -> None:
    """A program, a kernel of another provisioner, and one that says it simulates its GPUs."""
    script = bob.write("script.py", CELL)
    run = [BIN / "jupyter", "run", "--kernel=python3"]
    simulate = {"JUPYTER_GPU_SHARE_SIMULATE": "1xL4-24GB", "JUPYTER_GPU_SHARE_SIZE": "1"}
    with ExitStack() as stack:
        alone = bob.start(*run, script, CLIENT="simulation", **simulate)
        stack.callback(_end, alone)
        until(lambda: alone.poll() is not None, "it ends", 3 * PATIENCE)
        assert alone.stdout is not None
        assert "OSError" in alone.stdout.read(), "by itself a simulation sees no GPU"
        assert unshared(machine) == [] and bob.ran() == set()
        by_hand = bob.write(
            "by_hand.py", f"import os\nos.environ['CUDA_VISIBLE_DEVICES'] = '1'\n{CELL}"
        )
        plain = {"JUPYTER_DEFAULT_PROVISIONER_NAME": "local-provisioner"}
        for process in (
            bob.start(sys.executable, by_hand, CLIENT="program"),
            bob.start(*run, by_hand, CLIENT="provisioner", **plain),
            bob.start(*run, by_hand, CLIENT="simulation", **simulate),
        ):
            stack.callback(_end, process)
        until(lambda: len(bob.ran()) == 3, "all use it", 4 * PATIENCE)
        until(lambda: len(unshared(machine)) == 3, "all are seen")
        assert unshared(machine) == [(BOB, UUIDS[1])] * 3
        assert machine.claims() == {}
        first, second = machine.ask_broker("GET", "/v1/machine")["gpus"]
        assert (first["uuid"], first["other_bytes"]) == (UUIDS[0], 0)
        assert second["other_bytes"] >= 3 * GIB, "it is not given out"
        bob.write("go", "")
    until(lambda: unshared(machine) == [], "they are gone")


def test_a_broker_that_only_a_variable_names(machine: Machine, driver: FakeDriver) -> None:
    """Nothing holds who leaves the variable out, but what they use is seen."""
    machine.socket = "/run/elsewhere/broker.sock"
    where = f"c.Broker.socket = {machine.socket!r}"
    machine.start_broker(LIMIT, where, simulate="", environment=driver.env)
    bob = Bob(machine, driver)
    run = [BIN / "jupyter", "run", "--kernel=python3", bob.write("script.py", CELL)]
    size = {"JUPYTER_GPU_SHARE_SIZE": "1"}
    with ExitStack() as stack:
        named = bob.start(*run, CLIENT="named", JUPYTER_GPU_SHARE_BROKER=machine.socket, **size)
        stack.callback(_end, named)
        until(lambda: bob.ran() == {"named"}, "it runs", 4 * PATIENCE)
        assert list(machine.claims().values()) == [(BOB, "held")]
        assert unshared(machine) == []
        stack.callback(_end, bob.start(*run, CLIENT="left out", **size))
        until(lambda: bob.ran() == {"named", "left out"}, "it runs", 4 * PATIENCE)
        until(lambda: [user for user, _ in unshared(machine)] == [BOB], "it is seen")
        assert list(machine.claims().values()) == [(BOB, "held")]
        bob.write("go", "")


def _answers(path: Path) -> bool:
    try:
        with closing(BrokerClient(path)) as client:
            return bool(client.ask("GET", "/v1/machine"))
    except BrokerAway:
        return False


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
