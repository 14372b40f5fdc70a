"""Other projects' own suites, with our provisioner and kernels in pods of a real cluster."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cluster import KERNEL_IMAGE
from cluster.fixtures import CLUSTER_MARKS
from leftovers import nothing_left
from running import HERE, LIMIT, deselected, environment, run, sources

pytestmark = [*CLUSTER_MARKS, pytest.mark.suite]

#: What the suites' own kernels are made of: the image has none of it.
_MODULES = "/opt/suite"


@pytest.fixture
def env(cluster: Any, namespace: str, tmp_path: Path) -> dict[str, str]:
    """No GPU on this machine, and Jupyter's own configuration has kernels run in pods."""
    config = {
        "GpuShareProvisioner": {"engine": "kubernetes"},
        "KubernetesEngine": {
            "kubeconfig": str(cluster.kubeconfig),
            "namespace": namespace,
            "image": KERNEL_IMAGE,
            "image_pull_policy": "Never",
            "volumes": [{"name": "modules", "configMap": _modules(cluster, namespace)}],
            "volume_mounts": [{"name": "modules", "mountPath": _MODULES}],
            "working_dir": _MODULES,
        },
    }
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "jupyter_config.json").write_text(json.dumps(config))
    return environment(
        tmp_path,
        JUPYTER_CONFIG_PATH=str(tmp_path / "settings"),
        JUPYTER_GPU_SHARE_SIMULATE="",
        JUPYTER_GPU_SHARE_SIZE="1/16",
        # tornado gives a test 5 s, which is short for two pods one after the other.
        ASYNC_TEST_TIMEOUT="60",
    )


def _modules(cluster: Any, namespace: str) -> dict[str, Any]:
    """A ConfigMap with the modules of the suites' kernels; the volume's source."""
    import pytest_jupyter

    tests = sources("jupyter_client") / "tests"
    echo = Path(pytest_jupyter.__file__).with_name("echo_kernel.py")
    files = {
        "tests/signalkernel.py": tests / "signalkernel.py",
        "tests/problemkernel.py": tests / "problemkernel.py",
        "pytest_jupyter/echo_kernel.py": echo,
    }
    body = {
        "metadata": {"name": "modules"},
        "data": {path.name: path.read_text() for path in files.values()},
    }
    cluster.api.create(f"/api/v1/namespaces/{namespace}/configmaps", body)
    items = [{"key": path.name, "path": target} for target, path in files.items()]
    return {"name": "modules", "items": items}


def _pods_made(cluster: Any, namespace: str, since: int) -> int:
    return sum(
        entry["verb"] == "create"
        and entry["objectRef"].get("namespace") == namespace
        and entry["objectRef"]["resource"] == "pods"
        and entry["stage"] == "ResponseComplete"
        and entry.get("userAgent") == "jupyter-gpu-share"
        for entry in cluster.audit(since)
        if "objectRef" in entry
    )


@pytest.mark.timeout(LIMIT + 60)
def test_jupyter_client(env: dict[str, str], cluster: Any, namespace: str) -> None:
    names = [*deselected("jupyter_client"), *deselected("jupyter_client-on-pods")]
    left_out = [f"--deselect={name}" for name in names]
    since = cluster.audit_position()
    where = sources("jupyter_client")
    passed, launches, end = run(env, where, "-p", "no:asyncio", *left_out, "tests")
    assert f"{len(left_out)} deselected" in end, "a name in the list of deselected tests is stale"
    assert passed > 200
    assert launches > 50
    assert _pods_made(cluster, namespace, since) > 50
    nothing_left(cluster, namespace)


def test_jupyter_kernel_test(
    env: dict[str, str], cluster: Any, namespace: str, tmp_path: Path
) -> None:
    shutil.copy(HERE / "ipykernel_cases.py", tmp_path / "test_ipykernel.py")
    since = cluster.audit_position()
    _, launches, _ = run(env, tmp_path, "-p", "no:asyncio", "test_ipykernel.py")
    assert launches >= 1
    assert _pods_made(cluster, namespace, since) >= 1
    nothing_left(cluster, namespace)
