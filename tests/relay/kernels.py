"""Real kernels and real clients around a relay, without any engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq
from jupyter_client.blocking import BlockingKernelClient
from waiting import PATIENCE

from jupyter_gpu_share.engines.base import Connection
from jupyter_gpu_share.relay import Activity, Relay, RelayEvents

if TYPE_CHECKING:
    from fakes import FakeKernel

KEY = b"the key of both sides"
_numbers = count(1)


def new_number() -> int:
    """For the names of files: never the same twice."""
    return next(_numbers)


class Notes(RelayEvents):
    """Remembers what the relay tells."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.activities: list[Activity] = []

    def wanted(self, epoch: int) -> None:
        self.told.append(("wanted", epoch))

    def interrupted(self, header: Mapping[str, Any]) -> None:
        self.told.append("interrupted")

    def shutdown(self, restart: bool, header: Mapping[str, Any]) -> None:
        self.told.append(("shutdown", restart))

    def activity(self, activity: Activity) -> None:
        self.activities.append(activity)


class Kernel:
    """An ipykernel that listens where the relay is told to look for it."""

    def __init__(
        self, folder: Path, *, curve: bool = False, env: Mapping[str, str] | None = None
    ) -> None:
        number = new_number()
        ports = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
        public, secret = zmq.curve_keypair() if curve else (b"", b"")
        self.connection = Connection(
            "ipc",
            str(folder / f"k{number}"),
            ports,
            KEY,
            curve_publickey=public.decode() or None,
            curve_secretkey=secret.decode() or None,
        )
        file = folder / f"connection-{number}.json"
        content = {
            "transport": "ipc",
            "ip": self.connection.ip,
            "key": KEY.decode(),
            "signature_scheme": "hmac-sha256",
            **{f"{name}_port": port for name, port in ports.items()},
        }
        if curve:
            content |= {"curve_publickey": public.decode(), "curve_secretkey": secret.decode()}
        file.write_text(json.dumps(content))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ipykernel_launcher", "-f", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "IPYTHONDIR": str(folder / "ipython"), **(env or {})},
        )

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait(PATIENCE)


class House:
    """Makes kernels and clients, and ends them with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kernels: list[Kernel | FakeKernel] = []
        self.clients: list[BlockingKernelClient] = []
        self.relays: list[Relay] = []

    def relay(self, **options: Any) -> Relay:
        """A bound relay."""
        front = {name: options.pop(name) for name in list(options) if name in _FRONT}
        relay = Relay(key=KEY, **options)
        self.relays.append(relay)
        relay.bind(**front)
        return relay

    def kernel(self, relay: Relay | None = None, **options: Any) -> Kernel:
        """A kernel, put behind a relay if one is given."""
        kernel = Kernel(self.folder, **options)
        self.kernels.append(kernel)
        if relay is not None:
            relay.attach(kernel.connection).result(PATIENCE)
        return kernel

    def fake(self, relay: Relay | None = None, *, paused: bool = False) -> FakeKernel:
        """A kernel that does what the test says, put behind a relay if one is given."""
        from fakes import FakeKernel

        kernel = FakeKernel(self.folder)
        self.kernels.append(kernel)
        if relay is not None:
            relay.attach(kernel.connection, paused=paused).result(PATIENCE)
        return kernel

    def client(self, relay: Relay, **changes: Any) -> BlockingKernelClient:
        """A client that knows no more than the relay's address."""
        front = relay.connection
        info: dict[str, Any] = {
            "transport": front.transport,
            "ip": front.ip,
            "key": front.key.decode(),
            "signature_scheme": front.signature_scheme,
            **{f"{name}_port": port for name, port in front.ports.items()},
        }
        if front.curve_publickey:
            info["curve_publickey"] = front.curve_publickey
            info["curve_secretkey"] = front.curve_secretkey
        client = BlockingKernelClient()
        client.load_connection_info({**info, **changes})
        client.start_channels()
        self.clients.append(client)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.stop_channels()
        for relay in self.relays:
            relay.close().result(PATIENCE)
        for kernel in self.kernels:
            kernel.kill()


_FRONT = {"transport", "ip", "ports", "curve_publickey", "curve_secretkey"}


def run(client: BlockingKernelClient, code: str, stdin: Callable[[Any], None] | None = None) -> str:
    """Run a cell to its end; what it printed, or its error's name."""
    said: list[str] = []

    def note(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            said.append(message["content"]["text"])
        elif message["msg_type"] == "error":
            said.append(message["content"]["ename"])

    client.execute_interactive(
        code, output_hook=note, stdin_hook=stdin, timeout=PATIENCE, allow_stdin=stdin is not None
    )
    return "".join(said).strip()


def outputs(client: BlockingKernelClient, sent: str) -> list[tuple[str, Any]]:
    """What was published for a request, up to its last status."""
    found = []
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") == sent:
            found.append((message["msg_type"], message["content"]))
            if message["content"].get("execution_state") == "idle":
                return found


def reply(client: BlockingKernelClient, sent: str) -> dict[str, Any]:
    """The reply to a request."""
    while True:
        message: dict[str, Any] = client.get_shell_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") == sent:
            return message["content"]
