"""Two brokers of one namespace on a real cluster: one of them writes, whatever happens to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from hubs import fetch
from servers import until
from waiting import PATIENCE

pytestmark = CLUSTER_MARKS

#: A broker whose home does nothing but write, all the time.
_BROKER = """
import asyncio, json, logging, sys
from contextlib import suppress

from traitlets.config import Config

from jupyter_gpu_share.broker.cluster.program import ClusterBroker
from jupyter_gpu_share.engines.kubernetes.api import CONFIG_MAPS, KubeApi, KubernetesError
from jupyter_gpu_share.errors import GpuShareError

told = json.loads(sys.argv[1])

class Home:
    ready, overview = False, None

    def __init__(self, broker, guard):
        self.api = KubeApi(told["kubeconfig"], patience=0.0)
        self.api.guard = guard

    def routes(self):
        return []

    async def open(self):
        self.task = asyncio.create_task(self.write())
        self.ready = True

    async def write(self):
        number = 0
        while True:
            with suppress(KubernetesError):
                number += 1
                data = {told["name"]: str(number)}
                await self.api.patch(CONFIG_MAPS, "writes", {"data": data}, told["namespace"])
            await asyncio.sleep(0.05)

    async def close(self):
        self.task.cancel()
        await self.api.close()

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
config = Config()
config.Broker.bind = told["bind"]
config.KubernetesEngine.kubeconfig = told["kubeconfig"]
config.KubernetesEngine.namespace = told["namespace"]
environ = {"JUPYTERHUB_SERVICE_NAME": "gpu-share", "JUPYTERHUB_API_TOKEN": "none"}
environ["JUPYTERHUB_API_URL"] = "http://127.0.0.1:9/hub/api"
try:
    asyncio.run(ClusterBroker(Home, environ, config=config).run())
except GpuShareError as error:
    print(f"gpu-share: {error}", file=sys.stderr)
    sys.exit(1)
"""


class Broker:
    """A broker in a process of its own."""

    def __init__(self, told: dict[str, Any], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.at = f"127.0.0.1:{free.getsockname()[1]}"
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BROKER, json.dumps({**told, "bind": self.at})],
                stdout=file,
                stderr=file,
                env={k: v for k, v in os.environ.items() if not k.startswith("JUPYTERHUB_")},
            )

    @property
    def health(self) -> int:
        return fetch(f"http://{self.at}/healthz")[0]

    @property
    def lives(self) -> bool:
        return fetch(f"http://{self.at}/livez")[0] == 200

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.send_signal(signal.SIGCONT)
        self.process.wait(PATIENCE)


@pytest.fixture
def brokers(cluster: Any, namespace: str, tmp_path: Path) -> Iterator[Callable[[str], Broker]]:
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    cluster.api.create(maps, {"metadata": {"name": "writes"}})
    made: list[Broker] = []

    def start(name: str) -> Broker:
        told = {"name": name, "namespace": namespace, "kubeconfig": str(cluster.kubeconfig)}
        made.append(Broker(told, tmp_path / f"{name}.log"))
        return made[-1]

    yield start
    for each in made:
        each.end()


def test_one_that_is_stopped_or_ends_is_followed(
    cluster: Any, namespace: str, brokers: Callable[[str], Broker]
) -> None:
    def written(name: str) -> int:
        found = cluster.api.get(f"/api/v1/namespaces/{namespace}/configmaps/writes")
        return int((found.get("data") or {}).get(name, 0))

    first = brokers("first")
    until(lambda: first.health == 200, f"it is ready; see {first.log}", 60)
    until(lambda: written("first") > 3, "it writes")
    second = brokers("second")
    until(lambda: second.lives, f"the second one answers; see {second.log}", 60)
    until(lambda: "works in the namespace" in second.log.read_text(), "it says that it waits")
    assert second.health == 503 and written("second") == 0

    # It is stopped, as a node that hangs does it: the other one follows after a while.
    first.process.send_signal(signal.SIGSTOP)
    until(lambda: second.health == 200, f"it follows; see {second.log}", 60)
    until(lambda: written("second") > 3, "it writes")
    before = written("first")
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(PATIENCE) == 1
    last = first.log.read_text().splitlines()[-1]
    assert last.startswith("gpu-share: The broker ends, as the broker "), last
    assert written("first") == before, "nothing that it sent afterwards was done"

    # One that ends in good order, and one that is killed, are followed within seconds.
    third = brokers("third")
    until(lambda: third.lives, f"the third one answers; see {third.log}", 60)
    second.process.terminate()
    assert second.process.wait(PATIENCE) == 0, second.log.read_text()
    until(lambda: third.health == 200, f"it follows; see {third.log}", 10)
    fourth = brokers("fourth")
    until(lambda: fourth.lives, f"the fourth one answers; see {fourth.log}", 60)
    third.process.kill()
    third.process.wait(PATIENCE)
    until(lambda: fourth.health == 200, f"it follows; see {fourth.log}", 10)
