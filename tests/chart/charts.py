"""The Helm chart as an administrator uses it: rendered, and as a release of the test cluster."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster._helm import helm, helm_program
from cluster.build import REPOSITORY

sys.path.append(str(REPOSITORY / "tests" / "kubernetes"))
from manifests import kubectl

ETC = REPOSITORY / "etc"
CHART = ETC / "helm" / "jupyter-gpu-share"
STANZAS = ETC / "helm" / "zero-to-jupyterhub.yaml"
#: Helm is built where it is missing, which takes minutes.
HELM_MARKS = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(shutil.which("go") is None, reason="Helm is built with Go"),
]
#: Where releases are rendered to.
HUB, KERNELS = "jupyterhub", "gpu-share-kernels"
BROKER = "gpu-share-broker"

#: Values with every part of the chart, and every kind of value.
FULL: dict[str, Any] = {
    "hub": {"baseUrl": "/hubs/", "token": "a" * 64, "podLabels": {"release": "hub"}},
    "image": {"tag": "9.9.9", "pullSecrets": [{"name": "registry"}]},
    "kernels": {
        "keep": True,
        "labels": {"team": "a"},
        "annotations": {"owner": "a"},
        "quota": {"pods": "200", "count/secrets": 200},
        "limits": [{"type": "Container", "max": {"memory": "64Gi"}}],
        "networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]}]},
    },
    "config": {
        "Broker": {
            "limits": [
                {"resource": "gpus", "limit": 1, "scope": {"user": ["*"]}},
                {"resource": "gpu_hours", "limit": "40", "window": 7, "scope": "total"},
            ],
            "queues": [{"group": "course-*", "sizes": ["1"], "queue": "courses"}],
            "patience": 30.5,
        },
        "IdlePolicy": {"warn_before": 60, "demand_after": None, "in_place": True},
        "SizePolicy": {"minimum": "1/8"},
        "KubernetesEngine": {
            "image": "kernels:1",
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "environment": {"GREETING": "it's \"quoted\"\n'''\\"},
        },
    },
    "extraConfig": "c.KubernetesEngine.cpu = '2'\nif 1:\n    c.KubernetesEngine.memory = '4Gi'\n",
    "cluster": {"readPods": True},
    "adminAccess": True,
    "networkPolicy": {"prometheusNamespace": {"kubernetes.io/metadata.name": "monitoring"}},
    "storage": {"storageClass": "fast"},
    "service": {"annotations": {"a": "b"}},
    "metrics": {
        "tokenSecret": "prometheus",
        "serviceMonitor": {"enabled": True, "labels": {"a": "b"}},
        "rules": {"enabled": True},
        "dashboard": {"enabled": True},
    },
    "extraEnv": [{"name": "LANG", "value": "C.UTF-8"}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "podLabels": {"a": "b"},
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"pool": "core"},
    "tolerations": [{"key": "core", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
}

Objects = dict[tuple[str, str], dict[str, Any]]


def rendered(
    home: Path, values: Mapping[str, Any] | None = None, *words: str, chart: Path = CHART
) -> Objects:
    """What a release in the Hub's namespace consists of, by kind and name."""
    done = template(home, values, *words, chart=chart)
    assert not done.returncode, done.stderr
    found = {}
    for each in yaml.safe_load_all(done.stdout):
        if each:
            key = each["kind"], each["metadata"]["name"]
            assert key not in found, f"{key} is there twice"
            found[key] = each
    return found


def template(
    home: Path, values: Mapping[str, Any] | None = None, *words: str, chart: Path = CHART
) -> Any:
    """How ``helm template`` ends."""
    words = ("template", "gpu-share", str(chart), "--namespace", HUB, *words)
    return helm(home, *words, *given(home, values or {}))


def given(home: Path, values: Mapping[str, Any]) -> list[str]:
    """The option for these values."""
    path = home / "values.json"
    path.write_text(json.dumps(values))
    return ["--values", str(path)]


def configured(configuration: Mapping[str, Any], folder: Path) -> Any:
    """What the broker makes of the release's ConfigMap."""
    from jupyter_gpu_share.cli._broker import read_configuration

    folder.mkdir(mode=0o755)
    for name, text in configuration["data"].items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    return read_configuration(str(folder / "broker_config.py"))


