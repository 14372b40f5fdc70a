"""MIG instances by NVIDIA's device plugin, in its strategies ``mixed`` and ``single``.

A size that is no profile is rounded up to the smallest instance that holds it. The memory that a
node tells of an instance is a little less than its name says: ``10GiB`` does not fit into a
``1g.10gb``. Fractions go by the names: ``1/8`` of 80 GB is a ``1g.10gb``. Instances of which the
plugin offers replicas are left out, as nothing keeps the memory of these apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from ....allocations import Isolation, Share
from ....errors import NoGpuError
from ....size import Size, format_bytes
from ...base import Capacity, Finding
from ._base import Backend, Facts, Object, Rendered, dig
from ._labels import MIB, mig_resource, profile_in
from ._nodes import (
    GPU,
    PODS_UNREAD,
    GpuNode,
    a_model,
    asked,
    capacities,
    gpu_nodes,
    kept_out,
    left,
    limits_of,
    nodes_unread,
    open_nodes,
    placement_for,
    possible_nodes,
    unnamed,
)

__all__ = ["MigBackend"]

_GB = 10**9
_NOMINAL = re.compile(r"(\d+)gb")
_SLICES = re.compile(r"(\d+)g\.")
#: Memory of the whole GPU, as its product is called; that of a GH200 tells of the processor's.
_WHOLE = re.compile(r"(?<!GH200-)\b(\d+)GB")


@dataclass(frozen=True)
class _Kind:
    """An instance, or an unshared GPU, that a node offers as one unit of a resource.

    Attributes
    ----------
    profile: None for a GPU that is not partitioned.
    memory: bytes, as the node tells them; else as the profile is called.
    part: of the whole GPU, as the names go; None if unknown.
    """

    node: GpuNode
    resource: str
    profile: str | None
    memory: int
    part: Fraction | None

    @property
    def words(self) -> str:
        """One of them, for people."""
        of = f"of {a_model(self.node.model)} " if self.node.model != "GPU" else ""
        size = format_bytes(self.memory)
        if self.profile is None:
            return f"a whole GPU ({size})"
        return f"a MIG instance {self.profile} {of}({size})"

    @property
    def order(self) -> tuple[int, int]:
        """The smallest comes first: by memory, then by compute."""
        return self.memory, _slices(self.profile) if self.profile else 99


class MigBackend(Backend):
    """Shares as MIG instances, which NVIDIA's device plugin offers as extended resources."""

    name: ClassVar[str] = "mig"
    reads: ClassVar[frozenset[str]] = frozenset({"nodes", "pods"})
    whole: ClassVar[bool] = True
    options: ClassVar[Mapping[str, str]] = {
        "runtime_class": (
            "RuntimeClass of kernels' pods, where GPUs need one, such as nvidia. Default: none."
        ),
    }

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        chosen = self.accept(options)
        self._runtime_class = chosen.get("runtime_class") or None

    @classmethod
    def offered(cls, facts: Facts) -> bool:
        """Whether a node offers MIG instances."""
        return any(kind.profile for kind in _kinds(gpu_nodes(facts)))

    # -- asking ------------------------------------------------------------------------------

    def render(self, size: Size, facts: Facts) -> Rendered:
        """See :meth:`Backend.render`."""
        if "nodes" in facts.missing and not facts.nodes:
            return self._blind(size)
        chosen = self._choose(size, facts)
        best = chosen[0]
        names = {kind.node.name for kind in chosen}
        others = [
            node
            for node in possible_nodes(facts)
            if best.resource in node.offered and node.name not in names
        ]
        memory = {kind.memory for kind in chosen}
        exact = best.profile == size.profile if size.profile else size.is_whole and not best.profile
        one = Size(size.fraction, size.memory, size.profile)
        placement = placement_for(
            [kind.node for kind in chosen],
            others,
            lambda node: left(facts, node, best.resource) >= size.count,
        )
        return Rendered(
            limits={best.resource: str(size.count)},
            node_selector=placement.node_selector,
            tolerations=placement.tolerations,
            runtime_class=self._runtime_class,
            memory_bytes=best.memory if len(memory) == 1 else None,
            note="" if exact else f"{one} becomes {best.words}.",
        )

    def _choose(self, size: Size, facts: Facts) -> list[_Kind]:
        """The smallest kind that holds a size, on all nodes that have it.

        Raises
        ------
        NoGpuError
        """
        kinds = _kinds(possible_nodes(facts))
        if size.profile is not None:
            fitting = [kind for kind in kinds if kind.profile == size.profile]
        elif size.memory is not None:
            fitting = [kind for kind in kinds if kind.memory >= size.memory]
        else:
            fraction = size.fraction or Fraction(1)
            fitting = [kind for kind in kinds if kind.part is not None and kind.part >= fraction]
        if not fitting:
            raise NoGpuError(_nothing(size, kinds, facts))
        best = min(fitting, key=lambda kind: kind.order)
        return [
            kind
            for kind in fitting
            if (kind.resource, kind.profile, kind.memory)
            == (best.resource, best.profile, best.memory)
        ]

    def _blind(self, size: Size) -> Rendered:
        """What to ask for where no node is known: only profiles are names of resources."""
        if size.profile is None:
            raise NoGpuError(
                f"{size} cannot be reckoned: the Jupyter server may not read nodes. Ask for a MIG "
                "profile (mig-1g.10gb), or have the administrator apply "
                "etc/kubernetes/overlays/cluster-read-pods."
            )
        return Rendered(
            limits={mig_resource(size.profile): str(size.count)},
            runtime_class=self._runtime_class,
        )

    # -- reading -----------------------------------------------------------------------------

    def granted(self, pod: Object, claims: Sequence[Object], facts: Facts) -> Share | None:
        """See :meth:`Backend.granted`. Which instance it is, is known to the node only."""
        name, limits = dig(pod, "spec", "nodeName"), limits_of(pod)
        if not name or not limits:
            return None
        for kind in _kinds(gpu_nodes(facts)):
            if kind.node.name == name and kind.resource in limits:
                isolation = Isolation.HARDWARE if kind.profile else Isolation.NONE
                devices = unnamed(name, kind.node.model, limits[kind.resource])
                return Share(devices, kind.memory, Fraction(1), isolation)
        resource, number = next(iter(limits.items()))
        profile = profile_in(resource)
        isolation = Isolation.HARDWARE if profile else Isolation.NONE
        memory = _nominal(profile) if profile else 0
        return Share(unnamed(name, "GPU", number), memory, Fraction(1), isolation)

    def capacity(self, facts: Facts) -> list[Capacity]:
        """See :meth:`Backend.capacity`. One entry for each instance."""
        found = []
        for kind in _kinds(open_nodes(facts)):
            what = f"mig-{kind.profile}" if kind.profile else "gpu"
            number = kind.node.offered[kind.resource]
            held = asked(facts, kind.node.name, kind.resource)
            found += capacities(kind.node, what, kind.memory, number, held, kind.profile)
        return found

    def room(self, size: Size, facts: Facts) -> int:
        """See :meth:`Backend.room`."""
        if "nodes" in facts.missing and not facts.nodes:
            return 0
        return max(left(facts, kind.node, kind.resource) for kind in self._choose(size, facts))

    def explain(self, message: str) -> str | None:
        """See :meth:`Backend.explain`."""
        if match := re.search(r"Insufficient (nvidia\.com/mig-\S+?)[,.]? ", message + " "):
            return f"All MIG instances {profile_in(match[1])} are in use."
        if f"Insufficient {GPU}" in message:
            return "All MIG instances that fit are in use."
        return None

    def examine(self, facts: Facts) -> list[Finding]:
        """See :meth:`Backend.examine`."""
        if "nodes" in facts.missing:
            return [nodes_unread("only MIG profiles can be asked for")]
        kinds = [kind for kind in _kinds(gpu_nodes(facts)) if kind.profile]
        if not kinds:
            return [
                Finding(
                    "error",
                    "No node offers MIG instances.",
                    "kubectl label node NODE nvidia.com/mig.config=all-1g.10gb",
                )
            ]
        findings = [
            Finding(
                "ok",
                f"{kind.node.name} offers {kind.node.offered[kind.resource]} MIG instances "
                f"{kind.profile} ({format_bytes(kind.memory)}).",
            )
            for kind in kinds
        ]
        if any(kind.part is None for kind in kinds):
            findings.append(
                Finding(
                    "warning",
                    "How much of its GPU a MIG instance is, is not known everywhere: fractions "
                    "cannot be asked for there.",
                    "Install GPU feature discovery (it comes with NVIDIA's GPU operator).",
                )
            )
        if "pods" in facts.missing:
            findings.append(PODS_UNREAD)
        return findings


