"""Agents that run as plain processes of this machine, with a Secret's folder of their own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio
from jupyter_client import AsyncKernelClient
from processes import children, descendants, rows
from waiting import PATIENCE, eventually
from zmq.utils.monitor import recv_monitor_message

from jupyter_gpu_share.engines.base import Connection
from jupyter_gpu_share.engines.kubernetes._link import AgentLink, AgentState
from jupyter_gpu_share.engines.kubernetes._pods import AGENT_PORT, Labels, secret_body
from jupyter_gpu_share.kernel_side import PATH

GIB = 2**30
KEY = b"a key of the session"
FLAGS = ["-Xfrozen_modules=off"]
ARGV = [sys.executable, *FLAGS, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
#: What follows is the first process of a namespace of its own.
_UNSHARE = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
#: Prints the number of a process that has lost its parent, and left its session.
DAEMON = """
import os, signal, time
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        os.write(write, str(os.getpid()).encode())
        while True:
            time.sleep(60)
    os._exit(0)
os.wait()
print(os.read(read, 99).decode())
"""
#: Importing takes until the test says so. Here it is a fault that the test puts in.
HELD = """
import os, time
from gpu_share_kernel import zygote
real = zygote._warm_up
def held():
    while not os.path.exists("go on"):
        time.sleep(0.01)
    return real()
