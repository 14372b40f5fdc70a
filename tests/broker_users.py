"""Processes of several users that ask a broker for shares, and a broker in a process of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from waiting import PATIENCE

from jupyter_gpu_share.broker.client import BrokerAway, BrokerClient

ANN, BOB = 65521, 65522

_USER = """
import json, os, subprocess, sys
from pathlib import Path
from jupyter_gpu_share.broker.client import BrokerAway, BrokerClient, BrokerRefused

user = int(sys.argv[2])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
client = BrokerClient(Path(sys.argv[1]))
print(json.dumps(os.getpid()), flush=True)
children = []
for line in sys.stdin:
    verb, *rest = json.loads(line)
    try:
        if verb == "child":
            children.append(subprocess.Popen(["/bin/sleep", "99"]))
            answer = [200, children[-1].pid]
        elif verb == "read":
            answer = [200, Path(rest[0]).read_bytes().hex()]
        else:
            answer = [200, client.ask(verb, *rest)]
    except BrokerRefused as error:
        answer = [error.status, str(error)]
    except BrokerAway as error:
        answer = [0, str(error)]
    except OSError as error:
        answer = [1, type(error).__name__]
    print(json.dumps(answer), flush=True)
for child in children:
    child.kill()
"""

_BROKER = "import sys; from jupyter_gpu_share.cli import main; sys.exit(main(sys.argv[1:]))"


class User:
    """A process of one user; it asks what it is told to ask."""

    def __init__(self, process: subprocess.Popen[str], uid: int) -> None:
        self.process = process
        self.uid = uid
        self.pid = int(self._line())

    def ask(self, *request: Any) -> tuple[int, Any]:
        """Status and answer; status 0: the broker is away."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{json.dumps(request)}\n")
        self.process.stdin.flush()
        status, data = json.loads(self._line())
        return status, data

    def ok(self, *request: Any) -> Any:
        status, data = self.ask(*request)
        assert status == 200, data
        return data

    def claim(self, kernel: str, size: str, **body: Any) -> Any:
        return self.ok("PUT", f"/v1/shares/{kernel}", {"size": size, **body})

    def kernels(self) -> dict[str, str]:
        """How the user's claims stand."""
        return {row["kernel_id"]: row["state"] for row in self.ok("GET", "/v1/shares")}

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def _line(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, "no answer"
        return self.process.stdout.readline()


@contextmanager
def user(uid: int, path: Path, *prefix: str) -> Iterator[User]:
    """A process of a user; ``prefix`` is a command that runs the one that comes after it."""
    command = [*prefix, sys.executable, "-c", _USER, str(path), str(uid)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield User(process, uid)
        finally:
            if process.stdin is not None and process.poll() is None:
                process.stdin.close()  # it ends its children first
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.wait(PATIENCE)


class RunningBroker:
    """``jupyter gpu-share broker`` as an administrator runs it, on simulated GPUs."""

    def __init__(self, folder: Path, *lines: str, simulate: str = "1xA100-80GB") -> None:
        self.socket = folder / "run" / "broker.sock"
        self.folder = folder / "state"
        self.log = folder / "broker.log"
        self._config = folder / "broker_config.py"
        self._config.write_text(
            f"c.Broker.folder = {str(self.folder)!r}\nc.Broker.simulate = {simulate!r}\n"
            + "\n".join(lines)
        )
        self._config.chmod(0o644)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """What starts it."""
        command = [sys.executable, "-c", _BROKER, "broker"]
        return [*command, "--config", str(self._config), "--socket", str(self.socket)]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        client = BrokerClient(self.socket)
        end = time.monotonic() + PATIENCE
        while True:
            try:
                client.ask("GET", "/v1/machine")
            except BrokerAway:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.02)
            else:
                client.close()
                return

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
            self.process = None

    @property
    def ledger(self) -> Path:
        (found,) = self.folder.glob("shares-*.db")
        return found


def is_root() -> bool:
    return os.getuid() == 0
