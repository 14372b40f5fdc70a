"""The real broker as the chart installs it: in a pod, with the chart's rights and policies.

The Hub is a fake. The broker's image is that of kernels, with this machine's Python.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import zmq
from charts import BROKER, HELM_MARKS, Release, in_the_test_cluster, left_over
from cluster import wait_for
from cluster.fixtures import CLUSTER_MARKS
from hubs import fetch
from in_a_pod import FakeHub, api_for_pods, forwarded
from machines import COMMAND
from manifests import kubectl
from notebooks import Notebook
from traitlets.config import Config
from waiting import eventually

from jupyter_gpu_share.runtime import Runtime

pytestmark = [*CLUSTER_MARKS, HELM_MARKS[-1]]

WORDS = ("--wait", "--timeout", "120s")


class Deployment:
    """A release whose broker is the real one, and alice's server that asks it."""

    def __init__(self, cluster: Any, home: Path, namespace: str, hub: FakeHub) -> None:
        values = in_the_test_cluster()
        own, self._alice, self._bob = (secrets.token_hex() for _ in range(3))
        hub.service(own)
        hub.server(self._alice, "alice")
        hub.server(self._bob, "bob")
        values["hub"] = {"token": own, "apiUrl": hub.api}
        # As the image starts it: it finds its configuration where the chart puts it.
        values["command"] = [*COMMAND, "broker"]
        engine = {"image": "localhost/kernel:1", "image_pull_policy": "Never"}
        values["config"] = {"KubernetesEngine": engine}
        self.release = Release(cluster, home, namespace, values)
        self.token = self._alice
        self.cluster, self.instance, self._engine = cluster, secrets.token_hex(16), engine

    def upgrade(self, **broker: Any) -> None:
        """Another configuration: the broker is replaced."""
        before = self.broker()["metadata"]["uid"]
        config = {"Broker": broker, "KubernetesEngine": self._engine}
        self.release.upgrade(*WORDS, config=config)
        wait_for(lambda: self.broker()["metadata"]["uid"] != before, "a new broker", 60)

    def broker(self) -> dict[str, Any]:
        """The pod of the broker that is to stay."""
        pods = self.release.pods()
        return next((each for each in pods if "deletionTimestamp" not in each["metadata"]), pods[0])

    def address(self) -> tuple[str, int]:
        """Where the broker's Service leads."""
        return str(self.broker()["status"].get("podIP")), 8000

    def ask(self, method: str, path: str, body: Any = None, bob: bool = False) -> tuple[int, Any]:
        """What the broker answers alice's server, or bob's."""
        url = f"http://{self.address()[0]}:8000/services/gpu-share{path}"
        token = self._bob if bob else self._alice
        return fetch(url, method, body, token, **{"Gpu-Share-Instance": self.instance})

    def kernels(self) -> list[dict[str, Any]]:
        """The pods of kernels."""
        path = f"/api/v1/namespaces/{self.release.kernels}/pods"
        found: list[dict[str, Any]] = self.cluster.api.get(path)["items"]
        return found

    def doctor(self) -> list[dict[str, str]]:
        """What ``doctor`` finds in the broker's pod."""
        where = ("exec", f"deployment/{BROKER}", "-n", self.release.namespace, "--")
        found: list[dict[str, str]] = json.loads(
            kubectl(self.cluster, *where, *COMMAND, "doctor", "--json")
        )
        return found

    def told(self) -> str:
        return kubectl(
            self.cluster, "logs", f"deployment/{BROKER}", "-n", self.release.namespace, "--tail=30"
        )


@pytest.fixture
def deployment(cluster: Any, home: Path) -> Iterator[Deployment]:
    namespace = cluster.namespace(f"hub-{secrets.token_hex(4)}")
    with api_for_pods(), closing(FakeHub(cluster.host_address)) as hub:
        found = Deployment(cluster, home, namespace, hub)
        try:
            yield found
        finally:
            cluster.restore()
            found.release.uninstall("--ignore-not-found")
            cluster.delete_namespace(namespace)


