"""What the broker's account may do in the test cluster: what it is documented to need, no more."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import yaml
from cluster.build import PARTS, REPOSITORY

#: The ServiceAccounts of the broker and of kernels.
BROKER, KERNELS = "gpu-share-broker", "gpu-share-kernel"
_FOLDER = REPOSITORY / "etc" / "kubernetes"


@contextmanager
def granted(cluster: Any, namespace: str) -> Iterator[None]:
    """The broker's account with its rights, in a namespace of kernels."""
    with ExitStack() as stack:
        for name in (BROKER, KERNELS):
            path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
            cluster.api.create(path, {"metadata": {"name": name}})
        own, everywhere = (
            _documents("base/role.yaml"),
            _documents("overlays/cluster-read/role.yaml"),
        )
        for each in (*own, *everywhere):
            if each["kind"] in ("Role", "RoleBinding"):
                each["metadata"]["namespace"] = namespace
            else:
                each["metadata"]["name"] += f"-{namespace}"
                if "roleRef" in each:
                    each["roleRef"]["name"] += f"-{namespace}"
                kind, name = each["kind"], each["metadata"]["name"]
                stack.callback(kubectl, cluster, "delete", "--ignore-not-found", kind, name)
            for subject in each.get("subjects", ()):
                subject.update(name=BROKER, namespace=namespace)
            kubectl(cluster, "apply", "-f", "-", given=yaml.safe_dump(each))
        yield


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


def _documents(path: str) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all((_FOLDER / path).read_text()) if item]
