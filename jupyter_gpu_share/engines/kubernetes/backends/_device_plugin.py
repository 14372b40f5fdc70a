"""NVIDIA's device plugin: whole GPUs, and replicas of GPUs by time-slicing or MPS.

A replica cannot be chosen in size, and several replicas do not give more of a GPU: the plugin may
take them from different GPUs, or refuse the pod. So a kernel has one replica of one GPU, or whole
GPUs. A size is rounded up to the smallest that there is. Only where nothing reaches it, a fraction
becomes the nearest number of time slices, should that be one: ``1/3`` becomes 1 of 4. Memory is
never rounded down, and nothing is with MPS, where a replica ends in a wall.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from ....allocations import Device, Isolation, Share
from ....errors import EngineError, NoGpuError, SizeError
from ....size import Size, format_bytes, parse_bytes
from ...base import Capacity, Finding
from .._names import annotation
from ._base import Backend, Facts, Object, Rendered, dig
from ._labels import MIB
from ._nodes import (
    GPU,
    PODS_UNREAD,
    SHARED_GPU,
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

__all__ = ["DevicePluginBackend"]

_WORDS = {"time-slicing": "time slices", "mps": "MPS replicas"}
#: A fraction of this many time slices is nearer to two than to one.
_TWO = Fraction(3, 2)
_LABEL_HELP = (
    "Install GPU feature discovery (it comes with NVIDIA's GPU operator), or say it in "
    'c.KubernetesEngine.backend_options = {"replicas": "4", "memory": "80GiB"}, or by '
    "kind of node in c.KubernetesEngine.kinds"
)


@dataclass(frozen=True)
class _Kind:
    """What one unit of a resource of a node is."""

    node: GpuNode
    resource: str
    replicas: int
    memory: int
    #: Whether it is known that so many share a GPU.
    known: bool = True

    @property
    def shared(self) -> bool:
        return self.replicas > 1

    @property
    def part(self) -> Fraction:
        return Fraction(1, self.replicas)

    @property
    def slice(self) -> int:
        """Bytes that stand for one unit; a limit of MPS is a whole number of MiB."""
        return self.memory // self.replicas // MIB * MIB

    @property
    def words(self) -> str:
        """One of them, for people."""
        total = format_bytes(self.memory)
        if not self.known:
            return f"one {self.resource}, and whether others use the same GPU is not known"
        if not self.shared:
            return f"a whole GPU ({total})" if self.memory else "a whole GPU"
        what = _WORDS.get(self.node.sharing, "replicas")
        size = f" ({format_bytes(self.slice)} of {total})" if self.memory else ""
        return f"1 of {self.replicas} {what} of {a_model(self.node.model)}{size}"


class DevicePluginBackend(Backend):
    """Shares as extended resources: one time slice or MPS replica of a GPU, or whole GPUs."""

    name: ClassVar[str] = "device-plugin"
    reads: ClassVar[frozenset[str]] = frozenset({"nodes", "pods"})
    whole: ClassVar[bool] = True
    options: ClassVar[Mapping[str, str]] = {
        "resource": (
            "Name of the extended resource. Default: nvidia.com/gpu or nvidia.com/gpu.shared, as "
            "the nodes offer."
        ),
        "replicas": (
            "Replicas of each GPU, for nodes whose labels do not tell; 1: GPUs are not shared. "
            "Default: not known."
        ),
        "memory": (
            "Memory of each GPU, such as 80GiB, for nodes without the label nvidia.com/gpu.memory. "
            "Default: not known."
        ),
        "runtime_class": (
            "RuntimeClass of kernels' pods, where GPUs need one, such as nvidia. Default: none."
        ),
    }

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        chosen = self.accept(options)
        self._resource = chosen.get("resource", "")
        self._runtime_class = chosen.get("runtime_class") or None
        try:
            self._replicas = int(chosen["replicas"]) if "replicas" in chosen else None
            self._memory = parse_bytes(chosen["memory"]) if "memory" in chosen else 0
        except (SizeError, ValueError) as error:
            raise EngineError(f"c.KubernetesEngine.backend_options: {error}.") from error
        if self._replicas is not None and self._replicas < 1:
            raise EngineError("c.KubernetesEngine.backend_options: replicas is 1 or more.")

    @classmethod
    def offered(cls, facts: Facts) -> bool:
        """Whether a node offers GPUs, or replicas of them, as an extended resource."""
        return any(
            (GPU in node.offered and node.profile is None) or SHARED_GPU in node.offered
            for node in gpu_nodes(facts)
        )

    @classmethod
    def shares(cls, facts: Facts) -> bool:
        """Whether a node is known to offer replicas of GPUs."""
        return any(
            SHARED_GPU in node.offered or (GPU in node.offered and node.replicas > 1)
            for node in open_nodes(facts)
            if node.profile is None
        )

    # -- asking ------------------------------------------------------------------------------

    def render(self, size: Size, facts: Facts) -> Rendered:
        """See :meth:`Backend.render`."""
        nodes = possible_nodes(facts)
        kinds = self._kinds(nodes)
        if not kinds:
            return self._blind(size, facts)
        chosen = self._choose(size, kinds)
        best = chosen[0]
        if size.count > 1 and not best.known:
            raise NoGpuError(self._not_apart(size, best))
        if best.shared and size.count > 1:
            raise NoGpuError(
                f"{size} cannot be had: the cluster cannot put {_WORDS.get(best.node.sharing)} of "
                f"one kernel on different GPUs. Ask for {_one(size)}."
            )
        names = {kind.node.name for kind in chosen}
        placement = placement_for(
            [kind.node for kind in chosen],
            [node for node in nodes if best.resource in node.offered and node.name not in names],
            lambda node: left(facts, node, best.resource) >= size.count,
        )
        sizes = {_bytes_of(size, kind) for kind in chosen}
        return Rendered(
            limits={best.resource: str(size.count)},
            node_selector=placement.node_selector,
            tolerations=placement.tolerations,
            runtime_class=self._runtime_class,
            memory_bytes=sizes.pop() if len(sizes) == 1 and best.memory else None,
            note="" if _exact(size, best) else f"{_one(size)} becomes {best.words}.",
        )

    def _choose(self, size: Size, kinds: Sequence[_Kind]) -> list[_Kind]:
        """The kinds that a size becomes, which are all the same to it.

        Those come first of which it is known how they are split.

        Raises
        ------
        NoGpuError
        """
        known = [kind for kind in kinds if kind.known]
        unknown = [kind for kind in kinds if not kind.known]
        if known and unknown:
            try:
                return self._choose(size, known)
            except NoGpuError:
                return self._choose(size, unknown)
        if size.profile is not None:
            raise NoGpuError(
                f"{size} cannot be had: the backend device-plugin gives whole GPUs and replicas of "
                'them. c.KubernetesEngine.backend = "mig" gives MIG instances.'
            )
        if size.memory is not None:
            fitting = [kind for kind in kinds if kind.slice >= size.memory]
            if not fitting:
                raise NoGpuError(self._too_much(size, kinds))
            least = min(kind.slice for kind in fitting)
            return [kind for kind in fitting if kind.slice == least]
        fraction = size.fraction or Fraction(1)
        fitting = [kind for kind in kinds if kind.part >= fraction]
        if not fitting:
            # Nothing keeps the memory of time slices apart, so that their number is what counts.
            fitting = [
                kind
                for kind in kinds
                if kind.node.sharing == "time-slicing" and fraction * kind.replicas < _TWO
            ]
            if not fitting:
                largest = max(kinds, key=lambda kind: kind.part)
                raise NoGpuError(
                    f"{size} cannot be had: a kernel can have {largest.words}, not several. Ask "
                    f"for {largest.part}."
                )
            part = max(kind.part for kind in fitting)
        else:
            part = min(kind.part for kind in fitting)
        return [kind for kind in fitting if kind.part == part]

    def _too_much(self, size: Size, kinds: Sequence[_Kind]) -> str:
        known = [kind for kind in kinds if kind.memory]
        if not known:
            return (
                f"{size} cannot be reckoned: the nodes do not say how much memory their GPUs have. "
                f"Ask for a fraction. {_LABEL_HELP}."
            )
        largest = max(known, key=lambda kind: kind.slice)
        return (
            f"{size} is more than a kernel can have in this cluster; the most is {largest.words}."
        )

    def _blind(self, size: Size, facts: Facts) -> Rendered:
        """What to ask for where no node is known: as the options say."""
        if "nodes" not in facts.missing:
            if any(SHARED_GPU in node.offered for node in open_nodes(facts)):
                raise NoGpuError(
                    f"{size} cannot be reckoned: the nodes do not say in how many parts their GPUs "
                    f"are shared. {_LABEL_HELP}."
                )
            what = self._what + kept_out(facts)
            raise NoGpuError(f"{size} cannot be had: no node of this cluster offers {what}.")
        (chosen,) = self._choose(size, [self._unseen])
        if size.count > 1 and not chosen.known:
            raise NoGpuError(self._not_apart(size, chosen))
        return Rendered(
            limits={chosen.resource: str(size.count)},
            runtime_class=self._runtime_class,
            memory_bytes=_bytes_of(size, chosen) or None,
            note="" if _exact(size, chosen) else f"{_one(size)} becomes {chosen.words}.",
        )

    @property
    def _unseen(self) -> _Kind:
        """What the options tell of nodes that cannot be read."""
        replicas = self._replicas or 1
        node = GpuNode(
            name="",
            model="GPU",
            profile=None,
            memory=self._memory,
            count=0,
            replicas=replicas,
            sharing="time-slicing" if replicas > 1 else "none",
            offered={},
            labels={},
        )
        known = self._replicas is not None
        return _Kind(node, self._resource or GPU, replicas, self._memory, known)

    def _not_apart(self, size: Size, kind: _Kind) -> str:
        return (
            f"{size} cannot be had: whether each {kind.resource} is a GPU of its own is not known. "
            f"Ask for {_one(size)}. {_LABEL_HELP}."
        )

    # -- reading -----------------------------------------------------------------------------

    def granted(self, pod: Object, claims: Sequence[Object], facts: Facts) -> Share | None:
        """See :meth:`Backend.granted`. Only the node knows on which of its GPUs it lies."""
        name = dig(pod, "spec", "nodeName")
        taken = {
            resource: number
            for resource, number in limits_of(pod).items()
            if resource in (self._resource, GPU, SHARED_GPU)
        }
        if not name or not taken:
            return None
        resource, number = next(iter(taken.items()))
        kind = next(
            (
                kind
                for kind in self._kinds(gpu_nodes(facts))
                if kind.node.name == name and kind.resource == resource
            ),
            None,
        )
        if kind is None and self._replicas is not None:
            devices = unnamed(name, "GPU", number)
            return Share(devices, 0, Fraction(1, self._replicas), Isolation.NONE)
        kind = kind or self._unseen
        devices = unnamed(name, kind.node.model, number)
        if not kind.known:
            return _as_asked(pod, kind, devices)
        return Share(
            devices,
            kind.slice,
            kind.part,
            _isolation(kind),
        )

    def capacity(self, facts: Facts) -> list[Capacity]:
        """See :meth:`Backend.capacity`. One entry for each whole GPU, and for each replica."""
        found = []
        for kind in self._kinds(open_nodes(facts)):
            what = kind.resource.rpartition("/")[2]
            number = kind.node.offered[kind.resource]
            held = asked(facts, kind.node.name, kind.resource)
            found += capacities(kind.node, what, kind.slice, number, held)
        return found

    def room(self, size: Size, facts: Facts) -> int:
        """See :meth:`Backend.room`."""
        kinds = self._kinds(possible_nodes(facts))
        if not kinds:
            return 0
        # GPUs of one kernel are on one node.
        return max(left(facts, kind.node, kind.resource) for kind in self._choose(size, kinds))

    def explain(self, message: str) -> str | None:
        """See :meth:`Backend.explain`."""
        for resource in {self._resource, GPU, SHARED_GPU} - {""}:
            if f"Insufficient {resource}" in message:
                return "All GPUs that fit are in use."
        if "node affinity/selector" in message:
            return "No node has a GPU of the kind that this size needs."
        return None

    def examine(self, facts: Facts) -> list[Finding]:
        """See :meth:`Backend.examine`."""
        if "nodes" in facts.missing:
            return [nodes_unread("how GPUs are shared is not known")]
        kinds = self._kinds(gpu_nodes(facts))
        if not kinds:
            return [
                Finding(
                    "error",
                    f"No node offers {self._what}, or what it offers is not told by labels.",
                    "kubectl get pods -A -l app.kubernetes.io/name=nvidia-device-plugin",
                )
            ]
        findings = []
        for kind in kinds:
            number = kind.node.offered[kind.resource]
            findings.append(
                Finding(
                    "ok", f"{kind.node.name} offers {number} times {kind.resource}: {kind.words}."
                )
            )
        unlabelled = sorted({kind.node.name for kind in kinds if not kind.memory})
        if unlabelled:
            findings.append(
                Finding(
                    "warning",
                    f"How much memory the GPUs of {', '.join(unlabelled)} have is not known.",
                    _LABEL_HELP,
                )
            )
        if unknown := sorted({kind.node.name for kind in kinds if not kind.known}):
            findings.append(
                Finding(
                    "warning",
                    f"How the GPUs of {', '.join(unknown)} are shared is not known: a kernel there "
                    "is held to its part by caps alone, and none counts as alone on its GPU.",
                    _LABEL_HELP,
                )
            )
        if any(kind.shared and kind.node.sharing == "time-slicing" for kind in kinds):
            findings.append(
                Finding(
                    "note",
                    "Time slices share all of a GPU's memory: only caps in the frameworks, and a "
                    "watch over the kernels, keep neighbours apart.",
                    "MPS (sharing.mps in the plugin's configuration) limits memory.",
                )
            )
        if "pods" in facts.missing:
            findings.append(PODS_UNREAD)
        return findings

    def _kinds(self, nodes: Iterable[GpuNode]) -> list[_Kind]:
        """What nodes offer; MIG instances are another backend's."""
        wanted = [self._resource] if self._resource else [GPU, SHARED_GPU]
        return [
            _Kind(node, resource, replicas or 1, node.memory or self._memory, replicas > 0)
            for node in nodes
            for resource in wanted
            if resource in node.offered and not (resource == GPU and node.profile)
            if (replicas := self._replicas_of(node)) or resource != SHARED_GPU
        ]

    def _replicas_of(self, node: GpuNode) -> int:
        """In how many parts a GPU is offered; 0: not known."""
        return node.replicas or self._replicas or 0

    @property
    def _what(self) -> str:
        return self._resource or f"{GPU} or {SHARED_GPU}"


def _bytes_of(size: Size, kind: _Kind) -> int:
    """What a size is of a kind. Where it is not known who else is there, no more than was asked."""
    return kind.slice if kind.known else size.bytes_of(kind.memory)


def _isolation(kind: _Kind) -> Isolation:
    if not kind.shared:
        return Isolation.NONE
    return Isolation.MPS if kind.node.sharing == "mps" else Isolation.FRAMEWORK


def _as_asked(pod: Object, kind: _Kind, devices: tuple[Device, ...]) -> Share:
    """A share of a GPU of which it is not known who else uses it: what was asked for, capped."""
    size = _one(Size.parse(annotation(pod, "size") or "1"))
    memory = size.bytes_of(kind.memory)
    fraction = size.fraction or Fraction(memory, kind.memory or memory)
    whole = fraction == 1
    return Share(devices, memory, fraction, Isolation.NONE if whole else Isolation.FRAMEWORK)


def _exact(size: Size, kind: _Kind) -> bool:
    if not kind.known:
        return False
    if size.memory is not None:
        return size.memory == kind.slice
    return (size.fraction or Fraction(1)) == kind.part


def _one(size: Size) -> Size:
    """The size on a single GPU."""
    return Size(size.fraction, size.memory, size.profile)
