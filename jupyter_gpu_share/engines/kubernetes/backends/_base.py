"""What a sharing backend is: how a cluster splits its GPUs, in pure functions on plain API objects.

A backend turns a size into what a pod asks for, reads from the cluster's objects what was
granted, and tells what there is and why something does not fit. It does no I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from ....allocations import Share
from ....errors import EngineError
from ....size import Size
from ...base import Capacity, Finding
from ._kinds import Kind, kind_of
from ._labels import PREFIX
from ._quantity import parse_quantity
from ._usable import GPU_TOLERATION, Placement, away, barred

__all__ = ["CONTAINER", "Backend", "Claim", "Facts", "Object", "Rendered", "dig", "named"]

#: A Kubernetes object as JSON.
Object = Mapping[str, Any]

#: The kernel's container: others may stand before it and beside it in its pod.
CONTAINER = "kernel"


_FOR_GPUS = Placement(tolerations=(GPU_TOLERATION,))


@dataclass(frozen=True)
class Facts:
    """What is known of a cluster, as the objects of its API.

    Attributes
    ----------
    groups: API groups with version that the server offers, such as ``resource.k8s.io/v1``.
    nodes, device_classes, slices, claims: all that may be read.
    taint_rules: the DeviceTaintRules of administrators, with the same effect as taints in slices.
    pods: those that ask for GPUs and have not ended, of all namespaces that may be read, without
        what says nothing about GPUs.
    missing: kinds that could not be read for want of rights, in the API's plural.
    placement: where kernels may go by the administrator's settings.
    kinds: of nodes that the cluster can have, as the administrator declares them.
    """

    groups: frozenset[str] = frozenset()
    nodes: Sequence[Object] = ()
    device_classes: Sequence[Object] = ()
    slices: Sequence[Object] = ()
    taint_rules: Sequence[Object] = ()
    claims: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    missing: frozenset[str] = frozenset()
    placement: Placement = _FOR_GPUS
    kinds: Sequence[Kind] = ()
    #: What backends have made of all that, so that it is made once. Private.
    made: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    def placement_on(self, node: Object) -> Placement:
        """Where a kernel may go that is to go to this node: it tolerates what its kind needs."""
        kind = kind_of(dig(node, "metadata", "labels", default={}), self.kinds)
        return self.placement + kind.placement if kind is not None else self.placement

    @cached_property
    def barred(self) -> Mapping[str, str]:
        """Why kernels never go to a node, after its name in a sentence; those alone, by name."""
        found = {
            dig(node, "metadata", "name", default=""): barred(node, self.placement_on(node))
            for node in self.nodes
        }
        return {name: why for name, why in found.items() if why}

    @cached_property
    def away(self) -> frozenset[str]:
        """Names of the nodes on which nothing starts now."""
        return _names(node for node in self.nodes if away(node, self.placement_on(node)))

    @cached_property
    def claimed(self) -> frozenset[str]:
        """Names of the nodes of which a DRA driver offers devices."""
        return frozenset(dig(item, "spec", "nodeName", default="") for item in self.slices)

    @cached_property
    def pods_by_node(self) -> Mapping[str, Sequence[Object]]:
        """The pods by the name of their node: thousands of each are not gone through together."""
        found: dict[str, list[Object]] = {}
        for pod in self.pods:
            if name := dig(pod, "spec", "nodeName"):
                found.setdefault(name, []).append(pod)
        return found

    @cached_property
    def coming(self) -> list[Kind]:
        """Declared kinds of which one more node may come.

        One that has come and offers no GPU yet, since its drivers start, is still to come.
        """
        if not self.kinds:
            return []
        labels = [
            dig(node, "metadata", "labels", default={})
            for node in self.nodes
            if dig(node, "metadata", "name") in self.claimed or _offers(node)
        ]
        there = Counter(kind_of(each, self.kinds) for each in labels)
        return [
            kind
            for kind in self.kinds
            if (kind.most is None or there[kind] < kind.most)
            and self.placement.agrees(kind.placement)
        ]


@dataclass(frozen=True)
class Claim:
    """A ResourceClaim beside a pod: ``name`` within the pod, and the claim's ``spec``."""

    name: str
    spec: Object


@dataclass(frozen=True)
class Rendered:
    """What a size adds to a kernel's pod.

    Attributes
    ----------
    limits: extended resources of the kernel's container, as quantities in text.
    own_names: annotations that hold a name of the pod's own: what follows its name in them.
    claims: ResourceClaims to be made; the kernel's container uses each of them.
    scheduler, priority_class, runtime_class: names for the pod's spec, where not the default.
    env: plain environment of the kernel's container that the sharing machinery needs.
    tolerations: taints of nodes that the pod tolerates, besides the administrator's.
    memory_bytes: on each GPU, where that is certain before the pod is placed.
    note: what was rounded, a sentence for the user; empty where the size is exact.
    """

    limits: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    own_names: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Object] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    scheduler: str | None = None
    priority_class: str | None = None
    runtime_class: str | None = None
    memory_bytes: int | None = None
    note: str = ""