class Release:
    """A release of the chart in the test cluster, and the namespaces that it uses.

    Parameters
    ----------
    values: of all its revisions; `install` and `upgrade` add to them.
    """

    def __init__(self, cluster: Any, home: Path, hub: str, values: Mapping[str, Any]) -> None:
        self.cluster, self.namespace = cluster, hub
        self.kernels = f"{hub}-kernels"
        #: Two of them at once are told apart by it.
        self.name = f"gpu-share-{secrets.token_hex(4)}"
        self._home, self._values = home, values
        helm_program()

    def install(self, *words: str, **more: Any) -> str:
        return self._revise("install", *words, **more)

    def upgrade(self, *words: str, **more: Any) -> str:
        return self._revise("upgrade", *words, **more)

    def uninstall(self, *words: str) -> str:
        """The one command that docs/jupyterhub.md names."""
        return self._helm("uninstall", self.name, "--wait", *words)

    def _revise(self, action: str, *words: str, **more: Any) -> str:
        values = {**self._values, **more}
        values["kernels"] = {"namespace": self.kernels, **values.get("kernels", {})}
        return self._helm(action, self.name, str(CHART), *given(self._home, values), *words)

    def _helm(self, *words: str) -> str:
        done = helm(
            self._home,
            *words,
            "--namespace",
            self.namespace,
            kubeconfig=self.cluster.kubeconfig,
            patience=300,
        )
        assert not done.returncode, f"{words}: {done.stderr}\n{self._told()}"
        return str(done.stdout)

    def _told(self) -> str:
        """Why the broker's pod is not ready."""
        events = self.cluster.api.get(f"/api/v1/namespaces/{self.namespace}/events")["items"]
        return "\n".join(f"{each['reason']}: {each.get('message')}" for each in events[-15:])

    def pods(self) -> list[dict[str, Any]]:
        """The broker's pods."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        found: list[dict[str, Any]] = self.cluster.api.get(path)["items"]
        return [
            each
            for each in found
            if each["metadata"]["labels"].get("app.kubernetes.io/component") == "broker"
        ]


#: What the broker does of what a release gives it, where its image is not there: it reads its
#: configuration, and has its account, a folder and the token. Then it says that it is ready.
STAND_IN = """
import http.server, os, signal, sys
from pathlib import Path
from jupyter_gpu_share.cli._broker import read_configuration

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
c = read_configuration("/etc/jupyter-gpu-share/broker_config.py")
folder = Path(c.Broker.folder)
folder.mkdir(mode=0o700, exist_ok=True)
assert folder.stat().st_uid == os.getuid() == 65532
Path("/tmp/file").write_text("here")
try:
    Path("/etc/file").write_text("here")
    sys.exit("the image can be written to")
except OSError:
    pass
assert Path("/var/run/secrets/kubernetes.io/serviceaccount/token").read_text()
assert os.environ["JUPYTERHUB_API_TOKEN"] and os.environ["POD_UID"]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path in ("/healthz", "/livez") else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

print(c.KubernetesEngine.namespace, c.Broker.patience, flush=True)
http.server.HTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""


def this_python() -> dict[str, Any]:
    """Values that have this machine's Python and package in the broker's pod."""
    needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), REPOSITORY.resolve()}
    needed -= {each for each in needed if any(other in each.parents for other in needed)}
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    # Folders that are root's alone in the image: others may pass through these.
    closed = {
        next((one for one in reversed(each.parents) if not one.stat().st_mode & 0o001), None)
        for each in needed
    } - {None}
    for number, path in enumerate(sorted(map(str, closed))):
        volumes.append({"name": f"way-{number}", "emptyDir": {}})
        mounts.append({"name": f"way-{number}", "mountPath": path})
    for number, path in enumerate(sorted(map(str, needed))):
        source = {"hostPath": {"path": path, "type": "Directory"}}
        volumes.append({"name": f"python-{number}", **source})
        mounts.append({"name": f"python-{number}", "mountPath": path, "readOnly": True})
    environment = {
        "LD_LIBRARY_PATH": str(Path(sys.base_prefix) / "lib"),
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return {
        "command": [str(Path(sys.prefix) / "bin" / "python"), "-c", STAND_IN],
        "extraVolumes": volumes,
        "extraVolumeMounts": mounts,
        "extraEnv": [{"name": name, "value": value} for name, value in environment.items()],
    }


def in_the_test_cluster() -> dict[str, Any]:
    """Values of a release that runs on the cluster of the tests, which has no storage."""
    return {
        "image": {"repository": "localhost/kernel", "tag": "1", "pullPolicy": "Never"},
        "hub": {"token": secrets.token_hex()},
        "storage": {"enabled": False},
        **this_python(),
    }


def left_over(cluster: Any, release: Release) -> list[str]:
    """What a release has left in the cluster: of all kinds that can be listed."""
    kinds = kubectl(cluster, "api-resources", "--verbs=list", "-o", "name").split()
    label = f"app.kubernetes.io/instance={release.name}"
    words = ("get", ",".join(kinds), "-A", "-o", "name", "--ignore-not-found", "-l", label)
    found = kubectl(cluster, *words).split()
    for namespace in (release.namespace, release.kernels):
        for kind in ("all", "secrets", "resourceclaims", "leases", "networkpolicies"):
            found += kubectl(cluster, "get", kind, "-n", namespace, "-o", "name").split()
    gone = kubectl(cluster, "get", "namespaces", "-o", "name").split()
    return [*found, *(each for each in gone if each == f"namespace/{release.kernels}")]