def _kinds(nodes: Iterable[GpuNode]) -> list[_Kind]:
    """What each node offers, replicas left out."""
    found = []
    for node in nodes:
        for resource in node.offered:
            label = resource.removeprefix("nvidia.com/")
            profile = node.profile if resource == GPU else profile_in(resource)
            shared = node.replicas if resource == GPU else node.number(f"{label}.replicas")
            if shared > 1:
                continue
            if profile is not None:
                told = node.memory if resource == GPU else node.number(f"{label}.memory") * MIB
                memory = told or _nominal(profile)
                found.append(_Kind(node, resource, profile, memory, _part(node, profile)))
            elif resource == GPU and node.sharing == "none" and node.memory:
                found.append(_Kind(node, resource, None, node.memory, Fraction(1)))
    return found


def _part(node: GpuNode, profile: str) -> Fraction | None:
    """What part of its GPU an instance is, by the names."""
    if _slices(profile) == 7:
        return Fraction(1)
    named = _WHOLE.search(node.model)
    if named:
        total = int(named[1])
    elif node.profile is None and node.memory:
        total = round(node.memory / 2**30)
    else:
        return None
    return Fraction(_nominal(profile) // _GB, total) if total else None


def _nominal(profile: str) -> int:
    """Bytes by the name of a profile."""
    match = _NOMINAL.search(profile)
    return int(match[1]) * _GB if match else 0


def _slices(profile: str) -> int:
    match = _SLICES.search(profile)
    return int(match[1]) if match else 0


def _nothing(size: Size, kinds: Sequence[_Kind], facts: Facts) -> str:
    if not kinds:
        what = "MIG instances" + kept_out(facts)
        return f"{size} cannot be had: no node of this cluster offers {what}."

    there = sorted({f"mig-{kind.profile}" for kind in kinds if kind.profile})
    if size.memory is not None:
        largest = max(kinds, key=lambda kind: kind.memory)
        return f"{size} is more than this cluster has on one GPU; the most is {largest.words}."
    return f"{size} cannot be had; there are {', '.join(there) or 'whole GPUs'}."
