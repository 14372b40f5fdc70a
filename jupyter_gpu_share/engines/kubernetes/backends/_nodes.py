"""What nodes and pods tell of GPUs that a device plugin offers. Pure.

The labels are those of NVIDIA's GPU feature discovery; without it only numbers are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ....allocations import Device
from ...base import Capacity, Finding
from ._base import Facts, Object, dig
from ._quantity import parse_quantity
from ._usable import away, barred

__all__ = [
    "GPU",
    "LET_READ",
    "MIB",
    "PODS_UNREAD",
    "SHARED_GPU",
    "GpuNode",
    "a_model",
    "asked",
    "asks_for_gpus",
    "capacities",
    "gpu_nodes",
    "kept_out",
    "left",
    "limits_of",
    "mig_resource",
    "nodes_apart",
    "nodes_unread",
    "open_nodes",
    "profile_in",
    "separating",
    "trimmed",
    "unnamed",
]

MIB = 2**20
#: Lets a Jupyter server read nodes, and the pods of all namespaces.
LET_READ = "kubectl apply -k etc/kubernetes/overlays/cluster-read-pods"
#: What ``doctor`` says where pods of other namespaces may not be read.
PODS_UNREAD = Finding(
    "note", "Pods of other namespaces cannot be read: what is free is not known.", LET_READ
)
#: Extended resources of NVIDIA's device plugin: whole GPUs or replicas of them, and replicas where
#: the plugin is told to rename them.
GPU, SHARED_GPU = "nvidia.com/gpu", "nvidia.com/gpu.shared"
_PREFIX = "nvidia.com/"
_MIG_RESOURCE = _PREFIX + "mig-"
_HOSTNAME = "kubernetes.io/hostname"
_VENDORS = {"NVIDIA", "Tesla", "GeForce"}
#: Names of families, which say little without the next word.
_FAMILIES = {"RTX", "GTX", "Quadro", "TITAN"}
_MIG = re.compile(r"-MIG-(.+)")
#: ``1g.10gb``, ``1c.3g.20gb`` and what a label or a resource has in place of ``1g.10gb+me``.
_PROFILE = re.compile(r"((?:\d+c\.)?\d+g\.\d+gb)(?:[.+](?!shared$)(.+))?", re.ASCII)
#: Annotations that ask for a share, by the schedulers that read them.
_ASKING = ("gpu-fraction", "gpu-memory", "nvidia.com/container.", "hami.io/vgpu-devices")
_TELLING = (*_ASKING, "run.ai/", "received-resource-type")
_GROUP = "runai-gpu-group"


@dataclass(frozen=True)
class GpuNode:
    """The GPUs of a node.

    Attributes
    ----------
    model: without what was added to it for shared GPUs and MIG instances; ``GPU`` if unknown.
    profile: of the MIG instances that ``nvidia.com/gpu`` stands for (strategy ``single``).
    memory: bytes of each GPU, or of each such instance; 0 if unknown.
    count: number of GPUs, or of such instances; 0 if unknown.
    replicas: of each; 1 where they are not shared.
    sharing: ``none``, ``time-slicing`` or ``mps``.
    offered: what the node offers, by name of the extended resource; those with none are left out.
    barred: why kernels never go there, after the node's name; empty where they may.
    away: why none starts there now, in the same way.
    """

    name: str
    model: str
    profile: str | None
    memory: int
    count: int
    replicas: int
    sharing: str
    offered: Mapping[str, int]
    labels: Mapping[str, str]
    barred: str = ""
    away: str = ""

    def number(self, label: str) -> int:
        """An integer among the labels, without the prefix ``nvidia.com/``; 0 if it is not there."""
        return _number(self.labels, label)


def gpu_nodes(facts: Facts) -> list[GpuNode]:
    """The nodes that offer GPUs or MIG instances as extended resources."""
    found = (_gpu_node(node, facts) for node in facts.nodes)
    return [node for node in found if node.offered]


def open_nodes(facts: Facts) -> list[GpuNode]:
    """Those of them that kernels may go to, now or another time."""
    return [node for node in gpu_nodes(facts) if not node.barred]


def _gpu_node(node: Object, facts: Facts) -> GpuNode:
    labels: Mapping[str, str] = dig(node, "metadata", "labels", default={})
    amounts = dig(node, "status", "allocatable", default={})
    offered = {
        name: number
        for name, amount in amounts.items()
        if name in (GPU, SHARED_GPU) or profile_in(name)
        if (number := parse_quantity(amount)) > 0
    }
    product = labels.get(_PREFIX + "gpu.product", "")
    instance = _MIG.search(product.removesuffix("-SHARED"))
    replicas = max(1, _number(labels, "gpu.replicas"))
    sharing = labels.get(_PREFIX + "gpu.sharing-strategy", "")
    if not sharing:
        # Older versions tell of replicas only, and know of time-slicing only.
        shared = replicas > 1 or product.endswith("-SHARED") or SHARED_GPU in offered
        sharing = "time-slicing" if shared else "none"
    return GpuNode(
        name=dig(node, "metadata", "name", default=""),
        model=_MIG.sub("", product.removesuffix("-SHARED")) or "GPU",
        profile=profile_in(instance[1]) if instance else None,
        memory=_bytes(_number(labels, "gpu.memory")),
        count=_number(labels, "gpu.count"),
        replicas=replicas,
        sharing=sharing,
        offered=offered,
        labels=labels,
        barred=barred(node, facts.placement),
        away=away(node, facts.placement),
    )


def _number(labels: Mapping[str, str], label: str) -> int:
    text = labels.get(_PREFIX + label, "")
    return int(text) if text.isdecimal() else 0


def _bytes(label: int) -> int:
    """The label is in MiB; some versions have written bytes."""
    return label if label >= 2**20 else label * MIB


def profile_in(text: str) -> str | None:
    """The MIG profile that a resource such as ``nvidia.com/mig-1g.10gb``, or a label, names.

    With the sign that names have neither here nor there: ``1g.10gb+me`` for ``1g.10gb.me``.
    """
    match = _PROFILE.fullmatch(text.removeprefix(_MIG_RESOURCE))
    if match is None:
        return None
    return f"{match[1]}+{match[2]}" if match[2] else match[1]


def mig_resource(profile: str) -> str:
    """The extended resource of a profile."""
    return _MIG_RESOURCE + profile.replace("+", ".")


def a_model(model: str) -> str:
    """A model in a sentence: ``an A100`` for ``NVIDIA-A100-SXM4-80GB``."""
    words = [word for word in re.split(r"[- ]", model) if word not in _VENDORS]
    if not words or model == "GPU":
        return "a GPU"
    short = " ".join(words[:2]) if words[0] in _FAMILIES else words[0]
    return f"an {short}" if short[0] in "AEFHILMNORSX" else f"a {short}"


def kept_out(facts: Facts) -> str:
    """Why what a node offers is not for kernels, the end of a sentence; empty if there is none."""
    apart = next((node for node in gpu_nodes(facts) if node.barred), None)
    return f" to kernels: {apart.name} {apart.barred}" if apart is not None else ""


def separating(chosen: Sequence[GpuNode], others: Iterable[GpuNode]) -> dict[str, str]:
    """The fewest labels that all of ``chosen`` have, and none of ``others`` has.

    Empty where there are no others. Where no labels tell them apart, the first node alone.
    """
    names = [
        _PREFIX + label
        for label in ("gpu.replicas", "gpu.sharing-strategy", "gpu.memory", "gpu.product")
    ]
    rest = list(others)
    for number in range(len(names) + 1):
        for some in combinations(names, number):
            wanted = {name: chosen[0].labels.get(name, "") for name in some}
            told = all(wanted.values()) and all(_has(node, wanted) for node in chosen)
            if told and not any(_has(node, wanted) for node in rest):
                return wanted
    first = chosen[0]
    return {_HOSTNAME: first.labels.get(_HOSTNAME, first.name)}


def _has(node: GpuNode, labels: Mapping[str, str]) -> bool:
    return all(node.labels.get(name) == value for name, value in labels.items())


def capacities(
    node: GpuNode, what: str, memory: int, number: int, held: int, profile: str | None = None
) -> list[Capacity]:
    """An entry for each GPU, replica or MIG instance that a node counts and does not name.

    Parameters
    ----------
    what: name that they are numbered under, from ``-1`` on.
    memory: bytes of each; 0 if unknown.
    number: how many there are.
    held: how many of them pods hold; which ones is not known, so the first are taken to be.
    profile: of each, where they are MIG instances.
    """
    return [
        Capacity(
            uuid=f"{node.name}/{what}-{index + 1}",
            model=node.model,
            node=node.name,
            memory_bytes=memory,
            free_bytes=0 if index < held or node.away else memory,
            profile=profile,
            kernels=1 if index < held else 0,
        )
        for index in range(number)
    ]


def nodes_apart(facts: Facts) -> list[Finding]:
    """What ``doctor`` says of nodes with GPUs that kernels cannot use, or not now."""
    with_gpus = {node.name for node in gpu_nodes(facts)}
    with_gpus |= {dig(item, "spec", "nodeName") for item in facts.slices}
    found = []
    for node in facts.nodes:
        name = dig(node, "metadata", "name", default="")
        if name not in with_gpus:
            continue
        if why := barred(node, facts.placement):
            fix = "c.KubernetesEngine.tolerations, c.KubernetesEngine.node_selector"
            found.append(Finding("note", f"No kernel goes to {name}: it {why}.", fix))
        elif why := away(node, facts.placement):
            found.append(
                Finding(
                    "warning",
                    f"No kernel starts on {name} now: it {why}.",
                    f"kubectl describe node {name}",
                )
            )
    return found


def nodes_unread(consequence: str) -> Finding:
    """What ``doctor`` says where nodes may not be read; ``consequence`` without a full stop."""
    return Finding("warning", f"The Jupyter server may not read nodes: {consequence}.", LET_READ)


# -- pods ----------------------------------------------------------------------------------------


def limits_of(pod: Object) -> dict[str, int]:
    """What a pod takes of NVIDIA's extended resources."""
    total: dict[str, int] = {}
    for container in dig(pod, "spec", "containers", default=[]):
        for name, amount in dig(container, "resources", "limits", default={}).items():
            if name.startswith(_PREFIX):
                total[name] = total.get(name, 0) + parse_quantity(amount)
    for container in dig(pod, "spec", "initContainers", default=[]):
        for name, amount in dig(container, "resources", "limits", default={}).items():
            if name.startswith(_PREFIX):
                total[name] = max(total.get(name, 0), parse_quantity(amount))
    return total


