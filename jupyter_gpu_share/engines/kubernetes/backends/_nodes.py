"""What nodes and pods tell of GPUs that a device plugin offers. Pure.

The labels are those of NVIDIA's GPU feature discovery; without it only numbers are known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, takewhile
from typing import Any

from ....allocations import Device
from ...base import Capacity, Finding
from ._base import Facts, Object, dig
from ._kinds import Kind, kind_of
from ._labels import PREFIX, TELLING, Told, mig_resource, number_in, profile_in, told_by
from ._quantity import parse_quantity
from ._usable import Placement, away, barred

__all__ = [
    "GPU",
    "LET_READ",
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
    "nodes_apart",
    "nodes_unread",
    "open_nodes",
    "placement_for",
    "possible_nodes",
    "separating",
    "trimmed",
    "unnamed",
]

#: Lets a Jupyter server read nodes, and the pods of all namespaces.
LET_READ = "kubectl apply -k etc/kubernetes/overlays/cluster-read-pods"
#: What ``doctor`` says where pods of other namespaces may not be read.
PODS_UNREAD = Finding(
    "note", "Pods of other namespaces cannot be read: what is free is not known.", LET_READ
)
#: Extended resources of NVIDIA's device plugin: whole GPUs or replicas of them, and replicas where
#: the plugin is told to rename them.
GPU, SHARED_GPU = "nvidia.com/gpu", "nvidia.com/gpu.shared"
#: Begins labels of MIG instances beside whole GPUs, of which a node then has none.
_INSTANCES = PREFIX + "mig-"
_HOSTNAME = "kubernetes.io/hostname"
_VENDORS = {"NVIDIA", "Tesla", "TESLA", "GeForce"}
#: Names of families, which say little without the next word.
_FAMILIES = {"RTX", "GTX", "PRO", "Quadro", "TITAN"}
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
    replicas: of each; 1 where they are not shared, 0 if unknown.
    sharing: ``none``, ``time-slicing`` or ``mps``; empty if unknown.
    offered: what the node offers, by name of the extended resource; those with none are left out.
    barred: why kernels never go there, after the node's name; empty where they may.
    away: why none starts there now, in the same way.
    kind: that the administrator has declared, if it is of one.
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
    kind: Kind | None = None

    @property
    def coming(self) -> bool:
        """Whether it is not there, but may come."""
        return not self.name

    def number(self, label: str) -> int:
        """An integer among the labels, without the prefix ``nvidia.com/``; 0 if it is not there."""
        return number_in(self.labels, PREFIX + label)


def gpu_nodes(facts: Facts) -> list[GpuNode]:
    """The nodes that offer GPUs or MIG instances as extended resources."""
    if "gpu_nodes" not in facts.made:
        found = (_gpu_node(node, facts) for node in facts.nodes)
        facts.made["gpu_nodes"] = [node for node in found if node is not None]
    return list(facts.made["gpu_nodes"])


def open_nodes(facts: Facts) -> list[GpuNode]:
    """Those of them that kernels may go to, now or another time."""
    return [node for node in gpu_nodes(facts) if not node.barred]


def possible_nodes(facts: Facts) -> list[GpuNode]:
    """Those that kernels may go to, and of each declared kind one that may still come."""
    there = open_nodes(facts)
    return [*there, *(_coming(kind) for kind in facts.coming)]


def _gpu_node(node: Object, facts: Facts) -> GpuNode | None:
    labels: Mapping[str, str] = dig(node, "metadata", "labels", default={})
    offered, rests = _amounts(node, "allocatable"), ""
    if not offered and dig(node, "metadata", "name") not in facts.claimed:
        offered, rests = _resting(node, labels), "offers none of its GPUs"
    if not offered:
        return None
    kind = kind_of(labels, facts.kinds)
    told = told_by(labels) | (kind.told if kind is not None else Told())
    return _as_told(
        told,
        # Those that are not healthy are offered no more, and counted all the same.
        units=_amounts(node, "capacity").get(GPU) or offered.get(GPU, 0),
        name=dig(node, "metadata", "name", default=""),
        offered=offered,
        labels=labels,
        kind=kind,
        barred=barred(node, facts.placement_on(node)),
        away=away(node, facts.placement_on(node)) or rests,
    )


def _amounts(node: Object, which: str) -> dict[str, int]:
    """GPUs and MIG instances of a node by its own word; what it has none of is left out."""
    return {
        name: number
        for name, amount in dig(node, "status", which, default={}).items()
        if name in (GPU, SHARED_GPU) or profile_in(name)
        if (number := parse_quantity(amount)) > 0
    }


def _resting(node: Object, labels: Mapping[str, str]) -> dict[str, int]:
    """What a node that offers nothing will offer again.

    Its device plugin does not run just now, or no GPU is healthy: then the node goes on to count
    what it has. Where the node itself was away, only labels tell that, until the plugin is back.
    """
    if has := _amounts(node, "capacity"):
        return has
    known = dig(node, "status", "allocatable", default={})
    name = SHARED_GPU if SHARED_GPU in known else GPU
    if name not in known or any(label.startswith(_INSTANCES) for label in labels):
        return {}
    told = told_by(labels)
    # By the number of GPUs alone, shared ones would be taken for whole ones.
    return {name: number} if (number := told.count * told.replicas) else {}


def _coming(kind: Kind) -> GpuNode:
    told = kind.told
    resource = mig_resource(told.profile) if told.profile else GPU
    number = told.count * told.replicas
    return _as_told(
        replace(told, profile=None),
        units=number if resource == GPU else 0,
        name="",
        offered={resource: number},
        labels=kind.placement.node_selector,
        kind=kind,
        away="is not there yet",
    )


def _as_told(told: Told, *, units: int, offered: Mapping[str, int], **fields: Any) -> GpuNode:
    replicas, sharing = told.replicas, told.sharing
    if not replicas and told.count and units and units % told.count == 0:
        replicas = units // told.count
    if not sharing and (SHARED_GPU in offered or replicas):
        sharing = "time-slicing" if SHARED_GPU in offered or replicas > 1 else "none"
    return GpuNode(
        model=told.model or "GPU",
        profile=told.profile,
        memory=told.memory,
        count=told.count,
        replicas=replicas,
        sharing=sharing,
        offered=offered,
        **fields,
    )


def a_model(model: str) -> str:
    """A model in a sentence: ``an A100`` for ``NVIDIA-A100-SXM4-80GB``."""
    words = [word for word in re.split(r"[- ]", model) if word not in _VENDORS]
    if not words or model == "GPU":
        return "a GPU"
    families = len([*takewhile(_FAMILIES.__contains__, words)])
    short = " ".join(words[: families + 1])
    return f"an {short}" if short[0] in "AEFHILMNORSX" else f"a {short}"


def kept_out(facts: Facts) -> str:
    """Why what a node offers is not for kernels, the end of a sentence; empty if there is none."""
    apart = next((node for node in gpu_nodes(facts) if node.barred), None)
    return f" to kernels: {apart.name} {apart.barred}" if apart is not None else ""


def separating(chosen: Sequence[GpuNode], others: Iterable[GpuNode]) -> dict[str, str]:
    """The fewest labels that all of ``chosen`` have, and none of ``others`` has.

    Empty where there are no others. Where no labels tell them apart, the first node alone.
    """
    rest, there = list(others), chosen[0].labels
    telling = [name for name in TELLING if there.get(name)]
    for number in range(len(telling) + 1):
        for some in combinations(telling, number):
            wanted = {name: there[name] for name in some}
            told = all(_has(node, wanted) for node in chosen)
            if told and not any(_has(node, wanted) for node in rest):
                return wanted
    first = chosen[0]
    return {_HOSTNAME: first.labels.get(_HOSTNAME, first.name)}


def placement_for(
    chosen: Sequence[GpuNode], others: Iterable[GpuNode], free: Callable[[GpuNode], bool]
) -> Placement:
    """Where a pod goes that any of ``chosen`` will do for, and none of ``others``.

    Nodes of one declared kind are told by what was declared of it: an autoscaler knows no other
    labels of nodes that are not there. Where several kinds will do, one that is free comes first,
    then one of which a node may come.
    """
    groups: dict[Kind | None, list[GpuNode]] = {}
    for node in chosen:
        groups.setdefault(node.kind, []).append(node)
    best = min(
        groups,
        key=lambda kind: (
            not any(free(node) for node in groups[kind]),
            not any(node.coming for node in groups[kind]),
        ),
    )
    if best is not None:
        return best.placement
    rest = [node for kind, nodes in groups.items() if kind is not None for node in nodes]
    return Placement(separating(groups[None], [each for each in (*others, *rest) if each.name]))


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
    known = {node.name: node for node in gpu_nodes(facts)}
    found = []
    for node in facts.nodes:
        name = dig(node, "metadata", "name", default="")
        if name not in known and name not in facts.claimed:
            continue
        gpus = known.get(name)
        if why := barred(node, facts.placement_on(node)):
            fix = "c.KubernetesEngine.tolerations, c.KubernetesEngine.node_selector"
            found.append(Finding("note", f"No kernel goes to {name}: it {why}.", fix))
        elif why := gpus.away if gpus is not None else away(node, facts.placement_on(node)):
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
            if name.startswith(PREFIX):
                total[name] = total.get(name, 0) + parse_quantity(amount)
    for container in dig(pod, "spec", "initContainers", default=[]):
        for name, amount in dig(container, "resources", "limits", default={}).items():
            if name.startswith(PREFIX):
                total[name] = max(total.get(name, 0), parse_quantity(amount))
    return total


def asked(facts: Facts, node: str, resource: str) -> int:
    """How much of an extended resource the pods of a node hold."""
    return sum(limits_of(pod).get(resource, 0) for pod in facts.pods_by_node.get(node, ()))


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
