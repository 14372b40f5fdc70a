"""Containers beside the kernel's, as meshes, logs and vaults put them into pods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["MARK", "aside", "put_first"]

#: In the command line of each.
MARK = "beside_the_kernel"
_POLICIES = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolic"


def aside(code: str = "import time; time.sleep(3600)", **more: Any) -> dict[str, Any]:
    """A container beside the kernel's, as meshes, logs and vaults add one."""
    return {
        "name": "aside",
        "image": "localhost/kernel:1",
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", f"{MARK} = 1; {code}"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsUser": 1000,
        },
    } | more


@contextmanager
def put_first(cluster: Any, namespace: str, container: dict[str, Any]) -> Iterator[None]:
    """Have the cluster put a container before all others into new pods of the namespace.

    The API server may come to know of it a moment later.
    """
    name = f"first-{namespace}"
    rules = [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    ]
    matches = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    change = f'[JSONPatch{{op: "add", path: "/spec/containers/0", value: {_as_cel(container)}}}]'
    spec = {
        "matchConstraints": {"resourceRules": rules, "namespaceSelector": matches},
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": change}}],
    }
    binding = {"policyName": name}
    for end, kind, body in (("ies", "Policy", spec), ("ybindings", "PolicyBinding", binding)):
        cluster.api.create(
            _POLICIES + end,
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": f"MutatingAdmission{kind}",
                "metadata": {"name": name},
                "spec": body,
            },
        )
    try:
        yield
    finally:
        for end in ("ybindings", "ies"):
            cluster.api.delete(f"{_POLICIES}{end}/{name}")


def _as_cel(container: dict[str, Any]) -> str:
    """A container as an expression of the policy's language, for which it is a typed object."""

    def typed(value: Any, kind: str) -> str:
        if not isinstance(value, dict) or kind.endswith(".limits"):
            return json.dumps(value)
        return (
            f"{kind}{{"
            + ", ".join(f"{key}: {typed(each, f'{kind}.{key}')}" for key, each in value.items())
            + "}"
        )

    return typed(container, "Object.spec.containers")
