"""A server that is told to stop stops, whatever its kernels are at, and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest
from servers import TOKEN, Server, run_server, until
from waiting import PATIENCE

from jupyter_gpu_share.server._stopping import stop_on_interrupt

#: Seconds that a stop may take, on a machine that does other work too.
BOUND = 15.0
PYTHON = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
SLOW = ["sh", "-c", 'sleep 20; exec "$0" "$@"', *PYTHON]
BROKEN = ["sh", "-c", "exit 3"]


class Stopping:
    """A server whose kernelspecs start at once, slowly or never, and what it leaves."""

    def __init__(self, folder: Path, *options: str) -> None:
        for name, argv in (("slow", SLOW), ("broken", BROKEN)):
            place = folder / "data" / "kernels" / name
            place.mkdir(parents=True)
            spec = {"argv": argv, "display_name": name, "language": "python"}
            (place / "kernel.json").write_text(json.dumps(spec))
        self.data = folder / "data"
        self.server: Server = run_server(
            folder, "--GpuShareProvisioner.queue_patience=60", "--IdlePolicy.rule=never", *options
        )
        self.asking: list[threading.Thread] = []

    def start(self, size: str = "1/4", name: str = "python3") -> str:
        """Start a kernel that answers, or fails."""
        kernel_id = self.begin(size, name)
        self.asking[-1].join(PATIENCE)
        return kernel_id

    def begin(self, size: str, name: str = "python3") -> str:
        """Ask for a kernel and do not wait for it: the server holds the request; its id."""
        kernel_id = str(uuid4())
        self.server.ok(f"gpu-share/requests/{kernel_id}", "PUT", {"size": size})
        self.ask("api/kernels", {"name": name, "kernel_id": kernel_id})
        return kernel_id

    def ask(self, path: str, body: object) -> None:
        """Send a request whose answer is of no interest; the server may end meanwhile."""
        headers = {"Authorization": f"token {TOKEN}"}
        data = json.dumps(body).encode()

        def send() -> None:
            request = Request(self.server.url + path, method="POST", data=data, headers=headers)
            with suppress(OSError), urlopen(request, timeout=2 * PATIENCE) as answer:
                answer.read()

        self.asking.append(threading.Thread(target=send, daemon=True))
        self.asking[-1].start()

    def wait_for(self, kernel_id: str, state: str) -> None:
        def seen() -> bool:
            status, found = self.server.fetch(f"gpu-share/allocations/{kernel_id}")
            return status == 200 and found["state"] == state

        until(seen, f"{kernel_id} is {state}")

    def stop(self) -> float:
        """Tell the server to stop; the seconds until it has."""
        begun = time.monotonic()
        self.server.process.terminate()
        self.server.process.wait(PATIENCE)
        return time.monotonic() - begun

    def processes(self) -> list[str]:
        """Programs that were started with a connection file of this server's kernels."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (place / "environ").read_bytes().decode(errors="replace").split("\0")
                if f"JUPYTER_DATA_DIR={self.data}" in words:
                    found.append((place / "cmdline").read_text().replace("\0", " "))
        return found

    def claims(self) -> int:
        """Shares and places in the queue that the ledger still knows."""
        count = 0
        for path in (self.data / "gpu-share").glob("*/*.db"):
            ledger = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            try:
                count += ledger.execute("SELECT COUNT(*) FROM claims").fetchone()[0]
            finally:
                ledger.close()
        return count

    def close(self) -> None:
        if self.server.process.poll() is None:
            self.server.process.kill()
            self.server.process.wait(PATIENCE)
        for thread in self.asking:
            thread.join(PATIENCE)


Make = Callable[..., Stopping]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Stopping] = []

    def run(*options: str) -> Stopping:
        made.append(Stopping(tmp_path, *options))
        return made[-1]

    yield run
    for one in made:
        one.close()


def queued(stopping: Stopping) -> None:
    stopping.start("3/4")
    stopping.wait_for(stopping.begin("3/4"), "queued")


def starting(stopping: Stopping) -> None:
    stopping.start()
    stopping.wait_for(stopping.begin("1/4", "slow"), "starting")


def failed(stopping: Stopping) -> None:
    stopping.start()
    stopping.start(name="broken")
    stopping.start(name="no-such-kernelspec")


def dead(stopping: Stopping) -> None:
    kernel_id = stopping.start()
    pid = int(stopping.server.run_cell(kernel_id, "import os; print(os.getpid())"))
    os.kill(pid, signal.SIGKILL)


SLOW_TO_SAVE = """
import time
class Slow:
    def __reduce__(self):
        time.sleep(20)
        return (Slow, ())
slow = Slow()
"""


