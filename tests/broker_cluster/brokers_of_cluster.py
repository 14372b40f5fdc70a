"""A broker on the test cluster in a process of its own, before a fake Hub, and its users."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from fake_hub import FakeHub, model
from homes import User
from tornado import web
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from waiting import PATIENCE, eventually

_BROKER = "import sys; from jupyter_gpu_share.cli import main; sys.exit(main(sys.argv[1:]))"
PREFIX = "/services/gpu-share"


class WhoseToken(web.RequestHandler):
    def initialize(self, hub: FakeHub) -> None:
        self.hub = hub

    async def get(self) -> None:
        token = self.request.headers.get("Authorization", "").removeprefix("token ")
        answer = await self.hub.user(token)
        self.set_status(answer.status)
        self.finish(answer.body)


class RunningClusterBroker:
    """``jupyter gpu-share broker`` with a kubeconfig, as it runs in a pod.

    ``engine`` are settings of ``c.KubernetesEngine``, ``more`` is a line of the configuration.
    """

    def __init__(
        self, folder: Path, kubeconfig: Path, namespace: str, more: str = "", **engine: Any
    ) -> None:
        self.hub = FakeHub()
        self.token = uuid4().hex
        self.hub.tokens[self.token] = {**model("x"), "kind": "service", "name": "gpu-share"}
        self.folder = folder
        holder, self.port = bind_unused_port()
        holder.close()
        self.url = f"http://127.0.0.1:{self.port}{PREFIX}"
        settings = {
            "kubeconfig": str(kubeconfig),
            "namespace": namespace,
            "image": "localhost/kernel:1",
            "lease_image": "localhost/pause:1",
            "image_pull_policy": "Never",
            **engine,
        }
        lines = [f"c.KubernetesEngine.{name} = {value!r}" for name, value in settings.items()]
        lines += [
            'c.Broker.home = "cluster"',
            f'c.Broker.bind = "127.0.0.1:{self.port}"',
            f"c.Broker.folder = {str(folder / 'books')!r}",
            more,
        ]
        self.configuration = folder / "broker_config.py"
        self.configuration.write_text("\n".join(lines))
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "broker.log"
        self.hub_url = ""

    def start(self) -> None:
        environ = {
            **os.environ,
            "JUPYTERHUB_SERVICE_NAME": "gpu-share",
            "JUPYTERHUB_API_TOKEN": self.token,
            "JUPYTERHUB_API_URL": f"{self.hub_url}/hub/api",
            "JUPYTERHUB_SERVICE_PREFIX": f"{PREFIX}/",
        }
        command = [sys.executable, "-c", _BROKER, "broker", "--config", str(self.configuration)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)

    async def ready(self, patience: float = 60.0) -> None:
        async def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            url = f"http://127.0.0.1:{self.port}/healthz"
            try:
                answer = await AsyncHTTPClient().fetch(url, raise_error=False)
            except OSError:
                return False
            return answer.code == 200

        await eventually(answers, f"the broker is ready; {self.log.read_text()}", patience)

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def user(self, user: str, server: str | None = "", **other: Any) -> User:
        token = uuid4().hex
        self.hub.tokens[token] = model(user, server, **other)
        return User(self, token, user, server)  # type: ignore[arg-type]


@asynccontextmanager
async def cluster_broker(*arguments: Any, **engine: Any) -> AsyncIterator[RunningClusterBroker]:
    """One that runs and is ready."""
    broker = RunningClusterBroker(*arguments, **engine)
    hub = HTTPServer(web.Application([(r"/hub/api/user", WhoseToken, {"hub": broker.hub})]))
    listening, port = bind_unused_port()
    hub.add_socket(listening)
    broker.hub_url = f"http://127.0.0.1:{port}"
    broker.start()
    try:
        await broker.ready()
        yield broker
    finally:
        assert broker.process is not None
        if broker.process.poll() is None:
            await asyncio.to_thread(broker.kill, signal.SIGTERM)
        print(broker.log.read_text())  # shown where the test has failed
        hub.stop()
        await hub.close_all_connections()


def uids(pods: list[dict[str, Any]]) -> dict[str, str]:
    """Of pods, by their names."""
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}


def without(row: dict[str, Any], *names: str) -> str:
    """A row without some fields, to be compared."""
    return json.dumps({k: v for k, v in row.items() if k not in names}, sort_keys=True)