class Backend(ABC):
    """One way in which clusters split GPUs.

    Parameters
    ----------
    options: the administrator's, from ``c.KubernetesEngine.backend_options``; each backend lists
        its own in :attr:`options`, and refuses others.

    Raises
    ------
    EngineError: an option that does not exist, or has no sensible value.
    """

    #: Name in the contract, such as ``dra``.
    name: ClassVar[str]
    #: Styles of holding a share that work here, the default first.
    styles: ClassVar[tuple[str, ...]] = ("pod",)
    #: Names of the options with their meaning, unit and default.
    options: ClassVar[Mapping[str, str]] = {}
    #: What of :class:`Facts` it works with, in the API's plural; nothing else needs to be read.
    reads: ClassVar[frozenset[str]]
    #: What it uses besides where it may be read; without it nothing is taken for unknown.
    uses: ClassVar[frozenset[str]] = frozenset()
    #: Whether it gives nothing but whole GPUs, replicas or MIG instances, none of which is parted.
    whole: ClassVar[bool] = False

    #: Whether which GPU a pod has is told by other pods, which appear when it gets its place.
    told_beside: ClassVar[bool] = False

    #: The style in use; one of :attr:`styles`.
    style: str = "pod"

    @abstractmethod
    def __init__(self, options: Mapping[str, str]) -> None: ...

    @classmethod
    def accept(cls, options: Mapping[str, str] | None) -> dict[str, str]:
        """The options, once it is certain that this backend has all of them.

        Raises
        ------
        EngineError
        """
        chosen = dict(options or {})
        if unknown := set(chosen) - set(cls.options):
            raise EngineError(
                f"The backend {cls.name} has no option {', '.join(sorted(unknown))}; it has "
                f"{', '.join(cls.options)}."
            )
        return chosen

    @classmethod
    @abstractmethod
    def offered(cls, facts: Facts) -> bool:
        """Whether the cluster has the machinery of this backend. Used to detect it."""

    @classmethod
    def shares(cls, facts: Facts) -> bool:
        """Whether kernels can have parts of GPUs by it, as far as the objects tell."""
        barred = facts.barred
        nodes = [node for node in facts.nodes if dig(node, "metadata", "name") not in barred]
        return cls.offered(replace(facts, nodes=nodes))

    @abstractmethod
    def render(self, size: Size, facts: Facts) -> Rendered:
        """What a pod asks for; size ``0`` never comes here.

        Raises
        ------
        NoGpuError: no GPU of this cluster could ever hold the size; the message says what can.
        """

    @abstractmethod
    def granted(self, pod: Object, claims: Sequence[Object], facts: Facts) -> Share | None:
        """The share of a placed pod, or None while that is not known yet.

        ``claims`` are the pod's own ResourceClaims. What the objects do not tell (which GPU of a
        node a time slice is on) is left out or named by the node, never guessed.
        """

    @abstractmethod
    def capacity(self, facts: Facts) -> list[Capacity]:
        """The GPUs with what is free, as far as the objects tell."""

    def room(self, size: Size, facts: Facts) -> int:
        """In how many places one more kernel of this size would start at once.

        Raises
        ------
        NoGpuError: no GPU of this cluster could ever hold the size.
        """
        return sum(
            gpu.profile == size.profile and gpu.free_bytes >= self.need(size, gpu, facts)
            for gpu in self.capacity(facts)
        )

    def knows_node(self, name: str, facts: Facts) -> bool:
        """Whether the GPUs of a node are among those that are known, as they are when it is up."""
        # Who holds what does not matter, and there may be thousands who do.
        alone = replace(facts, pods=(), claims=())
        return any(
            gpu.node == name and (gpu.free_bytes > 0 or not gpu.memory_bytes)
            for gpu in self.capacity(alone)
        )

    def need(self, size: Size, gpu: Capacity, facts: Facts) -> int:
        """Bytes that a kernel of this size takes of a GPU; more than it has: it gives no such."""
        return size.bytes_of(gpu.memory_bytes)

    def why_not(self, style: str) -> str | None:
        """Why shares cannot be held in a style, a sentence or two; None where they can."""
        if style in self.styles:
            return None
        return (
            f"The backend {self.name} cannot hold shares in style {style!r}; it has "
            f"{', '.join(self.styles)}."
        )

    def explain(self, message: str) -> str | None:
        """The scheduler's words about a pod that does not fit, in the user's; None: not known."""
        return None

    def reclaimed(self, pod: Object) -> str | None:
        """Why a pod may have been deleted that nobody here has deleted; None: not known.

        For schedulers that take a share away by deleting the pod, and leave no word in it.
        """
        return None

    @abstractmethod
    def examine(self, facts: Facts) -> list[Finding]:
        """What ``doctor`` says: what the cluster can do, what is missing, the command to fix it."""


def _offers(node: Object) -> bool:
    """Whether a node offers GPUs, by a device plugin."""
    amounts = dig(node, "status", "allocatable", default={})
    return any(
        parse_quantity(amount) > 0 for name, amount in amounts.items() if name.startswith(PREFIX)
    )


def _names(objects: Iterable[Object]) -> frozenset[str]:
    return frozenset(dig(each, "metadata", "name", default="") for each in objects)


def named(rows: Sequence[Object] | None, name: str = CONTAINER) -> Object | None:
    """Of containers, or of what is told of them, the one of a name; None: there is none."""
    return next((row for row in rows or () if row.get("name") == name), None)


def dig(obj: Any, *path: str | int, default: Any = None) -> Any:
    """A value deep in an API object; ``default`` where any step is missing."""
    for step in path:
        try:
            obj = obj[step]
        except (KeyError, IndexError, TypeError):
            return default
    return default if obj is None else obj
