"""Kueue in the test cluster, for tests that ask for it: its manager, its kinds and its webhooks."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ._api import Api, ApiError
from ._programs import Program, wait_for
from .build import Part, Workshop, _go_module

KUEUE = "0.17.0"
#: Ports on loopback.
WEBHOOKS, HEALTH = 9443, 8081
#: Longest waits in seconds: for the manager to answer, for what it has made to go.
START, GONE = 120.0, 60.0

#: The name that Kueue gives its certificate.
_NAMESPACE, _SERVICE, _SECRET = (
    "kueue-system",
    "kueue-webhook-service",
    "kueue-webhook-server-cert",
)
#: Where the module has what is to be created, and which webhooks of it are of use here.
_CONFIG = ("config/components/crd/bases", "config/components/webhook/manifests.yaml")
_WEBHOOKS = ("pod", "clusterqueue", "cohort", "resourceflavor", "workload")
#: Kinds of which Kueue converts older versions.
_CONVERTED = ("clusterqueues", "cohorts", "localqueues", "multikueueclusters", "workloads")
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_HOOKS = "/apis/admissionregistration.k8s.io/v1"
API = "/apis/kueue.x-k8s.io/v1beta2"


def build_kueue(shop: Workshop, out: Path) -> None:
    """The manager, and what it needs in a cluster as one file of JSON, which is read sooner."""
    module, version = "sigs.k8s.io/kueue", f"v{KUEUE}"
    flags = f"-s -w -X {module}/pkg/version.GitVersion={version}"
    # By itself, with the versions of everything that it was released with.
    install = ("go", "install", "-trimpath", "-ldflags", flags, f"{module}/cmd/kueue@{version}")
    shop.run("env", f"GOBIN={out}", *install)
    shipped = _go_module(module, version, "Dir")
    found: list[Any] = []
    for place in _CONFIG:
        path = shipped / place
        for file in sorted(path.glob("*.yaml")) if path.is_dir() else [path]:
            found += [each for each in yaml.safe_load_all(file.read_text()) if each]
    (out / "objects.json").write_text(json.dumps(found))


PART = Part("kueue", f"Kueue {KUEUE}", build_kueue, (KUEUE, *_CONFIG))


@contextlib.contextmanager
def running(
    api: Api, program: Program, folder: Path, kubeconfig: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    """Run Kueue; pods that name a queue are its own meanwhile. All of it goes afterwards.

    Parameters
    ----------
    folder: for its certificate and its configuration.
    """
    part = PART.folder
    objects = [_adapted(each) for each in json.loads((part / "objects.json").read_text())]
    _remove(api, program, objects)  # of a run that was killed
    folder.mkdir(exist_ok=True)
    config = folder / "config.json"
    config.write_text(json.dumps(_configuration(folder / "certificate")))
    try:
        _create(api, objects)
        command = [part / "kueue", f"--config={config}"]
        program.start(command, {**environment, "KUBECONFIG": str(kubeconfig)})
        _mount(api, program, folder / "certificate")
        program.wait_until(lambda: _answers(api), "answers", START)
        yield
    finally:
        _remove(api, program, objects)


def _configuration(certificate: Path) -> dict[str, Any]:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{HEALTH}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": "127.0.0.1", "port": WEBHOOKS, "certDir": str(certificate)},
        "leaderElection": {"leaderElect": False},
        "integrations": {"frameworks": ["pod"]},
        "featureGates": {"VisibilityOnDemand": False},
    }


def _adapted(obj: dict[str, Any]) -> dict[str, Any]:
    """An object as Kueue's own installation has it, but for what there is no controller for."""
    obj = copy.deepcopy(obj)
    name, kind = obj["metadata"]["name"], obj["kind"]
    if kind == "CustomResourceDefinition":
        if name.partition(".")[0] in _CONVERTED:
            service = {"namespace": _NAMESPACE, "name": _SERVICE, "path": "/convert"}
            webhook = {
                "clientConfig": {"service": {**service, "port": WEBHOOKS}},
                "conversionReviewVersions": ["v1"],
            }
            obj["spec"]["conversion"] = {"strategy": "Webhook", "webhook": webhook}
        return obj
    obj["metadata"]["name"] = f"kueue-{name}"
    own = {f"{letter}{each}.kb.io" for letter in "mv" for each in _WEBHOOKS}
    obj["webhooks"] = [each for each in obj["webhooks"] if each["name"] in own]
    for each in obj["webhooks"]:
        each["clientConfig"]["service"] |= {
            "namespace": _NAMESPACE,
            "name": _SERVICE,
            "port": WEBHOOKS,
        }
    return obj


