"""What no pod of ours may be, whoever asked for it. Pure.

It fits the restricted Pod Security Standard, and it is still the pod that this package made: its
labels, its command, its keys and its share are what they were. The admission policy of
``etc/kubernetes`` holds the same from outside.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...errors import EngineError
from ._names import NAMES, PREFIX, UNDISTURBED
from ._restricted import all_containers, violations

__all__ = ["ROOT", "PodRefused", "check_pod"]

Object = Mapping[str, Any]

#: Folder of our mounts in the kernel's container.
ROOT = "/opt/gpu-share"
#: Of the kernel's container: with these it would run something else, or be run again by the node.
_OURS = ("command", "args", "lifecycle", "restartPolicy", "restartPolicyRules")
#: Of the pod: what follows from the size stays where a backend has set it.
_OF_SIZE = ("schedulerName", "priorityClassName", "runtimeClassName")
#: Variables that say which GPU, or which share of it, a process may use.
_GPU_VARIABLES = ("JUPYTER_GPU_SHARE_", "NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
_GPU_RESOURCES = "nvidia.com/"
#: Sources of a projected volume by which a pod becomes its ServiceAccount.
_CREDENTIALS = {"serviceAccountToken": "token", "podCertificate": "certificate"}


class PodRefused(EngineError):  # noqa: N818
    """The administrator's settings make a pod that is not safe, or none of ours any more."""


def check_pod(pod: Object, original: Object) -> None:
    """Hold a merged pod against what it was before.

    Raises
    ------
    PodRefused: with all reasons in one line.
    """
    try:
        reasons = list(dict.fromkeys([*violations(pod), *_changes(pod, original)]))
    except (AttributeError, KeyError, TypeError) as error:
        raise PodRefused(
            "The pod that c.KubernetesEngine describes is refused: it is not shaped like a pod. "
            "Nothing was created; change the setting."
        ) from error
    if reasons:
        raise PodRefused(
            f"The pod that c.KubernetesEngine describes is refused: {'; '.join(reasons)}. "
            "Nothing was created; change the setting."
        )


def _changes(pod: Object, original: Object) -> Iterator[str]:
    spec, before = pod["spec"], original["spec"]
    if pod.keys() != original.keys() or pod["kind"] != original["kind"]:
        yield f"it has the parts {', '.join(sorted(pod))}"
    yield from _of_metadata(pod["metadata"], original["metadata"])
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken must stay false"
    if spec.get("restartPolicy") != "Never":
        yield "restartPolicy must stay Never"
    if spec.get("shareProcessNamespace"):
        yield "shareProcessNamespace is not allowed"
    if spec.get("ephemeralContainers"):
        yield "ephemeral containers are not allowed"
    if spec.get("nodeName"):
        yield "nodeName is not allowed: shares are counted by the scheduler"
    if spec.get("resourceClaims") != before.get("resourceClaims"):
        yield "spec.resourceClaims follows from the size"
    for name in _OF_SIZE:
        if name in before and spec.get(name) != before[name]:
            yield f"{name} follows from the size"
    for key, value in (before.get("nodeSelector") or {}).items():
        if (spec.get("nodeSelector") or {}).get(key) != value:
            yield f"the nodeSelector {key} follows from the size"
    yield from _of_volumes(spec.get("volumes") or [], before["volumes"])
    yield from _of_containers(pod, original)


def _of_metadata(meta: Object, before: Object) -> Iterator[str]:
    for name in ("name", "namespace", "generateName", "ownerReferences"):
        if meta.get(name) != before.get(name):
            yield f"metadata.{name} is this package's own"
    if meta.get("finalizers"):
        yield "finalizers are not allowed"
    for kind in ("labels", "annotations"):
        old, new = before.get(kind) or {}, meta.get(kind) or {}
        for key in [key for key in old.keys() - UNDISTURBED.keys() if new.get(key) != old[key]]:
            yield f"the {kind[:-1]} {key} is this package's own"
        for key in sorted(new.keys() - old.keys()):
            if key.startswith(PREFIX):
                yield f"the prefix {PREFIX} is this package's own ({key})"


