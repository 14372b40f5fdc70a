"""A namespace of a real cluster, and a runtime whose engine uses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import World, account, through
from manifests import (  # noqa: F401
    another_namespace,
    cluster_read,
    jupyter,
    policies,
    two_servers,
)
from notebooks import Notebook
from proxy import Proxy
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
async def world(
    cluster: Any, namespace: str, config: Config, tmp_path: Path
) -> AsyncIterator[World]:
    """A server's view of the cluster through a proxy, with the rights of a ServiceAccount."""
    proxy = await Proxy(6443).start()
    own = account(cluster, namespace)
    config.KubernetesEngine.kubeconfig = str(through(proxy, own, tmp_path))
    config.KubernetesEngine.watch_period = 3.0
    config.KubernetesEngine.sweep_interval = 5.0
    found = World(cluster, namespace, config, proxy, "alice")
    yield found
    cluster.restore()
    await found.close()
    await proxy.hang_up()
    # Before the server's side ends: a connection that was just begun would wait for an answer, and
    # outlive the loop that closes it.
    await proxy.close()
    await asyncio.to_thread(Runtime.clear_instance)
    cluster.api.delete(f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/read-{namespace}")
    cluster.api.delete(f"/apis/rbac.authorization.k8s.io/v1/clusterroles/read-{namespace}")


@pytest.fixture
def start(cluster: Any, namespace: str, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of one user; ``prefix`` is a command that runs the one after it."""
    running: list[Server] = []

    def run(home: str = "alice", prefix: tuple[str, ...] = (), **settings: Any) -> Server:
        folder = tmp_path / home
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
        server = run_server(
            folder, "--GpuShareProvisioner.engine=kubernetes", *arguments, prefix=prefix
        )
        running.append(server)
        return server

    yield run
    for server in running:
        if server.process.poll() is None:
            stop_server(server)