def _path(obj: dict[str, Any]) -> str:
    plural = {
        "CustomResourceDefinition": _CRDS,
        "MutatingWebhookConfiguration": f"{_HOOKS}/mutatingwebhookconfigurations",
        "ValidatingWebhookConfiguration": f"{_HOOKS}/validatingwebhookconfigurations",
    }
    return plural[obj["kind"]]


def _create(api: Api, objects: list[dict[str, Any]]) -> None:
    api.create("/api/v1/namespaces", {"metadata": {"name": _NAMESPACE}})
    inside = f"/api/v1/namespaces/{_NAMESPACE}"
    api.create(f"{inside}/secrets", {"metadata": {"name": _SECRET}})
    # The manager runs on the host: the API server finds it under the service's name there.
    spec = {"type": "ExternalName", "externalName": "127.0.0.1"}
    api.create(f"{inside}/services", {"metadata": {"name": _SERVICE}, "spec": spec})
    for obj in objects:
        api.create(_path(obj), obj)


def _mount(api: Api, program: Program, certificate: Path) -> None:
    """Put the certificate that Kueue makes where a kubelet would put it."""
    secret = f"/api/v1/namespaces/{_NAMESPACE}/secrets/{_SECRET}"

    def made() -> dict[str, str]:
        data: dict[str, str] = api.get(secret).get("data") or {}
        return data if data.get("tls.crt") else {}

    data = program.wait_until(made, "makes its certificate", START)
    certificate.mkdir(mode=0o700, exist_ok=True)
    for name in sorted(data, reverse=True):  # it waits for tls.crt, so its key comes before
        if name == "tls.crt":
            continue
        (certificate / name).write_bytes(base64.b64decode(data[name]))
    (certificate / "tls.crt").write_bytes(base64.b64decode(data["tls.crt"]))


def _answers(api: Api) -> bool:
    """Whether its webhooks are asked: a queue can be created."""
    body = _body("ResourceFlavor", "probe", {"spec": {}})
    status, _ = api.raw("POST", f"{API}/resourceflavors?dryRun=All", body)
    return status == 201


def create(api: Api, kind: str, name: str, namespace: str = "", **fields: Any) -> None:
    """Create an object of Kueue's."""
    inside = f"namespaces/{namespace}/" if namespace else ""
    plural = f"{kind.lower()}es" if kind.endswith("s") else f"{kind.lower()}s"
    api.create(f"{API}/{inside}{plural}", _body(kind, name, fields))


def _body(kind: str, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    version = API.removeprefix("/apis/")
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields}


def _remove(api: Api, program: Program, objects: list[dict[str, Any]]) -> None:
    hooks = [each for each in objects if each["kind"] != "CustomResourceDefinition"]
    kinds = [each for each in objects if each["kind"] == "CustomResourceDefinition"]
    for obj in hooks:
        api.delete(f"{_path(obj)}/{obj['metadata']['name']}")
    program.stop()
    for obj in kinds:
        plural = obj["spec"]["names"]["plural"]
        name = obj["metadata"]["name"]
        if not api.delete(f"{_CRDS}/{name}"):
            continue
        # Nobody else takes the finalizers away any more.
        wait_for(lambda p=plural, n=name: _gone(api, p, n), f"{name} is gone", GONE)
    api.delete(f"/api/v1/namespaces/{_NAMESPACE}")

    def gone() -> bool:
        return api.raw("GET", f"/api/v1/namespaces/{_NAMESPACE}")[0] == 404

    wait_for(gone, f"namespace {_NAMESPACE} is gone", GONE)


def _gone(api: Api, plural: str, name: str) -> bool:
    if api.raw("GET", f"{_CRDS}/{name}")[0] == 404:
        return True
    status, found = api.raw("GET", f"{API}/{plural}")
    if status != 200:
        return False
    for each in json.loads(found)["items"]:
        meta = each["metadata"]
        if meta.get("finalizers"):
            inside = f"namespaces/{meta['namespace']}/" if "namespace" in meta else ""
            with contextlib.suppress(ApiError):
                path = f"{API}/{inside}{plural}/{meta['name']}"
                api.patch(path, {"metadata": {"finalizers": None}})
    return False
