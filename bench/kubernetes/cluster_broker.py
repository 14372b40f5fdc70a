"""The cluster's broker as the program that it is, before a fake Hub that knows its users' tokens.

The Hub is a fake: it answers at once whose token it is asked about, and nothing else. All that is
measured of the broker is real: its program, its HTTP, and what it asks of the API server.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

_COMMAND = "import sys; from jupyter_gpu_share.cli import main; sys.exit(main(sys.argv[1:]))"
_PREFIX = "/services/gpu-share"
_PATIENCE = 120.0
_END = 30.0


class FakeHub:
    """Says whose tokens are which, as a JupyterHub does to a service of its own."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        models = self.models

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                token = self.headers.get("Authorization", "").rpartition(" ")[2]
                found = models.get(token)
                body = json.dumps(found or {"status": 403, "message": "No such token."}).encode()
                self.send_response(200 if found else 403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Nothing is printed of what it is asked."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # Who leaves before the answer is no matter.
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hub/api"
        self._thread = threading.Thread(target=self._server.serve_forever, name="fake Hub")
        self._thread.start()

    def know(self, name: str, kind: str = "user") -> str:
        """A fresh token, of a user's only server or of a service."""
        token = uuid4().hex
        scopes = ["access:services!service=gpu-share"]
        if kind == "user":
            scopes += [f"access:servers!server={name}/", f"read:users:name!user={name}"]
        self.models[token] = {"kind": kind, "name": name, "groups": [], "scopes": scopes}
        return token

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_END)


class RunningBroker:
    """The program; :attr:`url` is what users' servers are told.

    Parameters
    ----------
    folder: of its account and its log.
    engine: settings of ``c.KubernetesEngine``.
    """

    def __init__(self, folder: Path, engine: Mapping[str, Any]) -> None:
        self.hub = FakeHub()
        self._token = self.hub.know("gpu-share", "service")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}{_PREFIX}"
        lines = [f"c.KubernetesEngine.{name} = {value!r}" for name, value in engine.items()]
        lines += [
            'c.Broker.home = "cluster"',
            f'c.Broker.bind = "127.0.0.1:{self._port}"',
            f"c.Broker.folder = {str(folder / 'books')!r}",
        ]
        self._configuration, self.log = folder / "broker_config.py", folder / "broker.log"
        self._configuration.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it, and wait until it answers; seconds that it took."""
        environ = {
            **os.environ,
            "JUPYTERHUB_SERVICE_NAME": "gpu-share",
            "JUPYTERHUB_API_TOKEN": self._token,
            "JUPYTERHUB_API_URL": self.hub.url,
            "JUPYTERHUB_SERVICE_PREFIX": f"{_PREFIX}/",
        }
        begun = time.monotonic()
        command = [sys.executable, "-c", _COMMAND, "broker", "--config", str(self._configuration)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() - begun > _PATIENCE:
                raise RuntimeError(f"the broker does not answer:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)
        return time.monotonic() - begun

    def _answers(self) -> bool:
        url = f"http://127.0.0.1:{self._port}/healthz"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """End it in good order. Kernels go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def most_memory(self) -> float:
        """Megabytes that the process had resident at most since it began."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
        raise AssertionError("the system does not tell")

    def processor_seconds(self) -> float:
        """Processor time of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(folder: Path, engine: Mapping[str, Any]) -> Iterator[RunningBroker]:
    """One that runs and answers, for the time of a ``with`` statement."""
    broker = RunningBroker(folder, engine)
    try:
        broker.start()
        yield broker
    finally:
        if broker._process is not None and broker._process.poll() is None:
            broker.stop()
        broker.hub.close()
