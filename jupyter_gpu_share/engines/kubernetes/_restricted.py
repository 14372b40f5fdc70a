"""The restricted Pod Security Standard, said in words. Pure.

A namespace may enforce the same from outside; here it holds everywhere, and before anything is
created.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["all_containers", "violations"]

Object = Mapping[str, Any]

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SELINUX = {
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
}
_CONFINED = (None, "RuntimeDefault", "Localhost")
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def violations(pod: Object) -> Iterator[str]:
    """What the standard does not allow of a pod, each a phrase."""
    spec = pod["spec"]
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is not allowed"
    for key, value in (pod["metadata"].get("annotations") or {}).items():
        confined = value == "runtime/default" or str(value).startswith("localhost/")
        if key.startswith(_APPARMOR) and not confined:
            yield f"the annotation {key}={value} is not allowed"
    for volume in spec.get("volumes") or []:
        kinds = set(volume) - {"name"}
        if bad := kinds - _VOLUMES:
            yield f"a volume of kind {', '.join(sorted(bad))} is not allowed"
        elif len(kinds) != 1:
            yield f"the volume {volume.get('name')!r} needs one kind"
    context = spec.get("securityContext") or {}
    yield from _of_context(context, "the pod")
    if context.get("runAsNonRoot") is not True:
        yield "the pod: runAsNonRoot must stay true"
    if not (context.get("seccompProfile") or {}).get("type"):
        yield "the pod: seccompProfile must be RuntimeDefault or Localhost"
    for container in all_containers(pod):
        yield from _of_container(container)


def all_containers(pod: Object) -> list[Object]:
    """The containers of a pod, of whatever kind."""
    spec = pod["spec"]
    kinds = ("containers", "initContainers", "ephemeralContainers")
    return [container for kind in kinds for container in spec.get(kind) or []]


def _of_container(container: Object) -> Iterator[str]:
    where = f"container {container.get('name')!r}"
    context = container.get("securityContext") or {}
    yield from _of_context(context, where)
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: allowPrivilegeEscalation must be false"
    capabilities = context.get("capabilities") or {}
    if added := set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield f"{where}: the capabilities {', '.join(sorted(added))} are not allowed"
    if "ALL" not in (capabilities.get("drop") or []):
        yield f"{where}: all capabilities must be dropped"
    if any(port.get("hostPort") for port in container.get("ports") or []):
        yield f"{where}: hostPort is not allowed"
    handlers = [container.get(name) or {} for name in _PROBES]
    handlers += [hook or {} for hook in (container.get("lifecycle") or {}).values()]
    for handler in handlers:
        if any((handler.get(kind) or {}).get("host") for kind in ("httpGet", "tcpSocket")):
            # The node's agent would call that address for whoever wrote it.
            yield f"{where}: a host in a probe or hook is not allowed"


def _of_context(context: Object, where: str) -> Iterator[str]:
    if context.get("privileged"):
        yield f"{where}: privileged is not allowed"
    if context.get("runAsUser") == 0 or context.get("runAsNonRoot") not in (None, True):
        yield f"{where}: running as root is not allowed"
    if context.get("procMount") not in (None, "Default"):
        yield f"{where}: procMount is not allowed"
    if context.get("sysctls"):
        yield f"{where}: sysctls are not allowed"
    if (context.get("seccompProfile") or {}).get("type") not in _CONFINED:
        yield f"{where}: seccompProfile must be RuntimeDefault or Localhost"
    if (context.get("appArmorProfile") or {}).get("type") not in _CONFINED:
        yield f"{where}: an unconfined appArmorProfile is not allowed"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield f"{where}: hostProcess is not allowed"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("user") or selinux.get("role") or (selinux.get("type") or "") not in _SELINUX:
        yield f"{where}: these seLinuxOptions are not allowed"