def _of_volumes(volumes: Iterable[Object], before: Iterable[Object]) -> Iterator[str]:
    ours = {volume["name"]: volume for volume in before}
    there = {volume["name"]: volume for volume in volumes}
    for name, volume in ours.items():
        if there.get(name) != volume:
            yield f"the volume {name!r} is this package's own"
    for name, volume in there.items():
        if name in ours:
            continue
        if name.startswith(NAMES):
            yield f"the volume {name!r} is named like one of this package's own"
        sources = (volume.get("projected") or {}).get("sources") or []
        for kind in [
            _CREDENTIALS[key] for source in sources for key in source.keys() & _CREDENTIALS
        ]:
            yield f"the volume {name!r} would give the pod a {kind} for the cluster"
        yield from _of_secrets(
            (volume.get("secret") or {}).get("secretName"),
            ((volume.get("csi") or {}).get("nodePublishSecretRef") or {}).get("name"),
            *((source.get("secret") or {}).get("name") for source in sources),
        )


def _of_secrets(*names: str | None) -> Iterator[str]:
    """Secrets named like ours hold the keys of a kernel, this one's or another's."""
    for name in names:
        if name and name.startswith(NAMES):
            yield f"the Secret {name} may hold the keys of a kernel"


def _of_containers(pod: Object, original: Object) -> Iterator[str]:
    old = original["spec"]["containers"][0]
    ours = {volume["name"] for volume in original["spec"]["volumes"]}
    kernels = [c for c in pod["spec"].get("containers") or [] if c.get("name") == old["name"]]
    if len(kernels) != 1:
        yield f"the container {old['name']!r} must be there once"
    for container in all_containers(pod):
        name = container.get("name")
        is_kernel = any(container is kernel for kernel in kernels)
        before = old if is_kernel else {}
        if is_kernel:
            yield from _of_kernel(container, old)
        mine = before.get("volumeMounts") or []
        for mount in container.get("volumeMounts") or []:
            if mount not in mine and mount.get("name") in ours:
                yield f"container {name!r}: the volume {mount['name']!r} is this package's own"
        yield from _of_resources(container, before)
        for entry in container.get("env") or []:
            if entry not in (before.get("env") or []) and entry["name"].startswith(_GPU_VARIABLES):
                yield f"container {name!r}: the variable {entry['name']} follows from the size"
        yield from _of_secrets(
            *(
                (source.get("secretRef") or {}).get("name")
                for source in _list(container, "envFrom")
            ),
            *(
                ((entry.get("valueFrom") or {}).get("secretKeyRef") or {}).get("name")
                for entry in _list(container, "env")
            ),
        )


def _of_kernel(kernel: Object, old: Object) -> Iterator[str]:
    for name in _OURS:
        if kernel.get(name) != old.get(name):
            yield f"the {name} of the kernel's container is this package's own"
    mounts = _list(kernel, "volumeMounts")
    for mount in old["volumeMounts"]:
        if mount not in mounts:
            yield f"the mount at {mount['mountPath']} is this package's own"
    for mount in mounts:
        path = posixpath.normpath("/" + mount["mountPath"].lstrip("/"))
        if mount not in old["volumeMounts"] and (path + "/").startswith(ROOT + "/"):
            yield f"mounts below {ROOT} are this package's own ({mount['mountPath']})"
    for entry in old["env"]:
        if [other for other in _list(kernel, "env") if other["name"] == entry["name"]] != [entry]:
            yield f"the variable {entry['name']} is this package's own"


def _of_resources(container: Object, old: Object) -> Iterator[str]:
    """GPUs come through the size, and go to the kernel alone."""
    name = container.get("name")
    resources, before = container.get("resources") or {}, old.get("resources") or {}
    if (resources.get("claims") or []) != (before.get("claims") or []):
        yield f"container {name!r}: its claims follow from the size"
    limits = {key: n for key, n in (before.get("limits") or {}).items() if "/" in key}
    for key, amount in limits.items():
        if (resources.get("limits") or {}).get(key) != amount:
            yield f"container {name!r}: {key} follows from the size"
    for kind in ("limits", "requests"):
        for key, amount in (resources.get(kind) or {}).items():
            is_gpu = key in limits or key.startswith(_GPU_RESOURCES)
            if is_gpu and limits.get(key) != amount:
                yield f"container {name!r}: {key} follows from the size"


def _list(container: Object, name: str) -> list[Any]:
    return list(container.get(name) or [])
