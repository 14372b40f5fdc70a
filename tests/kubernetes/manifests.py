"""The manifests of ``etc/kubernetes`` as an administrator applies them, and whom they are for."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import wait_for
from cluster.build import PARTS, REPOSITORY
from cluster.fixtures import RESTRICTED
from plans import plan
from traitlets.config import Config

from jupyter_gpu_share.engines.kubernetes._names import object_name
from jupyter_gpu_share.engines.kubernetes._pods import Labels, pod_body

FOLDER = REPOSITORY / "etc" / "kubernetes"
ACCOUNT, KERNEL_ACCOUNT = "jupyter", "gpu-share-kernel"
DRY = "?dryRun=All"


def kubectl(cluster: Any, *words: str | Path) -> str:
    """Run kubectl as administrator; what it printed."""
    program = PARTS["kubernetes"].folder / "kubectl"
    env = {"PATH": os.environ["PATH"], "HOME": str(cluster.run)}
    done = subprocess.run(
        [program, f"--kubeconfig={cluster.kubeconfig}", *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not done.returncode, f"{words}: {done.stderr}"
    return done.stdout


def rendered(cluster: Any, folder: str | Path) -> list[dict[str, Any]]:
    """What a folder of ``etc/kubernetes`` amounts to."""
    text = kubectl(cluster, "kustomize", FOLDER / folder)
    return [item for item in yaml.safe_load_all(text) if item]


def documents(path: str) -> list[dict[str, Any]]:
    """The objects in a file below ``etc/kubernetes``."""
    return [item for item in yaml.safe_load_all((FOLDER / path).read_text()) if item]


def rights(role: dict[str, Any]) -> set[tuple[str, str]]:
    """Pairs of verb and resource that a Role grants."""
    return {
        (verb, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


def apply_to(cluster: Any, namespace: str, folder: Path, *components: str) -> None:
    """Apply the base, with components, to a namespace: an overlay as administrators write them."""
    here = folder / f"overlay-{secrets.token_hex(4)}"
    here.mkdir()
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [os.path.relpath(FOLDER / "base", here)],
        "components": [os.path.relpath(FOLDER / "components" / name, here) for name in components],
    }
    (here / "kustomization.yaml").write_text(json.dumps(overlay))
    kubectl(cluster, "apply", "-k", here)


@dataclass(frozen=True)
class Account:
    """A ServiceAccount of a namespace, and what the API server answers it."""

    cluster: Any
    namespace: str
    name: str = ACCOUNT

    @cached_property
    def api(self) -> Any:
        """The API with its token."""
        return self.cluster.api_as(self.cluster.service_account_token(self.namespace, self.name))

    @cached_property
    def kubeconfig(self) -> Path:
        """A kubeconfig with its token."""
        path: Path = self.cluster.service_account_kubeconfig(self.namespace, self.name)
        return path

    def may(
        self,
        verb: str,
        resource: str,
        namespace: str | None = None,
        *,
        group: str = "",
        **more: str,
    ) -> bool:
        """What ``kubectl auth can-i`` says; ``namespace`` is empty for the whole cluster."""
        where = self.namespace if namespace is None else namespace
        resource, _, subresource = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": where}
        spec = {"resourceAttributes": {**attributes, "subresource": subresource, **more}}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self.api.create(path, {"spec": spec})["status"]["allowed"])

    def path(self, resource: str, name: str = "", namespace: str = "") -> str:
        """Where the API serves a collection, or one object, of the namespace."""
        group = {
            "resourceclaims": "apis/resource.k8s.io/v1",
            "leases": "apis/coordination.k8s.io/v1",
        }.get(resource, "api/v1")
        base = f"/{group}/namespaces/{namespace or self.namespace}/{resource}"
        return f"{base}/{name}" if name else base

    def refused(
        self, method: str, path: str, body: Any = None, kind: str = "application/json"
    ) -> str:
        """Attempt what must be forbidden; the API server's words."""
        status, answer = self.api.raw(method, path, body, kind)
        assert status == 403, (method, path, status, answer)
        message: str = json.loads(answer)["message"]
        return message

    def pod(self, kernel_id: str = "k-1", **fields: Any) -> dict[str, Any]:
        """The pod that the package makes for a kernel of this server."""
        name = object_name(self.name, kernel_id)
        given = {
            "name": name,
            "labels": Labels(self.name, kernel_id, secrets.token_hex(8)),
            "image": "localhost/kernel:1",
            "pull_policy": "Never",
            "service_account": KERNEL_ACCOUNT,
            "claims": {"gpu": f"{name}-gpu"},
            "owner": None,
        }
        return pod_body(plan(**(given | fields)))

    def configure(self, config: Config) -> None:
        """Have kernels started as this server."""
        config.KubernetesEngine.kubeconfig = str(self.kubeconfig)
        config.KubernetesEngine.namespace = self.namespace
        config.KubernetesEngine.server_name = ""  # the account's
        config.KubernetesEngine.service_account = KERNEL_ACCOUNT