def asked(facts: Facts, node: str, resource: str) -> int:
    """How much of an extended resource the pods of a node hold."""
    return sum(
        limits_of(pod).get(resource, 0)
        for pod in facts.pods
        if dig(pod, "spec", "nodeName") == node
    )


def left(facts: Facts, node: GpuNode, resource: str) -> int:
    """How much of an extended resource a pod can have of a node now."""
    return 0 if node.away else node.offered[resource] - asked(facts, node.name, resource)


def asks_for_gpus(pod: Object) -> bool:
    """Whether a pod takes anything of a GPU that is not a ResourceClaim."""
    meta = pod.get("metadata") or {}
    return (
        bool(limits_of(pod))
        or any(key.startswith(_ASKING) for key in meta.get("annotations") or {})
        or any(key.startswith(_GROUP) for key in meta.get("labels") or {})
    )


def trimmed(pod: Object) -> Object:
    """A pod with what is read of it here, and nothing else: there may be thousands."""
    meta, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    return {
        "metadata": {
            "name": meta.get("name", ""),
            "namespace": meta.get("namespace", ""),
            "uid": meta.get("uid", ""),
            "labels": _starting(meta.get("labels"), (_GROUP,)),
            "annotations": _starting(meta.get("annotations"), _TELLING),
        },
        "spec": {
            "nodeName": spec.get("nodeName"),
            **{
                kind: [
                    {"name": each.get("name"), "resources": each.get("resources") or {}}
                    for each in spec.get(kind) or []
                ]
                for kind in ("containers", "initContainers")
            },
        },
        "status": {"phase": dig(pod, "status", "phase", default="")},
    }


def _starting(pairs: Mapping[str, str] | None, prefixes: tuple[str, ...]) -> dict[str, str]:
    return {key: value for key, value in (pairs or {}).items() if key.startswith(prefixes)}


def unnamed(node: str, model: str, number: int) -> tuple[Device, ...]:
    """GPUs of a node of which the cluster's objects do not tell which they are."""
    return tuple(Device(f"{node}/unnamed-{n + 1}", model, node) for n in range(number))