def releasing(stopping: Stopping) -> None:
    kernel_id = stopping.start()
    stopping.server.run_cell(kernel_id, SLOW_TO_SAVE)
    stopping.ask(f"gpu-share/allocations/{kernel_id}/release", {"lose_variables": True})
    stopping.wait_for(kernel_id, "releasing")


def waking(stopping: Stopping) -> None:
    kernel_id = released(stopping)
    stopping.start("1")
    stopping.server.ok(f"gpu-share/allocations/{kernel_id}/wake", "POST")
    stopping.wait_for(kernel_id, "waking")


def released(stopping: Stopping) -> str:
    kernel_id = stopping.start()
    stopping.server.run_cell(kernel_id, "x = 1")
    row = stopping.server.ok(f"gpu-share/allocations/{kernel_id}/release", "POST", {})
    assert row["state"] == "released"
    return kernel_id


SITUATIONS = [queued, starting, failed, dead, releasing, waking, released]


@pytest.mark.parametrize("in_place", [True, False], ids=["in-place", "saved"])
@pytest.mark.parametrize("arrange", SITUATIONS, ids=[one.__name__ for one in SITUATIONS])
def test_a_server_stops_in_time_and_leaves_nothing(
    make: Make, arrange: Callable[[Stopping], object], in_place: bool
) -> None:
    if in_place and arrange is releasing:
        pytest.skip("a share that goes back in place is away before anybody could look")
    stopping = make(f"--IdlePolicy.in_place={in_place}")
    arrange(stopping)
    assert stopping.processes()
    took = stopping.stop()
    assert took < BOUND, stopping.server.log.read_text()
    log = stopping.server.log.read_text()
    assert "Kernel does not exist" not in log
    assert "could not be ended in good order" not in log
    until(lambda: not stopping.processes(), f"nothing runs: {stopping.processes()}")
    assert stopping.claims() == 0


PLAIN = """
import asyncio, pathlib
from jupyter_client.provisioning import LocalProvisioner

class Slow(LocalProvisioner):
    async def launch_kernel(self, cmd, **kwargs):
        pathlib.Path(__file__).with_name("begun").touch()
        await asyncio.sleep(60)
        return await super().launch_kernel(cmd, **kwargs)
"""


@pytest.mark.parametrize("name", ["slow-elsewhere", "missing-elsewhere"])
def test_starts_of_other_provisioners_do_not_keep_the_server(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """jupyter_client keeps such a start, and a server that has one ends with an error."""
    site = tmp_path / "site"
    info = site / "slow-1.dist-info"
    info.mkdir(parents=True)
    (site / "slow_provisioner.py").write_text(PLAIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1\n")
    group = "[jupyter_client.kernel_provisioners]\n"
    (info / "entry_points.txt").write_text(f"{group}slow=slow_provisioner:Slow\n")
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    for kind, argv, provisioner in (
        ("slow-elsewhere", PYTHON, "slow"),
        ("missing-elsewhere", ["/nowhere/python"], "local-provisioner"),
    ):
        place = tmp_path / "data" / "kernels" / kind
        place.mkdir(parents=True)
        metadata = {"kernel_provisioner": {"provisioner_name": provisioner}}
        spec = {"argv": argv, "display_name": kind, "language": "python", "metadata": metadata}
        (place / "kernel.json").write_text(json.dumps(spec))
    stopping = make()
    stopping.start()
    if name == "slow-elsewhere":
        stopping.begin("0", name)
        until((site / "begun").exists, "the slow start has begun")
    else:
        stopping.start("0", name)
    took = stopping.stop()
    assert took < BOUND
    assert "Kernel does not exist" not in stopping.server.log.read_text()
    until(lambda: not stopping.processes(), f"nothing runs: {stopping.processes()}")


@pytest.fixture
def interrupts() -> Iterator[Callable[[Any], Any]]:
    """Sets what this process does about SIGINT, as ``signal.signal`` does, until the test ends."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


def test_the_second_interrupt_breaks_off(interrupts: Callable[[Any], Any]) -> None:
    interrupts(signal.default_int_handler)
    stops: list[str] = []
    stop_on_interrupt(lambda: stops.append("stop"))
    signal.raise_signal(signal.SIGINT)
    assert stops == ["stop"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert stops == ["stop"]


@pytest.mark.parametrize("theirs", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_what_others_do_about_interrupts_stays(
    interrupts: Callable[[Any], Any], theirs: Any
) -> None:
    interrupts(theirs)
    stop_on_interrupt(lambda: pytest.fail("it is stopped"))
    assert interrupts(signal.SIG_DFL) is theirs


def test_beside_the_main_thread_interrupts_are_left_alone(
    interrupts: Callable[[Any], Any],
) -> None:
    interrupts(signal.default_int_handler)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            stop_on_interrupt(lambda: None)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE)
    assert not errors
    assert interrupts(signal.SIG_DFL) is signal.default_int_handler
