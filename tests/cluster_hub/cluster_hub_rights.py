"""What the broker's chart grants, in the test cluster: its account, rights, policies, namespace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cluster import wait_for
from cluster._helm import helm
from cluster.build import PARTS, REPOSITORY

#: The broker's ServiceAccount, in the Hub's namespace.
BROKER = "gpu-share-broker"
_CHART = REPOSITORY / "etc" / "helm" / "jupyter-gpu-share"
#: The broker itself is a program of this machine here.
_NOT_HERE = {"Deployment", "Service", "ConfigMap", "Secret", "PersistentVolumeClaim"}
_WIDE = (
    "clusterrolebinding",
    "clusterrole",
    "validatingadmissionpolicybinding",
    "validatingadmissionpolicy",
)


@contextmanager
def granted(cluster: Any, servers: str, kernels: str, folder: Path) -> Iterator[None]:
    """All that the chart makes but the broker, for a Hub in ``servers``.

    The namespace of kernels is the chart's. What no namespace has is gone afterwards.
    """
    words = ["template", "gpu-share", _CHART, "--namespace", servers]
    done = helm(folder, *words, "--set", f"kernels.namespace={kernels}")
    assert not done.returncode, done.stderr
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    made = [each for each in objects if each["kind"] not in _NOT_HERE]
    wide = [each for each in made if each["kind"].lower() in _WIDE]
    try:
        made.sort(key=lambda each: each["kind"] != "Namespace")
        kubectl(cluster, "apply", "-f", "-", given=yaml.safe_dump_all(made))
        _held(cluster, servers, kernels)
        yield
    finally:
        for each in wide:
            words = ["delete", "--ignore-not-found", each["kind"], each["metadata"]["name"]]
            kubectl(cluster, *words)


def _held(cluster: Any, servers: str, kernels: str) -> None:
    """Wait until the policies hold the broker: API servers learn of them a moment later."""
    api = cluster.api_as(cluster.service_account_token(servers, BROKER))
    # Kinds of objects that one policy each refuses.
    secrets = f"/api/v1/namespaces/{kernels}/secrets?dryRun=All"
    name = "gpu-share-" + 32 * "0"
    labels = {
        "app.kubernetes.io/managed-by": "jupyter-gpu-share",
        "gpu-share.jupyter.org/server": "hub-" + 32 * "0",
    }
    typed = {
        "metadata": {"name": name, "labels": labels},
        "type": "kubernetes.io/basic-auth",
        "stringData": {"username": "", "password": ""},
    }

    told: list[Any] = []

    def refused() -> bool:
        told.clear()
        for body, policy in (({"metadata": {"name": "x"}}, b"-objects"), (typed, b"-secrets")):
            status, answer = api.raw("POST", secrets, body)
            told.append((status, answer))
            if status != 403 or policy not in answer:
                return False
        return True

    wait_for(refused, "the admission policies hold the broker", 60, lambda: str(told))


def kubectl(cluster: Any, *words: str, given: str | None = None) -> str:
    """Run kubectl as administrator; what it printed."""
    program = PARTS["kubernetes"].folder / "kubectl"
    done = subprocess.run(
        [program, f"--kubeconfig={cluster.kubeconfig}", *words],
        env={"PATH": os.environ["PATH"], "HOME": str(cluster.run)},
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not done.returncode, f"{words}: {done.stderr}"
    return done.stdout