def held(account: Account) -> None:
    """Wait until the policies hold an account: API servers learn of them a moment later.

    The last one that is applied is waited for.
    """
    secret = {
        "metadata": {
            "name": object_name(account.name, "probe"),
            "labels": Labels(account.name, "probe", "1").metadata("", "connection")["labels"],
        },
        "type": "kubernetes.io/basic-auth",
        "stringData": {"username": "", "password": ""},
    }

    def refused() -> bool:
        status, answer = account.api.raw("POST", account.path("secrets") + DRY, secret)
        return status == 403 and b"gpu-share-secrets" in answer

    wait_for(refused, "the admission policies hold", 60)


@pytest.fixture(scope="session")
def policies(cluster: Any) -> Iterator[None]:
    """The admission policies, which are the whole cluster's."""
    kubectl(cluster, "apply", "-k", FOLDER / "policy")
    yield
    cluster.restore()
    kubectl(cluster, "delete", "--ignore-not-found", "-k", FOLDER / "policy")


@pytest.fixture
def cluster_read(cluster: Any, policies: None) -> Iterator[Callable[[Account], None]]:
    """Applies ``overlays/cluster-read``, and lets an account have it as the overlay says."""
    folder = FOLDER / "overlays" / "cluster-read"
    kubectl(cluster, "apply", "-k", folder)
    bound: list[str] = []

    def bind(account: Account) -> None:
        bound.append(f"gpu-share-cluster-read-{account.namespace}")
        subject = f"--serviceaccount={account.namespace}:{account.name}"
        role = "--clusterrole=gpu-share-cluster-read"
        kubectl(cluster, "create", "clusterrolebinding", bound[-1], role, subject)

    yield bind
    for name in bound:
        kubectl(cluster, "delete", "--ignore-not-found", "clusterrolebinding", name)
    kubectl(cluster, "delete", "--ignore-not-found", "-k", folder)


@pytest.fixture
def jupyter(cluster: Any, policies: None, namespace: str, tmp_path: Path) -> Account:
    """The server of a namespace of its own."""
    apply_to(cluster, namespace, tmp_path)
    account = Account(cluster, namespace)
    held(account)
    return account


@pytest.fixture
def two_servers(
    cluster: Any, policies: None, namespace: str, tmp_path: Path
) -> tuple[Account, Account]:
    """Alice's and Bob's servers in one namespace, as ``overlays/shared`` has it."""
    apply_to(cluster, namespace, tmp_path, "shared")
    for name in ("alice", "bob"):
        kubectl(cluster, "create", "serviceaccount", name, "-n", namespace)
        subject = f"--serviceaccount={namespace}:{name}"
        kubectl(
            cluster,
            *("create", "rolebinding", name, "--role=gpu-share-server", subject, "-n", namespace),
        )
    alice, bob = Account(cluster, namespace, "alice"), Account(cluster, namespace, "bob")
    held(alice)
    held(bob)
    return alice, bob


@pytest.fixture
def another_namespace(cluster: Any, policies: None, tmp_path: Path) -> Iterator[Account]:
    """The server of somebody else, in a namespace of its own."""
    name = cluster.namespace(f"test-{secrets.token_hex(4)}", RESTRICTED)
    apply_to(cluster, name, tmp_path)
    account = Account(cluster, name)
    held(account)
    yield account
    cluster.restore()
    cluster.delete_namespace(name)
