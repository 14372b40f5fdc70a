"""What no pod of ours may be, whoever asked for it. Pure.

The namespace's Pod Security Standard and the admission policy of ``etc/kubernetes`` hold the same
from outside; here it is said in words, and before anything is created.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import EngineError
from ._names import MANAGED, PREFIX

__all__ = ["PodRefused", "check_pod"]

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
#: Of the kernel's container: what makes it one that the server can talk to.
_OURS = ("command", "args")


class PodRefused(EngineError):  # noqa: N818
    """The administrator's additions make a pod that is not safe, or none of ours any more."""


def check_pod(pod: Mapping[str, Any], original: Mapping[str, Any]) -> None:
    """Hold a merged pod against what it was before.

    Raises
    ------
    PodRefused: with all reasons in one line.
    """
    reasons = [*_of_pod(pod, original)]
    if reasons:
        raise PodRefused(
            f"The pod that c.KubernetesEngine describes is refused: {'; '.join(reasons)}. "
            "Nothing was created; change the setting."
        )


def _of_pod(pod: Mapping[str, Any], original: Mapping[str, Any]) -> Iterator[str]:
    spec = pod.get("spec") or {}
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is not allowed"
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken must stay false"
    if spec.get("shareProcessNamespace"):
        yield "shareProcessNamespace is not allowed"
    if spec.get("restartPolicy") != "Never":
        yield "restartPolicy must stay Never"
    if spec.get("finalizers") or (pod.get("metadata") or {}).get("finalizers"):
        yield "finalizers are not allowed"
    yield from _of_security(spec.get("securityContext") or {}, "the pod", pod_level=True)
    yield from _of_volumes(pod, original)
    if spec.get("ephemeralContainers"):
        yield "ephemeral containers are not allowed"
    for kind in ("containers", "initContainers"):
        for container in spec.get(kind) or []:
            yield from _of_container(container)
    yield from _of_kernel(pod, original)


def _of_volumes(pod: Mapping[str, Any], original: Mapping[str, Any]) -> Iterator[str]:
    ours = {v["name"]: v for v in original["spec"].get("volumes") or []}
    for volume in pod["spec"].get("volumes") or []:
        name = volume.get("name")
        kinds = set(volume) - {"name"}
        if name in ours:
            if volume != ours[name]:
                yield f"the volume {name!r} is this package's own"
        elif bad := kinds - _VOLUMES:
            yield f"a volume of kind {', '.join(sorted(bad))} is not allowed"
        elif _service_token(volume):
            yield f"the volume {name!r} would give the kernel a token for the cluster"


def _service_token(volume: Mapping[str, Any]) -> bool:
    sources = (volume.get("projected") or {}).get("sources") or []
    return any("serviceAccountToken" in source for source in sources)


def _of_container(container: Mapping[str, Any]) -> Iterator[str]:
    name = f"container {container.get('name')!r}"
    yield from _of_security(container.get("securityContext") or {}, name, pod_level=False)
    if any(port.get("hostPort") for port in container.get("ports") or []):
        yield f"{name}: hostPort is not allowed"
    for probe in ("lifecycle",):
        if container.get(probe):
            yield f"{name}: {probe} is not allowed"


def _of_security(context: Mapping[str, Any], where: str, *, pod_level: bool) -> Iterator[str]:
    if context.get("privileged"):
        yield f"{where}: privileged is not allowed"
    if context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
        yield f"{where}: running as root is not allowed"
    if pod_level and context.get("runAsNonRoot") is not True:
        yield f"{where}: runAsNonRoot must stay true"
    if not pod_level and context.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: allowPrivilegeEscalation must be false"
    capabilities = context.get("capabilities") or {}
    if added := set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield f"{where}: the capabilities {', '.join(sorted(added))} are not allowed"
    if not pod_level and "ALL" not in (capabilities.get("drop") or []):
        yield f"{where}: all capabilities must be dropped"
    if context.get("procMount") not in (None, "Default"):
        yield f"{where}: procMount is not allowed"
    if context.get("sysctls"):
        yield f"{where}: sysctls are not allowed"
    seccomp = (context.get("seccompProfile") or {}).get("type")
    if seccomp == "Unconfined" or (pod_level and seccomp is None):
        yield f"{where}: seccompProfile must be RuntimeDefault or Localhost"
    if (context.get("appArmorProfile") or {}).get("type") == "Unconfined":
        yield f"{where}: an unconfined appArmorProfile is not allowed"


def _of_kernel(pod: Mapping[str, Any], original: Mapping[str, Any]) -> Iterator[str]:
    """What ties the pod to its kernel and its server, and what it is asked to run."""
    meta, before = pod["metadata"], original["metadata"]
    for name in ("name", "namespace"):
        if meta.get(name) != before.get(name):
            yield f"metadata.{name} is this package's own"
    for kind in ("labels", "annotations"):
        for key, value in (before.get(kind) or {}).items():
            ours = key.startswith(PREFIX) or key == MANAGED[0]
            if ours and (meta.get(kind) or {}).get(key) != value:
                yield f"the {kind[:-1]} {key} is this package's own"
        new = set(meta.get(kind) or {}) - set(before.get(kind) or {})
        for key in sorted(new):
            if key.startswith(PREFIX):
                yield f"the prefix {PREFIX} is this package's own ({key})"
    old = original["spec"]["containers"][0]
    kernel = next(
        (c for c in pod["spec"].get("containers") or [] if c.get("name") == old["name"]), None
    )
    if kernel is None:
        yield f"the container {old['name']!r} is missing"
        return
    for name in _OURS:
        if kernel.get(name) != old.get(name):
            yield f"the {name} of the kernel's container is this package's own"
    mounts = {mount["mountPath"]: mount for mount in kernel.get("volumeMounts") or []}
    for mount in old.get("volumeMounts") or []:
        if mounts.get(mount["mountPath"]) != mount:
            yield f"the mount at {mount['mountPath']} is this package's own"
    values = {entry["name"]: entry for entry in kernel.get("env") or []}
    for entry in old.get("env") or []:
        if values.get(entry["name"]) != entry:
            yield f"the variable {entry['name']} is this package's own"
    claims = old.get("resources", {}).get("claims")
    if kernel.get("resources", {}).get("claims") != claims:
        yield "the claims of the kernel's container are this package's own"
    for name, amount in (old.get("resources", {}).get("limits") or {}).items():
        if "/" in name and kernel.get("resources", {}).get("limits", {}).get(name) != amount:
            yield f"the limit {name} follows from the size"
    if pod["spec"].get("resourceClaims") != original["spec"].get("resourceClaims"):
        yield "spec.resourceClaims follows from the size"
