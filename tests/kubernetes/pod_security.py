"""The restricted Pod Security Standard of Kubernetes 1.37, as a checker of its own for tests.

It is written after the standard's text, field by field, and shares nothing with the checks of the
package: where one of them forgets a rule, the other one says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ALLOWED_VOLUMES = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
]


def breaks(pod: dict[str, Any]) -> list[str]:
    """Names of the controls that a pod breaks."""
    return sorted(set(_baseline(pod)) | set(_restricted(pod)))


def _contexts(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [pod["spec"].get("securityContext") or {}, *map(_context, _containers(pod))]


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    spec = pod["spec"]
    return [
        *(spec.get("containers") or []),
        *(spec.get("initContainers") or []),
        *(spec.get("ephemeralContainers") or []),
    ]


def _context(container: dict[str, Any]) -> dict[str, Any]:
    return container.get("securityContext") or {}


def _baseline(pod: dict[str, Any]) -> Iterator[str]:
    spec = pod["spec"]
    if any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "host namespaces"
    for container in _containers(pod):
        if _context(container).get("privileged"):
            yield "privileged"
        if any(port.get("hostPort", 0) != 0 for port in container.get("ports") or []):
            yield "host ports"
        for name in ("livenessProbe", "readinessProbe", "startupProbe"):
            if _host(container.get(name)):
                yield "host probes"
        for name in ("postStart", "preStop"):
            if _host((container.get("lifecycle") or {}).get(name)):
                yield "host probes"
        if (_context(container).get("procMount") or "Default") != "Default":
            yield "proc mount"
    for context in _contexts(pod):
        if (context.get("windowsOptions") or {}).get("hostProcess"):
            yield "host process"
        selinux = context.get("seLinuxOptions") or {}
        kinds = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
        if selinux.get("type", "") not in kinds or selinux.get("user") or selinux.get("role"):
            yield "selinux"
        armor = (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault")
        if armor not in ("RuntimeDefault", "Localhost"):
            yield "apparmor"
        if context.get("sysctls"):
            # The standard knows a few harmless ones; a kernel needs none of them.
            yield "sysctls"
    for key, value in (pod["metadata"].get("annotations") or {}).items():
        if (
            key.startswith("container.apparmor.security.beta.kubernetes.io/")
            and value != "runtime/default"
            and not value.startswith("localhost/")
        ):
            yield "apparmor"


def _host(handler: dict[str, Any] | None) -> bool:
    handler = handler or {}
    return any((handler.get(kind) or {}).get("host") for kind in ("httpGet", "tcpSocket"))


def _restricted(pod: dict[str, Any]) -> Iterator[str]:
    of_pod = pod["spec"].get("securityContext") or {}
    for volume in pod["spec"].get("volumes") or []:
        if not any(volume.get(kind) is not None for kind in ALLOWED_VOLUMES):
            yield "volume types"
    for context in _contexts(pod):
        if context.get("runAsUser") == 0:
            yield "root user"
        if (context.get("seccompProfile") or {}).get("type") not in (
            None,
            "RuntimeDefault",
            "Localhost",
        ):
            yield "seccomp"
    for container in _containers(pod):
        context = _context(container)
        if context.get("allowPrivilegeEscalation") is not False:
            yield "privilege escalation"
        non_root = context.get("runAsNonRoot")
        if (of_pod.get("runAsNonRoot") if non_root is None else non_root) is not True:
            yield "non-root"
        profile = context.get("seccompProfile") or of_pod.get("seccompProfile") or {}
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield "seccomp"
        capabilities = context.get("capabilities") or {}
        if "ALL" not in (capabilities.get("drop") or []):
            yield "capabilities"
        if set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
            yield "capabilities"
