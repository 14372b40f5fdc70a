"""A namespace of a real cluster, and a runtime whose engine uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manifests import (  # noqa: F401
    another_namespace,
    cluster_read,
    jupyter,
    policies,
    two_servers,
)
from notebooks import Notebook
from servers import Server, run_server, stop_server
from traitlets.config import Config

from jupyter_gpu_share.runtime import Runtime


@pytest.fixture
def config(cluster: Any, namespace: str, jupyter_dirs: Path) -> Iterator[Config]:
    """Configuration of a server whose kernels are pods, and a fresh runtime."""
    config = Config()
    config.GpuShareProvisioner.engine = "kubernetes"
    config.KubernetesEngine.kubeconfig = str(cluster.kubeconfig)
    config.KubernetesEngine.namespace = namespace
    config.KubernetesEngine.server_name = "alice"
    config.KubernetesEngine.image = "localhost/kernel:1"
    config.KubernetesEngine.lease_image = "localhost/pause:1"
    config.KubernetesEngine.image_pull_policy = "Never"
    config.KubernetesEngine.renewal = 1.0
    Runtime.clear_instance()
    yield config
    Runtime.clear_instance()


@pytest.fixture
async def notebook(config: Config) -> AsyncIterator[Callable[..., Notebook]]:
    """Makes notebooks, and ends them."""
    made: list[Notebook] = []

    def make(size: str, kernel_id: str | None = None, **settings: Any) -> Notebook:
        for name, value in settings.items():
            setattr(config.KubernetesEngine, name, value)
        made.append(Notebook(config, size, kernel_id))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture
def objects(cluster: Any, namespace: str) -> Callable[[str], list[dict[str, Any]]]:
    """Reads what there is in the namespace, by plural: ``pods``, ``secrets``, ``claims``, …"""
    paths = {
        "claims": f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims",
        "leases": f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
    }

    def read(what: str) -> list[dict[str, Any]]:
        path = paths.get(what, f"/api/v1/namespaces/{namespace}/{what}")
        items: list[dict[str, Any]] = cluster.api.get(path)["items"]
        return items

    return read


@pytest.fixture
def start(cluster: Any, namespace: str, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of one user, one after the other."""
    running: list[Server] = []
    folder = tmp_path / "alice"

    def run(**settings: Any) -> Server:
        traits = {
            "kubeconfig": str(cluster.kubeconfig),
            "namespace": namespace,
            "server_name": "alice",
            "image": "localhost/kernel:1",
            "image_pull_policy": "Never",
            "renewal": 1.0,
            "sweep_interval": 5.0,
            **settings,
        }
        for old in (folder / "runtime").glob("jpserver-*"):
            old.unlink()
        arguments = [
            f"--{name if '.' in name else f'KubernetesEngine.{name}'}={value}"
            for name, value in traits.items()
        ]
        server = run_server(folder, "--GpuShareProvisioner.engine=kubernetes", *arguments)
        running.append(server)
        return server

    yield run
    for server in running:
        if server.process.poll() is None:
            stop_server(server)
