"""Values that the chart refuses: what it does not know, and what would open something."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import CHART, FULL, HELM_MARKS, rendered, template
from jsonschema import Draft7Validator

pytestmark = HELM_MARKS


def levels(schema: dict[str, Any], path: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all objects that have only keys that are known."""
    for choice in schema.get("oneOf", ()):
        yield from levels(choice, path)
    if schema.get("additionalProperties") is False:
        yield path
    for key, inner in schema.get("properties", {}).items():
        yield from levels(inner, (*path, key))
    if "items" in schema:
        yield from levels(schema["items"], (*path, 0))


SCHEMA = json.loads((CHART / "values.schema.json").read_text())
LEVELS = list(levels(SCHEMA))


def within(path: tuple[Any, ...], value: Any) -> Any:
    """Values with one value at a path."""
    for key in reversed(path):
        value = [value] if key == 0 else {key: value}
    return value


@pytest.mark.parametrize("path", LEVELS, ids=lambda path: ".".join(map(str, path)) or "top")
def test_a_misspelt_key_is_refused(path: tuple[Any, ...], home: Path) -> None:
    done = template(home, within(path, {"mispelt": 1}))
    assert done.returncode
    assert "additional properties 'mispelt' not allowed" in done.stderr


def test_there_is_no_level_without_a_schema() -> None:
    """What Kubernetes or users name is open; all else says which keys there are."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def closed(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        if isinstance(value, dict):
            yield path
            for key, inner in value.items():
                yield from closed(inner, (*path, key))

    opened = {path for path in closed(values) if path not in LEVELS}
    assert opened == {
        ("affinity",),
        ("hub", "podLabels"),
        ("hub", "proxyLabels"),
        ("hub", "serverLabels"),
        ("kernels", "annotations"),
        ("kernels", "labels"),
        ("kernels", "quota"),
        ("metrics", "dashboard", "labels"),
        ("metrics", "rules", "labels"),
        ("metrics", "serviceMonitor", "labels"),
        ("networkPolicy", "prometheusNamespace"),
        ("nodeSelector",),
        ("podAnnotations",),
        ("podLabels",),
        ("podSecurityContext",),
        ("podSecurityContext", "seccompProfile"),
        ("resources", "limits"),
        ("resources", "requests"),
        ("securityContext",),
        ("securityContext", "capabilities"),
        ("service", "annotations"),
    }


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (("kernels", "labels"), "pod-security.kubernetes.io/enforce"),
        (("kernels", "labels"), "gpu-share.jupyter.org/kernels"),
        (("kernels", "annotations"), "helm.sh/resource-policy"),
        (("podLabels",), "hub.jupyter.org/network-access-hub"),
        (("podLabels",), "app.kubernetes.io/name"),
        (("podAnnotations",), "checksum/configuration"),
        (("metrics", "serviceMonitor", "labels"), "app.kubernetes.io/name"),
        (("metrics", "rules", "labels"), "app.kubernetes.io/name"),
        (("metrics", "dashboard", "labels"), "app.kubernetes.io/name"),
    ],
)
def test_what_the_chart_sets_itself_is_named_by_no_value(
    path: tuple[str, ...], key: str, home: Path
) -> None:
    """YAML with a key twice: one of the two would do nothing, and nobody knows which."""
    values = deepcopy(FULL)
    inner = values
    for name in path:
        inner = inner.setdefault(name, {})
    inner[key] = "x"
    done = template(home, values)
    assert done.returncode
    assert f"{'.'.join(path)}: the chart itself sets {key}, so leave that out" in done.stderr


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("config", "Broker", "limits"), [{"resource": "gpu", "limit": 1}]),
        (("config", "Broker", "limits"), [{"resource": "gpus", "limit": 1, "scope": "all"}]),
        (("config", "Broker", "patience"), "long"),
        (("config", "Broker", "folder"), "/tmp"),
        (("config", "KubernetesEngine", "namespace"), "default"),
        (("config", "KubernetesEngine", "style"), "leases"),
        (("config", "KubernetesEngine", "renewal"), 0),
        (("config", "KubernetesEngine", "environment"), {"OMP_NUM_THREADS": 4}),
        (("config", "KubernetesEngine", "node_selector"), {"nvidia.com/gpu.present": True}),
        (("config", "KubernetesEngine", "tolerations"), ["nvidia.com/gpu"]),
        (("config", "KubernetesEngine", "allowed_environment"), [{"name": "A"}]),
        (("kernels", "namespace"), "Kernels"),
        (("kernels", "create"), "yes"),
        (("service", "port"), 0),
        (("networkPolicy", "apiServer", "cidrs"), []),
        (("image", "pullPolicy"), "Sometimes"),
        (("storage", "size"), "large"),
        (("replicas",), 2),
    ],
)
def test_a_wrong_value_is_refused(path: tuple[Any, ...], value: Any, home: Path) -> None:
    done = template(home, within(path, value))
    assert done.returncode
    assert "don't meet the specifications of the schema" in done.stderr


#: Keys that mean nothing, or the cluster's usual, where they have no value.
MAY_BE_EMPTY = {
    *("affinity", "command", "extraConfig", "nodeSelector", "podAnnotations", "podLabels"),
    *("podSecurityContext", "priorityClassName", "resources", "securityContext", "tolerations"),
    *("extraEnv", "extraVolumeMounts", "extraVolumes", "adminAccess", "cluster.readPods"),
    *("hub.apiUrl", "hub.existingSecretKey", "hub.namespace", "hub.token", "image.pullSecrets"),
    *("image.tag", "kernels.annotations", "kernels.keep", "kernels.labels", "kernels.limits"),
    *("kernels.networkPolicy.egress", "kernels.networkPolicy.ingress", "kernels.quota"),
    *("metrics.dashboard.enabled", "metrics.dashboard.labels", "metrics.enabled"),
    *("metrics.rules.enabled", "metrics.rules.labels", "metrics.serviceMonitor.enabled"),
    *("metrics.serviceMonitor.labels", "metrics.tokenSecret", "networkPolicy.egress"),
    *("networkPolicy.ingress", "networkPolicy.prometheusNamespace", "networkPolicy.resolvers"),
    *("service.annotations", "storage.existingClaim", "storage.storageClass"),
}


def test_a_key_without_a_value_is_refused_where_it_would_open_something(home: Path) -> None:
    """Helm drops a key that is there without a value, as where all below it is a comment."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    known = Draft7Validator(SCHEMA)
    known.validate(values)

    def paths(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for key, inner in value.items():
            yield (*path, key)
            if (*path, key) in LEVELS and key not in ("config", "resources"):
                yield from paths(inner, (*path, key))

    dropped = set()
    for path in paths(values):
        left = deepcopy(values)
        inner = left
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        if known.is_valid(left):
            dropped.add(".".join(path))
    assert dropped == MAY_BE_EMPTY
    nothing: dict[str, Any] = {}
    for name in MAY_BE_EMPTY:
        *path, last = name.split(".")
        inner = nothing
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = None
    found = rendered(home, nothing)
    assert "%!s" not in json.dumps(list(found.values())), "and none of these leaves a hole"
    done = template(home, {"hub": {"serverLabels": None}})
    assert done.returncode
    assert "missing property 'serverLabels'" in done.stderr
