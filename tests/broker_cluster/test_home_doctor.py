"""What ``doctor`` says in the broker's pod: of the Hub, of its own rights, and of the cluster."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from brokers_of_cluster import PREFIX, WhoseToken, cluster_broker
from cluster.fixtures import CLUSTER_MARKS
from fake_hub import FakeHub, model
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from traitlets.config import Config
from waiting import PATIENCE

from jupyter_gpu_share.broker.cluster import doctor
from jupyter_gpu_share.broker.cluster.doctor import examine
from jupyter_gpu_share.cli import _broker, main
from jupyter_gpu_share.engines.base import Finding
from jupyter_gpu_share.engines.kubernetes._doctor import about_leases
from jupyter_gpu_share.engines.kubernetes.backends._nodes import LET_READ

TOKEN = "token-of-the-brokers-service"


@pytest.fixture
async def hub() -> AsyncIterator[tuple[FakeHub, dict[str, str]]]:
    """A fake Hub, and what it tells its service."""
    fake = FakeHub()
    fake.tokens[TOKEN] = {**model("x"), "kind": "service", "name": "gpu-share"}
    server = HTTPServer(web.Application([(r"/hub/api/user", WhoseToken, {"hub": fake})]))
    listening, port = bind_unused_port()
    server.add_socket(listening)
    yield (
        fake,
        {
            "JUPYTERHUB_SERVICE_NAME": "gpu-share",
            "JUPYTERHUB_API_TOKEN": TOKEN,
            "JUPYTERHUB_API_URL": f"http://127.0.0.1:{port}/hub/api",
        },
    )
    server.stop()
    await server.close_all_connections()


def nowhere(tmp_path: Path) -> Config:
    """Of a broker that has no cluster."""
    return Config({"KubernetesEngine": {"kubeconfig": str(tmp_path / "none")}})


async def of_hub(told: dict[str, str], tmp_path: Path) -> Finding:
    found = await examine(nowhere(tmp_path), told)
    assert TOKEN not in str(found)
    assert all(each.fix for each in found if each.level != "ok")
    return found[0]


async def test_the_hub_is_told_of_as_it_is(
    hub: tuple[FakeHub, dict[str, str]], tmp_path: Path
) -> None:
    fake, told = hub
    found = await of_hub(told, tmp_path)
    assert (found.level, "its service gpu-share" in found.what) == ("ok", True)
    fake.trouble = 503
    assert "(status 503)" in (await of_hub(told, tmp_path)).what
    fake.trouble = None
    fake.tokens[TOKEN]["name"] = "other"
    found = await of_hub(told, tmp_path)
    assert found.level == "error" and "is of the service other" in found.what
    fake.tokens.clear()
    found = await of_hub(told, tmp_path)
    assert found.level == "error" and "does not know the broker's token" in found.what
    away = {**told, "JUPYTERHUB_API_URL": "http://127.0.0.1:9/hub/api"}
    assert "does not answer" in (await of_hub(away, tmp_path)).what
    found = await of_hub({}, tmp_path)
    assert found.level == "error" and "JUPYTERHUB_SERVICE_NAME is not set" in found.what


async def test_a_cluster_that_cannot_be_reached_is_an_error(
    hub: tuple[FakeHub, dict[str, str]], tmp_path: Path
) -> None:
    _, found = await examine(nowhere(tmp_path), hub[1])
    assert found.level == "error" and "none" in found.what


def test_remedies_are_those_of_the_chart() -> None:
    # Each remedy that is put in other words is one that the engine has.
    package = Path(doctor.__file__).parents[2] / "engines" / "kubernetes"
    text = "".join(path.read_text() for path in package.rglob("*.py"))
    assert [fix for fix in doctor._CHART if f'"{fix}"' not in text] == []
    found = doctor._of_broker(
        Finding("note", "This server may not read Events.", "kubectl apply -k etc/kubernetes/base")
    )
    assert found.what == "The broker may not read Events."
    assert (found.fix or "").startswith("helm upgrade")
    found = doctor._of_broker(
        Finding("warning", "The Jupyter server may not read nodes.", LET_READ)
    )
    assert found.what == "The broker may not read nodes."
    assert (found.fix or "").startswith("cluster.readPods: true")
    for allowed, wanted in ((None, "kubectl get namespace"), (False, "adminAccess: true")):
        (lacking,) = about_leases(["A100"], allowed, "kernels")
        assert (doctor._of_broker(lacking).fix or "").startswith(wanted)


def test_elsewhere_doctor_looks_at_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration = tmp_path / "broker_config.py"
    configuration.write_text('c.Broker.home = "cluster"\n')
    monkeypatch.setattr(_broker, "CONFIGURATION", configuration)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert _broker.of_cluster(None) is None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert _broker.of_cluster(None) is not None
    configuration.write_text('c.Broker.home = "machine"\n')
    assert _broker.of_cluster(None) is None
    assert main(["doctor", "--config", str(configuration)]) == 1
    assert "is not the configuration of a cluster's broker" in capsys.readouterr().err


class TestOnACluster:
    pytestmark = CLUSTER_MARKS

    async def test_beside_a_broker_that_works(
        self, cluster: Any, namespace: str, tmp_path: Path
    ) -> None:
        async with cluster_broker(tmp_path, cluster.kubeconfig, namespace, style="lease") as broker:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                "import sys; from jupyter_gpu_share.cli import main; sys.exit(main())",
                *("doctor", "--json", "--config", str(broker.configuration)),
                env={
                    **os.environ,
                    "JUPYTERHUB_SERVICE_NAME": "gpu-share",
                    "JUPYTERHUB_API_TOKEN": broker.token,
                    "JUPYTERHUB_API_URL": f"{broker.hub_url}/hub/api",
                    "JUPYTERHUB_SERVICE_PREFIX": f"{PREFIX}/",
                },
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, error = await asyncio.wait_for(process.communicate(), PATIENCE)
            found = json.loads(out)
            assert process.returncode == 0, (found, error)
            said = " ".join(each["what"] for each in found)
            assert "its service gpu-share" in said
            assert f"kernels run in the namespace '{namespace}'." in said
            assert "This server" not in said and "this server" not in said
            assert "The rights in the namespace suffice." in said
