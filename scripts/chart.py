"""Bring the Helm chart up to date with what it takes from elsewhere.

Helm reads nothing outside of a chart's folder. So ``etc/helm/jupyter-gpu-share/files`` has copies
of the manifests, alerts and dashboard in ``etc``, and ``values.schema.json`` is made of
``values.yaml`` and of the settings that the package's classes have. Run without arguments after any
of these has changed; ``tests/chart/test_chart_files.py`` fails where that was not done.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from traitlets import Bool, Dict, Enum, Float, HasTraits, Integer, List, TraitType, Unicode

from jupyter_gpu_share.broker.cluster.program import ClusterBroker
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.idle import IdlePolicy
from jupyter_gpu_share.size import SizePolicy

ROOT = Path(__file__).parents[1]
CHART = ROOT / "etc" / "helm" / "jupyter-gpu-share"
#: What the chart has copies of, below ``etc``.
COPIED = (
    "grafana/jupyter-gpu-share.json",
    "kubernetes/base/network-policies.yaml",
    "kubernetes/base/role.yaml",
    "kubernetes/components/admin-access/role.yaml",
    "kubernetes/overlays/cluster-read-pods/role.yaml",
    "kubernetes/overlays/cluster-read/role.yaml",
    "kubernetes/policy/files.yaml",
    "kubernetes/policy/others.yaml",
    "kubernetes/policy/pods.yaml",
    "kubernetes/policy/secrets.yaml",
    "prometheus/jupyter-gpu-share.rules.yaml",
)
#: Settings that the chart itself sets, or that mean nothing in a cluster.
_OTHERS = {
    "Broker": {"bind", "folder", "home", "metrics_bind", "metrics_token_file"},
    "KubernetesEngine": {"context", "kubeconfig", "namespace", "server_name", "service_account"},
}
_TEXT = {"type": "string"}
_NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
#: Empty labels would select every pod.
_LABELS = {**_TEXTS, "minProperties": 1}
_ANYTHING = {"type": "object"}
_LIST = {"type": "array", "items": _ANYTHING}
_QUANTITY = {"type": "string", "pattern": "^[0-9.]+([KMGTPE]i?|k|m)?$"}
#: What cannot be seen from a default, by path.
_TOLD: dict[str, Any] = {
    "affinity": _ANYTHING,
    "config.KubernetesEngine.tolerations": _LIST,
    "command": {"type": "array", "items": _TEXT},
    "extraEnv": _LIST,
    "extraVolumeMounts": _LIST,
    "extraVolumes": _LIST,
    "fullnameOverride": {**_NAME, "maxLength": 52},
    "hub.baseUrl": {"type": "string", "pattern": "^/"},
    "hub.podLabels": _LABELS,
    "hub.proxyLabels": _LABELS,
    "hub.serverLabels": _LABELS,
    "hub.service": {"type": "string", "pattern": "^[a-zA-Z0-9_.-]+$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.pullSecrets": _LIST,
    "image.repository": {"type": "string", "minLength": 1},
    "kernels.annotations": _TEXTS,
    "kernels.labels": _TEXTS,
    "kernels.limits": _LIST,
    "kernels.namespace": _NAME,
    "kernels.networkPolicy.egress": _LIST,
    "kernels.networkPolicy.ingress": _LIST,
    "kernels.quota": {"type": "object", "additionalProperties": {"type": ["string", "integer"]}},
    "metrics.dashboard.labels": _TEXTS,
    "metrics.rules.labels": _TEXTS,
    "metrics.serviceMonitor.labels": _TEXTS,
    "networkPolicy.apiServer.cidrs": {"type": "array", "items": _TEXT, "minItems": 1},
    "networkPolicy.apiServer.ports": {"type": "array", "items": _PORT, "minItems": 1},
    "networkPolicy.egress": _LIST,
    "networkPolicy.ingress": _LIST,
    "networkPolicy.prometheusNamespace": _TEXTS,
    "networkPolicy.resolvers": {"type": "array", "items": _TEXT},
    "nodeSelector": _TEXTS,
    "podAnnotations": _TEXTS,
    "podLabels": _TEXTS,
    "podSecurityContext": _ANYTHING,
    "resources": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"limits": _ANYTHING, "requests": _ANYTHING, "claims": _LIST},
    },
    "securityContext": _ANYTHING,
    "service.annotations": _TEXTS,
    "service.port": _PORT,
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "storage.size": _QUANTITY,
    "tolerations": _LIST,
}
_SCOPE = {
    "oneOf": [
        {"const": "total"},
        {
            "type": "object",
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
            "properties": {
                name: {"type": "array", "items": _TEXT, "minItems": 1}
                for name in ("user", "members_of", "group")
            },
        },
    ]
}
_LIMITS = {
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["resource", "limit"],
        "properties": {
            "resource": {"enum": ["gpus", "memory_bytes", "kernels", "gpu_hours"]},
            "limit": {"type": ["number", "string"]},
            "window": {"type": "number"},
            "scope": _SCOPE,
        },
    },
}
_QUEUES = {
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["queue"],
        "properties": {
            "user": _TEXT,
            "group": _TEXT,
            "queue": _TEXT,
            "sizes": {"type": "array", "items": _TEXT},
        },
    },
}


#: Settings that the broker does not heed: they are for one server.
_OF_SERVERS = {
    "IdlePolicy": {
        *("aim", "cull_after", "timeout", "usual_size", "snapshot_encryption", "snapshot_folder"),
        *("snapshot_lifetime", "snapshot_limit", "snapshot_patience"),
    },
    "SizePolicy": {"max_total"},
    "KubernetesEngine": {"adopt", "usage_interval"},
}


def settings(kind: type[HasTraits], name: str) -> dict[str, Any]:
    """The schema of one class' settings by their names."""
    return {
        setting: _of_trait(trait)
        for setting, trait in sorted(kind.class_traits(config=True).items())
        if setting not in {*_OTHERS.get(name, ()), *_OF_SERVERS.get(name, ())}
    }