def start_of(size: str) -> dict[str, Any]:
    """What a user's server sends to have a kernel started."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    keys = {"key": secrets.token_hex(), "signature_scheme": "hmac-sha256"}
    keys |= {"curve_publickey": public, "curve_secretkey": secret}
    return {
        "attempt": secrets.token_hex(16),
        "size": size,
        "info": {"kernel_name": "python3", "path": "a.ipynb"},
        "pod": {"language": "python", "flags": [], "hash_seed": "", "keys": keys},
    }


def test_kernels_of_the_real_broker_run_through_an_upgrade(deployment: Deployment) -> None:
    one, kernel_id = deployment, str(uuid4())
    try:
        one.release.install(*WORDS)
    except AssertionError as error:
        raise AssertionError(one.told()) from error
    status, machine = one.ask("GET", "/v1/machine")
    assert status == 200, machine
    assert machine["you"]["user"] == "alice"
    assert machine["gpus"], "the chart lets the broker see the cluster's GPUs"
    # It finds the broker's configuration, and nothing that the chart has left out.
    said = one.doctor()
    assert "its service gpu-share" in said[0]["what"], said
    assert "The rights in the namespace suffice." in [each["what"] for each in said]
    assert [each for each in said if each["level"] in ("error", "warning")] == []

    body = start_of("1/4")
    status, row = one.ask("PUT", f"/v1/shares/{kernel_id}", body)
    assert status == 201, (row, one.told())

    def runs() -> Any:
        status, rows = one.ask("GET", "/v1/shares")
        assert status == 200, rows
        assert not rows[0]["failed"], rows
        return rows[0]["address"]

    wait_for(runs, "the kernel's container runs", 90, one.told)
    (pod,) = one.kernels()
    assert pod["metadata"]["annotations"]["hub.jupyter.org/username"] == "alice"
    assert pod["spec"]["serviceAccountName"] == "gpu-share-kernel"
    # To bob there is no such kernel: he learns no keys, and what he ends is nothing.
    path = f"/v1/shares/{kernel_id}"
    assert one.ask("GET", f"{path}/connection", bob=True)[0] == 404
    one.ask("DELETE", f"{path}?attempt={body['attempt']}", bob=True)
    assert one.ask("GET", "/v1/shares", bob=True) == (200, [])

    one.upgrade(patience=30)
    wait_for(runs, "the next broker knows the kernel", 60, one.told)
    (same,) = one.kernels()
    assert same["metadata"]["uid"] == pod["metadata"]["uid"]
    assert same["status"]["phase"] == "Running"

    one.release.uninstall()
    path = f"/api/v1/namespaces/{one.release.namespace}/pods"
    wait_for(lambda: not one.cluster.api.get(path)["items"], "the broker has ended", 60)
    assert left_over(one.cluster, one.release) == []


async def test_a_users_variables_live_through_upgrades_of_the_broker(
    deployment: Deployment, jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user's server has it: no rights on the cluster, and the address of the broker."""
    one = None
    Runtime.clear_instance()
    try:
        await asyncio.to_thread(deployment.release.install, *WORDS)
        # There is no kube-proxy that would make a Service of it.
        with forwarded(("127.0.0.1", 0), deployment.address) as (host, port):
            monkeypatch.setenv(
                "JUPYTER_GPU_SHARE_BROKER", f"http://{host}:{port}/services/gpu-share"
            )
            monkeypatch.setenv("JUPYTERHUB_API_TOKEN", deployment.token)
            monkeypatch.setenv("KUBECONFIG", "/nowhere")
            c = Config()
            c.GpuShareProvisioner.engine = "kubernetes"
            one = await Notebook(c, "1/4").start()
            assert await one.run("x = 42; print(x)") == "42"
            (pod,) = deployment.kernels()
            await asyncio.to_thread(deployment.upgrade, patience=30)
            assert await one.run("print(x)") == "42"
            await asyncio.to_thread(deployment.upgrade, patience=60)
            assert await one.run("print(x + 1)") == "43"
            (same,) = deployment.kernels()
            assert same["metadata"]["uid"] == pod["metadata"]["uid"]
            await one.close()
            one = None
            await eventually(lambda: not deployment.kernels(), "the kernel's pod is gone", 90)
    finally:
        if one is not None:
            await one.close()
        await asyncio.to_thread(Runtime.clear_instance)