zygote._warm_up = held
"""
#: Readings follow each other quickly.
FAST = "from gpu_share_kernel import agent\nagent._READ_INTERVAL = 0.05\n"
#: With a variable that is read only when a process starts, a kernel is executed and not forked.
EXECUTED = {"MALLOC_ARENA_MAX": "8"}
both_ways = pytest.mark.parametrize("env", [{}, EXECUTED], ids=["forked", "executed"])


def share_of_simulated(folder: Path) -> dict[str, str]:
    """The environment of a kernel with 20 of the 80 GiB of a simulated GPU."""
    return {
        "JUPYTER_GPU_SHARE_UUID": "SIM-0",
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(20 * GIB),
        "JUPYTER_GPU_SHARE_SIMULATED_BYTES": str(80 * GIB),
        "JUPYTER_GPU_SHARE_SIMULATED_DIR": str(folder / "simulated"),
    }


def free_ports(number: int) -> list[int]:
    """Ports that nothing listened on a moment ago."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def can_unshare() -> bool:
    """Whether this process may make a process namespace, where the agent is PID 1."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run([*_UNSHARE, "true"], capture_output=True, timeout=10, check=False)
        return done.returncode == 0
    return False


as_first_process = pytest.mark.skipif(
    not can_unshare(), reason="process namespaces need root (unshare --pid)"
)


class Pod:
    """One agent with its kernel: what a pod is, without a cluster around it.

    Parameters
    ----------
    folder: empty, of this pod only.
    encrypt: with CURVE keys.
    first: run the agent as PID 1 of a process namespace.
    """

    def __init__(self, folder: Path, *, encrypt: bool = True, first: bool = False) -> None:
        self.folder = folder
        self.first = first
        channels = ("shell", "iopub", "stdin", "control", "hb")
        *ports, self.port = free_ports(len(channels) + 1)
        keys: tuple[str | None, str | None] = None, None
        if encrypt:
            public, secret = zmq.curve_keypair()
            keys = public.decode(), secret.decode()
        self.connection = Connection(
            transport="tcp",
            ip="127.0.0.1",
            ports=dict(zip(channels, ports, strict=True)),
            key=KEY,
            curve_publickey=keys[0],
            curve_secretkey=keys[1],
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.states: list[AgentState] = []
        self.context = zmq.asyncio.Context()
        self._links: list[AgentLink] = []
        self._clients: list[AsyncKernelClient] = []
        self._peers: list[Peer] = []

    # -- the agent ---------------------------------------------------------------------------

    def mount(self, watchdog: float = 60.0, grace: float = 0.0) -> Path:
        """Write what the Secret holds, for free ports of this machine."""
        labels = Labels("server", "kernel", "attempt")
        secret = secret_body(
            "x", labels, self.connection, watchdog=watchdog, grace=grace, owned_by=None
        )
        new = {"agent.json": {"port": self.port}, "connection.json": {}}
        for channel, port in self.connection.ports.items():
            new["connection.json"][f"{channel}_port"] = port
        folder = self.folder / "secret"
        folder.mkdir()
        for name, text in secret["stringData"].items():
            content = {**json.loads(text), "ip": "127.0.0.1", **new[name]}
            (folder / name).write_text(json.dumps(content))
        assert AGENT_PORT not in new["agent.json"].values()
        return folder

    def boot(
        self,
        *,
        watchdog: float = 60.0,
        grace: float = 0.0,
        flags: list[str] = FLAGS,
        path: tuple[Path, ...] = (),
        env: Mapping[str, str] | None = None,
        before: str = "",
        cwd: Path | None = None,
    ) -> None:
        """Start the agent.

        Parameters
        ----------
        grace: seconds that the pod has to end, of which a server has all but 6; by default none.
        before: Python that runs in it first: how a fault is put in.
        """
        secret = self.mount(watchdog, grace)
        module = ["-m", "gpu_share_kernel.agent"]
        if before:
            code = (
                f"{before}\nimport sys\nfrom gpu_share_kernel import agent\nsys.exit(agent.main())"
            )
            module = ["-c", code]
        (self.folder / "ipython").mkdir()
        full = {
            **os.environ,
            "IPYTHONDIR": str(self.folder / "ipython"),
            "PYTHONPATH": os.pathsep.join(map(str, [PATH, *path])),
            "TMPDIR": str(self.folder),
            "SECRET_FOLDER": str(secret),
            **(env or {}),
        }
        self.log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen(
            [*(_UNSHARE if self.first else []), sys.executable, *flags, *module, str(secret)],
            env=full,
            cwd=cwd or self.folder,
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    @property
    def said(self) -> str:
        """All that the agent and its kernels have written."""
        return (self.folder / "log").read_text(errors="replace")

    def pid(self) -> int:
        """The agent's number on this machine."""
        assert self.process is not None
        return children(self.process.pid)[0] if self.first else self.process.pid

    def zygote(self) -> int:
        """The number of the process that imports: the agent's first child."""
        return children(self.pid())[0]

    def outside(self, pid: int | str | None) -> int:
        """The number on this machine of a process that has ``pid`` within the pod."""
        for row in descendants(self.pid()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                status = Path(f"/proc/{row.pid}/status").read_text()
                if status.partition("NSpid:")[2].splitlines()[0].split()[-1] == str(pid):
                    return row.pid
        raise AssertionError(f"the pod has no process {pid}")

    def kernels(self) -> set[int]:
        """Living kernels: below the agent, what leads a session of its own or is about to."""
        agent = self.pid()
        below = descendants(agent)
        zygotes = [r.pid for r in below if r.parent == agent and r.session != r.pid]
        return {r.pid for r in below if r.alive and (r.session == r.pid or r.parent in zygotes)}

    def left(self) -> set[int]:
        """Living processes that this pod has ever started, wherever they belong to by now."""
        mark = f"SECRET_FOLDER={self.folder / 'secret'}".encode()
        found = set()
        for row in rows():
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{row.pid}/environ").read_bytes().split(b"\0") and row.alive:
                    found.add(row.pid)
        return found

    async def gone(self) -> int:
        """Wait until the agent has ended; its exit code."""
        assert self.process is not None
        code: list[int] = await eventually(
            lambda: [c] if (c := self.process.poll()) is not None else None,  # type: ignore[union-attr]
            f"the agent ends; it said {self.said}",
        )
        return code[0]

    # -- those who talk to it ----------------------------------------------------------------

    def link(
        self,
        instance: str = "a",
        renewal: float = 5.0,
        *,
        replaces: str = "",
        changed: Callable[[AgentState], None] | None = None,
        **other: Any,
    ) -> AgentLink:
        """A server's end. ``other`` replaces fields of the connection."""
        fields = {**vars(self.connection), **other}
        link = AgentLink(
            Connection(**fields),
            self.port,
            instance=instance,
            renewal=renewal,
            changed=changed or self.states.append,
        )
        link.open(self.context, replaces)
        self._links.append(link)
        return link

    def client(self) -> AsyncKernelClient:
        """A client of the kernel."""
        wire = self.connection
        client = _Client()
        info: dict[str, Any] = {f"{channel}_port": port for channel, port in wire.ports.items()}
        info |= {"transport": "tcp", "ip": wire.ip, "key": wire.key}
        info["signature_scheme"] = wire.signature_scheme
        if wire.curve_publickey and wire.curve_secretkey:
            info["curve_publickey"] = wire.curve_publickey.encode()
            info["curve_secretkey"] = wire.curve_secretkey.encode()
        client.load_connection_info(info)
        client.start_channels()
        self._clients.append(client)
        return client

    async def ready(self) -> AsyncKernelClient:
        """A client of the kernel that has answered."""
        client = self.client()
        await client.wait_for_ready(timeout=PATIENCE)
        return client

    def peer(self, *, key: bytes = KEY, public: str | None = None, encrypt: bool = True) -> Peer:
        """Somebody who speaks to the agent frame by frame, with keys that may be wrong."""
        peer = Peer(self, key, public or self.connection.curve_publickey, encrypt)
        self._peers.append(peer)
        return peer

    async def close(self) -> None:
        """End everything that the test began."""
        for peer in self._peers:
            peer.close()
        for client in self._clients:
            client.stop_channels()
        for link in self._links:
            await link.close()
        self.context.destroy(linger=0)
        if self.process is not None:
            for pid in {*self.left(), self.process.pid}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(PATIENCE)
            self.log.close()


class _Client(AsyncKernelClient):
    """Waits for a kernel that is still to come, and that nobody has seen alive yet."""

    async def _async_is_alive(self) -> bool:
        return True


class Peer:
    """Speaks to an agent as :class:`AgentLink` does, but only when it is told to."""

    def __init__(self, pod: Pod, key: bytes, public: str | None, encrypt: bool) -> None:
        self.key = key
        self.socket = pod.context.socket(zmq.DEALER)
        self.socket.linger = 0
        if public and encrypt:
            self.socket.curve_serverkey = public.encode()
            self.socket.curve_publickey, self.socket.curve_secretkey = zmq.curve_keypair()
        self.events = self.socket.get_monitor_socket()
        self.socket.connect(f"tcp://127.0.0.1:{pod.port}")

    async def say(self, op: str, instance: str = "a", renewal: float = 5.0, **more: Any) -> None:
        """Something that an agent understands."""
        message = {"op": op, "instance": instance, "renewal": renewal, **more}
        await self.say_raw(json.dumps(message).encode())

    async def say_raw(self, payload: bytes) -> None:
        """Anything, signed."""
        signature = hmac.new(self.key, payload, hashlib.sha256).hexdigest().encode()
        await self.socket.send_multipart([signature, payload])

    async def heard(self) -> dict[str, Any]:
        """The next answer; its signature is right."""
        signature, payload = await asyncio.wait_for(self.socket.recv_multipart(), PATIENCE)
        assert signature == hmac.new(KEY, payload, hashlib.sha256).hexdigest().encode()
        message: dict[str, Any] = json.loads(payload)
        return message

    async def meets(self, *wanted: zmq.Event) -> zmq.Event:
        """Wait until one of some things happens to the connection; which it was."""
        while True:
            message = await asyncio.wait_for(recv_monitor_message(self.events), PATIENCE)
            if message["event"] in wanted:
                return zmq.Event(message["event"])

    def close(self) -> None:
        if not self.socket.closed:
            self.socket.disable_monitor()
            self.socket.close()


async def run(client: AsyncKernelClient, code: str) -> str:
    """Run a cell; what it printed. A cell that fails gives its error's name and text."""
    said: list[str] = []

    def take(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            said.append(message["content"]["text"])

    reply = await asyncio.wait_for(client.execute_interactive(code, output_hook=take), PATIENCE)
    content = reply["content"]
    if content["status"] == "error":
        said.append(f"{content['ename']}: {content['evalue']}")
    return "".join(said).strip()