def schema() -> dict[str, Any]:
    """What ``values.schema.json`` has to be."""
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    config = {
        "Broker": {**settings(ClusterBroker, "Broker"), "limits": _LIMITS, "queues": _QUEUES},
        "IdlePolicy": settings(IdlePolicy, "IdlePolicy"),
        "SizePolicy": settings(SizePolicy, "SizePolicy"),
        "KubernetesEngine": settings(KubernetesEngine, "KubernetesEngine"),
    }
    made = _of_value(values, "")
    made["properties"]["config"] = _closed({name: _closed(of) for name, of in config.items()})
    # Helm gives it to a chart that another one depends on.
    made["properties"]["global"] = _ANYTHING
    return {"$schema": "http://json-schema.org/draft-07/schema#", **made}


def _closed(properties: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    found = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**found, "required": sorted(required)} if required else found


def _needed(value: Any, path: str) -> bool:
    """Whether a key has to have a value. Helm drops one that is written without any.

    Nothing in place of labels would select every pod, and nothing in place of a namespace would be
    that of the Hub.
    """
    if path in _TOLD and isinstance(value, dict | list):
        return not {"minProperties", "minItems"}.isdisjoint(_TOLD[path])
    return value not in ("", False)


def _of_value(value: Any, path: str) -> dict[str, Any]:
    if path in _TOLD:
        found: dict[str, Any] = _TOLD[path]
        return found
    if isinstance(value, dict):
        prefix = f"{path}." if path else ""
        needed = [key for key, each in value.items() if _needed(each, prefix + key)]
        return _closed({key: _of_value(each, prefix + key) for key, each in value.items()}, needed)
    for kind, name in ((bool, "boolean"), (int, "integer"), (str, "string")):
        if isinstance(value, kind):
            return {"type": name}
    raise TypeError(f"{path}: nothing tells what may stand there; add it to _TOLD")


def _of_trait(trait: TraitType[Any, Any]) -> dict[str, Any]:
    if isinstance(trait, Enum):
        return {"enum": list(trait.values or [])}
    kinds = ((Bool, "boolean"), (Integer, "integer"), (Float, "number"))
    kinds += ((Unicode, "string"), (List, "array"), (Dict, "object"))
    name = next(name for kind, name in kinds if isinstance(trait, kind))
    found: dict[str, Any] = {"type": [name, "null"] if trait.allow_none else name}
    if isinstance(trait, Integer | Float) and trait.min is not None and trait.min > float("-inf"):
        found["minimum"] = trait.min
    # A label that is written true, or a number in the environment, would end the broker's start.
    for kind, inner, key in (
        (List, "_trait", "items"),
        (Dict, "_value_trait", "additionalProperties"),
    ):
        of = getattr(trait, inner, None) if isinstance(trait, kind) else None
        if of is not None:
            found[key] = _of_trait(of)
    return found


def outdated() -> Iterator[tuple[Path, str]]:
    """Files of the chart that are not what they have to be, and what that is."""
    wanted = {CHART / "files" / name: (ROOT / "etc" / name).read_text("utf-8") for name in COPIED}
    wanted[CHART / "values.schema.json"] = json.dumps(schema(), indent=1) + "\n"
    for path, text in wanted.items():
        if not path.is_file() or path.read_text("utf-8") != text:
            yield path, text
    for path in sorted((CHART / "files").rglob("*")):
        if path.is_file() and path not in wanted:
            yield path, ""


def main() -> None:
    """Write what is outdated, and say so."""
    for path, text in list(outdated()):
        path.parent.mkdir(parents=True, exist_ok=True)
        if text:
            path.write_text(text, "utf-8")
        else:
            path.unlink()
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
