"""KAI Scheduler: parts of GPUs by annotations of pods, in queues with priorities."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import ClassVar

from ....allocations import Device, Isolation, Share
from ....errors import EngineError, NoGpuError
from ....size import Size, format_bytes
from ...base import Capacity, Finding
from . import kai_pods as kai
from ._base import CONTAINER, Backend, Facts, Object, Rendered, dig, named
from ._kinds import placement_among
from ._labels import MIB, Told, mig_resource, profile_in
from ._nodes import (
    GPU,
    LET_READ,
    GpuNode,
    capacities,
    gpu_nodes,
    kept_out,
    limits_of,
    nodes_unread,
    open_nodes,
    possible_nodes,
    unnamed,
)
from ._usable import Placement

__all__ = ["KaiBackend"]

#: In style ``annotation`` a fraction is this part of what was asked for: in what is left of the GPU
#: stay the kernels that gave their share back, which KAI goes on counting for something.
_WITH_REST = Fraction(999, 1000)
_CONFIG_MAP = "runai/shared-gpu-configmap"
_CHART = "oci://ghcr.io/kai-scheduler/kai-scheduler/kai-scheduler"
#: Node conditions by which KAI's own memory limits are ready; the name has changed.
_ENFORCED = ("gpu-sharing.nvidia.com/Ready", "gpu-fractioning.nvidia.com/Ready")
#: Priorities from this on are not taken away from.
_SAFE_PRIORITY = 100
#: What is asked and what there is at most, in KAI's words.
_QUOTA = re.compile(
    r"requested (?P<asked>[\d.]+) (?P<unit>.+?), but \S+ quota is (?P<bound>[\d.]+) "
)
_LIMIT = re.compile(
    r"limit of (?P<unit>.+?)\. Limit is (?P<bound>[\d.]+) .*requested (?P<asked>[\d.]+) "
)
_NO_QUEUE = re.compile(r"QueueDoesNotExist|queue.* (not found|does not exist)", re.IGNORECASE)
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_NAME = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?", re.ASCII)


class KaiBackend(Backend):
    """Shares as annotations that KAI Scheduler accounts by.

    In style ``annotation`` a patch of the running pod gives the share back, and takes it again.
    """

    name: ClassVar[str] = "kai"
    styles: ClassVar[tuple[str, ...]] = ("pod", "annotation")
    told_beside: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"nodes", "pods", "resourceslices"})
    options: ClassVar[Mapping[str, str]] = {
        "queue": "Queue in which kernels are accounted. Default default-queue.",
        "queue_label": "Label that names the queue. Default kai.scheduler/queue.",
        "priority": (
            "PriorityClass of kernels. Below 100 they may go beyond the queue's quota, and KAI "
            "takes a GPU away again when others need it, and the kernel with it. Default "
            "build-preemptible. build is safe from that, and needs a queue with a quota; empty for "
            "KAI's default, train."
        ),
        "scheduler": "Name of KAI's scheduler. Default kai-scheduler.",
        "keys": (
            "``legacy`` for the annotations gpu-fraction and gpu-memory, known to every version; "
            "``container`` for memory by container, with a limit that is kept (mode NvFractions "
            "of KAI). Default legacy."
        ),
        "settle": (
            "Style annotation: seconds from taking a share again to the last look at its GPU, more "
            "than a round of the scheduler takes. Default 2."
        ),
        "runtime_class": (
            "RuntimeClass of kernels' pods, where KAI does not set one itself. Default: none."
        ),
    }

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        chosen = self.accept(options)
        self._queue = chosen.get("queue", "default-queue")
        self._queue_label = chosen.get("queue_label", "kai.scheduler/queue")
        self._priority = chosen.get("priority", "build-preemptible")
        self._scheduler = chosen.get("scheduler", "kai-scheduler")
        self._runtime_class = chosen.get("runtime_class", "")
        self._keys = chosen.get("keys", "legacy")
        if self._keys not in ("legacy", "container"):
            raise EngineError(
                f"c.KubernetesEngine.backend_options: keys is legacy or container, not "
                f"{self._keys!r}."
            )
        for name in (self._priority, self._scheduler, self._runtime_class):
            if not _NAME.fullmatch(name):
                raise EngineError(f"c.KubernetesEngine.backend_options: {name!r} is not a name.")
        if not _LABEL.fullmatch(self._queue):
            raise EngineError(
                f"c.KubernetesEngine.backend_options: {self._queue!r} is not the name of a queue."
            )
        #: Seconds from a write that takes a share again to the last look at the GPU.
        self.settle = _seconds(chosen.get("settle", "2"))

    @classmethod
    def offered(cls, facts: Facts) -> bool:
        """Whether KAI's kinds of objects are there."""
        return any(group.startswith("scheduling.run.ai/") for group in facts.groups)

    @classmethod
    def shares(cls, facts: Facts) -> bool:
        """Whether a node has GPUs that KAI may split: none that a DRA driver offers."""
        claimed = {dig(item, "spec", "nodeName") for item in facts.slices}
        return any(node.name not in claimed for node in _parted(open_nodes(facts)))

    # -- asking ------------------------------------------------------------------------------

    def render(self, size: Size, facts: Facts) -> Rendered:
        """See :meth:`Backend.render`."""
        if size.profile is not None:
            limits = {self._mig(size, facts): str(size.count)}
            return self._rendered(self._placement(size, facts), limits)
        nodes = _parted(possible_nodes(facts))
        if not nodes and "nodes" not in facts.missing:
            what = GPU + kept_out(facts)
            raise NoGpuError(f"{size} cannot be had: no node of this cluster offers {what}.")
        if size.is_whole and self.style != "annotation":
            wholes = {node.memory for node in nodes if node.memory}
            memory = max(wholes) if len(wholes) == 1 else None
            limits = {GPU: str(size.count)}
            return self._rendered(self._placement(size, facts), limits, memory_bytes=memory)
        if size.memory is not None and nodes and not any(node.memory for node in nodes):
            raise NoGpuError(
                f"{size} cannot be had: no node of this cluster says how much memory its GPUs "
                "have (label nvidia.com/gpu.memory). Pick a part of a GPU, such as 1/4."
            )
        notes, memory, note = self._amounts(size, {_counted(n) for n in nodes if n.memory})
        if size.count > 1:
            notes[kai.NUMBER] = str(size.count)
        return self._rendered(
            self._placement(size, facts),
            annotations=notes,
            # Where KAI's webhook does not choose the name, binding needs one.
            own_names={_CONFIG_MAP: "-gpu"},
            memory_bytes=memory,
            note=note,
        )

    def _rendered(
        self,
        placement: Placement,
        limits: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        own_names: Mapping[str, str] | None = None,
        memory_bytes: int | None = None,
        note: str = "",
    ) -> Rendered:
        return Rendered(
            limits=limits or {},
            annotations=annotations or {},
            own_names=own_names or {},
            labels={self._queue_label: self._queue},
            node_selector=placement.node_selector,
            tolerations=placement.tolerations,
            scheduler=self._scheduler,
            priority_class=self._priority or None,
            runtime_class=self._runtime_class or None,
            memory_bytes=memory_bytes,
            note=note,
        )

    def _placement(self, size: Size, facts: Facts) -> Placement:
        """Where the pod goes. Of the nodes that are there, KAI knows which will do."""

        def holds(model: Told | GpuNode, memory: int) -> bool:
            return model.profile == size.profile and (size.memory or 0) <= memory

        if size.profile is not None:
            resource = mig_resource(size.profile)
            there = any(resource in node.offered for node in open_nodes(facts))
        else:
            there = any(holds(node, _counted(node)) for node in _parted(open_nodes(facts)))
        return placement_among(
            facts.kinds,
            facts.coming,
            lambda kind: holds(kind.told, kai.counted(kind.told.memory // MIB) * MIB),
            there=there,
        )

    def _amounts(self, size: Size, memories: set[int]) -> tuple[dict[str, str], int | None, str]:
        """Annotations for a part of a GPU, its bytes where certain, and what was rounded."""
        if size.memory is not None:
            mib = -(-size.memory // MIB)
            if memories and mib * MIB > max(memories):
                raise NoGpuError(
                    f"{size} is more than KAI gives of any GPU of this cluster; the most is "
                    f"{max(memories) // MIB}MiB."
                )
            note = "" if mib * MIB == size.memory else f"{size} becomes {format_bytes(mib * MIB)}."
            return self._memory(mib), mib * MIB, note
        asked = size.fraction or Fraction(1)
        fraction = asked * _WITH_REST if self.style == "annotation" else asked
        one = Size(fraction=asked)
        if self._keys == "container" and len(memories) == 1:
            total = max(memories)
            mib = int(total * fraction) // MIB
            note = ""
            if abs(total * asked - mib * MIB) >= MIB:
                note = f"{one} becomes {format_bytes(mib * MIB)} of {format_bytes(total)}."
            return self._memory(max(1, mib)), max(1, mib) * MIB, note
        text = kai.decimal(fraction)
        if Fraction(text) == 0:
            raise NoGpuError(f"{size} is less than a millionth of a GPU; ask for more.")
        memory = int(max(memories) * Fraction(text)) // MIB * MIB if len(memories) == 1 else None
        # Six digits are as good as exact; what is kept for others is told.
        note = f"{one} becomes {text} of a GPU." if fraction != asked else ""
        return {kai.FRACTION: text, kai.CONTAINER_NAME: CONTAINER}, memory, note

    def _memory(self, mib: int) -> dict[str, str]:
        if self._keys == "container":
            amount = f"{mib}Mi"
            return {kai.request_key(CONTAINER): amount, kai.limit_key(CONTAINER): amount}
        return {kai.MEMORY: str(mib), kai.CONTAINER_NAME: CONTAINER}

    def _mig(self, size: Size, facts: Facts) -> str:
        if self.style == "annotation":
            raise NoGpuError(
                f"{size} cannot be had in style annotation: only parts of whole GPUs can be given "
                "back."
            )
        assert size.profile is not None
        resource = mig_resource(size.profile)
        there = {name for node in possible_nodes(facts) for name in node.offered}
        if resource not in there and "nodes" not in facts.missing:
            found = sorted(f"mig-{profile}" for name in there if (profile := profile_in(name)))
            instead = f"; there are {', '.join(found)}" if found else ""
            raise NoGpuError(f"No GPU of this cluster offers {size}{instead}.")
        return resource

    # -- reading -----------------------------------------------------------------------------

    def granted(self, pod: Object, claims: Sequence[Object], facts: Facts) -> Share | None:
        """See :meth:`Backend.granted`. A share that was given back is the one that comes back."""
        name = dig(pod, "spec", "nodeName")
        if not name:
            return None
        pod = kai.original(pod)
        node = next((node for node in gpu_nodes(facts) if node.name == name), None)
        model = node.model if node else "GPU"
        for resource, number in limits_of(pod).items():
            return _whole(node, resource, unnamed(name, model, number))
        groups = kai.groups_of(pod)
        if not groups:
            return None
        total = _counted(node) // MIB if node else 0
        amount = kai.amount_of(pod, total)
        isolation = _isolation(pod, name, facts) if amount else Isolation.NONE
        if amount and total and node and isolation is Isolation.PRELOAD:
            # What the library allows beyond what is counted belongs to others.
            limit = kai.library_limit(amount, total, node.memory // MIB)
            amount = min(amount, Fraction(limit)) if limit else amount
            isolation = Isolation.PRELOAD if limit else Isolation.FRAMEWORK
        memory = int(amount or 0) * MIB
        if total:
            fraction = Fraction(memory // MIB, total)
        else:
            text = dig(pod, "metadata", "annotations", kai.FRACTION, default="0")
            fraction = Fraction(text)
        known = kai.devices_of(pod) or self._reserved(groups, facts)
        names = known if len(known) == len(groups) else list(groups)
        devices = tuple(Device(uuid, model, name) for uuid in names)
        return Share(devices, memory, fraction, isolation)

    def amount_on(self, size: Size, total: int) -> Fraction | None:
        """MiB that a size is of each GPU of ``total`` MiB; None: that is no part of one."""
        if size.is_none or size.profile is not None:
            return None
        try:
            notes, _, _ = self._amounts(size, {total * MIB})
        except NoGpuError:
            return None
        amount = kai.amount_of({"metadata": {"annotations": notes}}, total)
        return amount if amount is not None and amount <= total else None

    def total(self, pod: Object, facts: Facts) -> int:
        """MiB that KAI counts of each of a pod's GPUs; 0 if unknown."""
        name = dig(pod, "spec", "nodeName")
        return next((_counted(node) // MIB for node in gpu_nodes(facts) if node.name == name), 0)

    def _reserved(self, groups: Sequence[str], facts: Facts) -> list[str]:
        """UUIDs of the GPUs of groups, as far as the reservations tell."""
        told = kai.reservations(facts.pods)
        return [uuid for group in groups if (uuid := told.get(group))]

    def capacity(self, facts: Facts) -> list[Capacity]:
        """See :meth:`Backend.capacity`. One entry for each shared GPU, and for each other one."""
        found = []
        told = kai.reservations(facts.pods)
        for node in open_nodes(facts):
            pods = facts.pods_by_node.get(node.name, ())
            total = _counted(node) // MIB
            groups = sorted({group for pod in pods for group in kai.groups_of(pod)})
            for group in groups:
                taken = int(kai.used(pods, group, total) + Fraction(999, 1000)) * MIB
                found.append(
                    Capacity(
                        uuid=told.get(group) or group,
                        model=node.model,
                        node=node.name,
                        memory_bytes=total * MIB,
                        free_bytes=0 if node.away else max(0, total * MIB - taken),
                        kernels=sum(
                            group in kai.groups_of(pod) and not kai.is_reservation(pod)
                            for pod in pods
                        ),
                    )
                )
            found += _unshared(node, pods, len(groups))
        return found

    def explain(self, message: str) -> str | None:
        """See :meth:`Backend.explain`."""
        if "DRA-only" in message:
            return (
                "KAI gives no parts of GPUs that a DRA driver offers. The administrator sets "
                'c.KubernetesEngine.backend = "dra".'
            )
        if "OverQuota" in message or "over quota" in message:
            return self._over_quota(message)
        if "OverLimit" in message or "has reached the allowable limit" in message:
            return self._over_limit(message)
        if _NO_QUEUE.search(message):
            return f"KAI has no queue {self._queue}. Tell the administrator."
        if match := re.search(r"mig profile: (\S+?)[.,]?(\s|$)", message):
            return f"All MIG instances {profile_in(match[1]) or match[1]} are in use."
        if "fractional GPU" in message and "not ready" in message:
            return "The nodes are not ready to share GPUs yet."
        # KAI tells both of nodes that differ: what is large enough may be free another time.
        if "enough resources: GPUs" in message:
            return "No GPU has that much free now."
        if "enough resources: GPU memory" in message:
            return "No GPU of this cluster has that much memory."
        if "Resources were not found for pod" in message:  # all that it says of a size in bytes
            return "No GPU has that much free now, or no node has that many GPUs."
        if message.rpartition(": ")[2].rstrip(". ") == "Unable to schedule pod":
            return (
                "KAI has no place for it and does not say why. If no kernel starts, the queue "
                f"{self._queue} may have queues below it, which alone take kernels. Tell the "
                "administrator."
            )
        return None

    def _over_quota(self, message: str) -> str:
        found = _QUOTA.search(message)
        if not _never(found):
            return (
                f"The quota of the queue {self._queue} is used up; the kernel waits for its turn."
            )
        assert found is not None
        return (
            f"{found['asked']} {found['unit']} can never be had: the quota of the queue "
            f"{self._queue} is {found['bound']}, and kernels of priority {self._priority} may not "
            "go over it. Tell the administrator."
        )

    def _over_limit(self, message: str) -> str:
        found = _LIMIT.search(message)
        if not _never(found):
            return (
                f"The limit of the queue {self._queue} is reached; the kernel waits for its turn."
            )
        assert found is not None
        return (
            f"{found['asked']} {found['unit']} can never be had: the limit of the queue "
            f"{self._queue} is {found['bound']}. Tell the administrator."
        )

    def in_queue(self, rendered: Rendered, queue: str) -> Rendered:
        """What a pod asks for, in another queue than the one that is configured for all."""
        return replace(rendered, labels={**rendered.labels, self._queue_label: queue})

    def queue_of(self, pod: Object) -> str:
        """The queue that a pod is accounted in; empty: none."""
        labels: Mapping[str, str] = dig(pod, "metadata", "labels", default={})
        return labels.get(self._queue_label, "")

    def preemptible(self, pod: Object) -> bool:
        """Whether KAI may take a pod's GPUs away again."""
        priority: int = dig(pod, "spec", "priority", default=0)
        return priority < _SAFE_PRIORITY

    def reclaimed(self, pod: Object) -> str | None:
        """See :meth:`Backend.reclaimed`. KAI deletes pods of low priority when others need GPUs."""
        if dig(pod, "spec", "schedulerName") != self._scheduler or not self.preemptible(pod):
            return None
        return (
            "The kernel's share was most likely reclaimed for other work in the cluster: its "
            "priority allows that. Restart it to queue for another."
        )

    def examine(self, facts: Facts) -> list[Finding]:
        """See :meth:`Backend.examine`."""
        findings = []
        if not self.offered(facts):
            findings.append(
                Finding(
                    "error",
                    "KAI Scheduler is not installed (no API group scheduling.run.ai).",
                    f"helm upgrade -i kai-scheduler {_CHART} -n kai-scheduler --create-namespace "
                    "--set global.gpuSharing=true",
                )
            )
        if "nodes" in facts.missing:
            findings.append(nodes_unread("how much memory a fraction is, is not known"))
            return findings
        nodes = _parted(gpu_nodes(facts))
        plural = "node offers" if len(nodes) == 1 else "nodes offer"
        queue = f"queue {self._queue}, priority {self._priority or 'train'}"
        findings.append(
            Finding(
                "ok" if nodes else "error",
                f"{len(nodes) or 'No'} {plural} GPUs to KAI ({queue}).",
                None
                if nodes
                else "kubectl get nodes -o custom-columns="
                "NAME:.metadata.name,GPUS:.status.allocatable.'nvidia\\.com/gpu'",
            )
        )
        if self._priority == "build":
            findings.append(
                Finding(
                    "note",
                    f"Kernels of priority build start within the quota of the queue {self._queue} "
                    "only, for GPUs, processors and memory; that of KAI's own default queue is 0.",
                    f"kubectl get queues.scheduling.run.ai {self._queue} -o yaml",
                )
            )
        elif nodes:
            findings.append(
                Finding(
                    "note",
                    f"KAI may end kernels of priority {self._priority or 'train'} when work of "
                    "higher priority, or of a queue within its quota, needs their GPUs.",
                    "For kernels that are safe: a queue with a quota, and c.KubernetesEngine."
                    'backend_options = {"queue": "…", "priority": "build"}',
                )
            )
        if unlabelled := [node.name for node in nodes if not node.memory]:
            findings.append(
                Finding(
                    "warning",
                    f"The nodes {', '.join(unlabelled)} do not say how much memory their GPUs have "
                    "(label nvidia.com/gpu.memory): KAI shares these by fractions only.",
                    "Install GPU feature discovery (it comes with NVIDIA's GPU operator).",
                )
            )
        if replicas := [node.name for node in nodes if node.replicas > 1]:
            findings.append(
                Finding(
                    "error",
                    f"The device plugin shares the GPUs of {', '.join(replicas)} as well: KAI "
                    "counts each replica as a GPU.",
                    "Turn sharing off in the configuration of NVIDIA's device plugin.",
                )
            )
        claimed = {dig(item, "spec", "nodeName") for item in facts.slices}
        if draped := [node.name for node in nodes if node.name in claimed]:
            findings.append(
                Finding(
                    "warning",
                    f"A DRA driver offers the GPUs of {', '.join(draped)}: KAI refuses parts of "
                    "GPUs there.",
                    'c.KubernetesEngine.backend = "dra"',
                )
            )
        if self.style == "annotation":
            findings.append(
                Finding(
                    "note",
                    "A GPU with a released kernel stays shared: KAI gives it to no job for whole "
                    "GPUs as long as the kernel lives.",
                    "Where such jobs come first: c.IdlePolicy.in_place = False",
                )
            )
        if "pods" in facts.missing:
            findings.append(
                Finding(
                    "error" if self.style == "annotation" else "note",
                    "Pods of other namespaces cannot be read: what is free of a GPU is not known"
                    + (", so no share can be given back." if self.style == "annotation" else "."),
                    LET_READ,
                )
            )
        return findings


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 60:
        raise EngineError(
            f"c.KubernetesEngine.backend_options: settle is seconds from 0 to 60, not {text!r}."
        )
    return seconds


def _never(found: re.Match[str] | None) -> bool:
    """Whether more is asked than a queue has at most."""
    return found is not None and Fraction(found["asked"]) > Fraction(found["bound"])


def _parted(nodes: Iterable[GpuNode]) -> list[GpuNode]:
    """Those with GPUs that KAI may split."""
    return [node for node in nodes if GPU in node.offered and node.profile is None]


def _counted(node: GpuNode) -> int:
    """Bytes that KAI takes each GPU of a node for, where it parts them."""
    return kai.counted(node.memory // MIB) * MIB


def _whole(node: GpuNode | None, resource: str, devices: tuple[Device, ...]) -> Share:
    """A share that is no part of a GPU: all of it, or a MIG instance."""
    profile = profile_in(resource)
    if profile is None:
        return Share(devices, node.memory if node else 0, Fraction(1), Isolation.NONE)
    memory = node.number(f"mig-{profile.replace('+', '.')}.memory") * MIB if node else 0
    return Share(devices, memory, Fraction(1), Isolation.HARDWARE)


def _isolation(pod: Object, node: str, facts: Facts) -> Isolation:
    """How a part of a GPU is held apart, by what KAI and its companions have put into the pod."""
    if kai.devices_of(pod) and any(
        dig(item, "metadata", "name") == node
        and condition.get("type") in _ENFORCED
        and condition.get("status") == "True"
        for item in facts.nodes
        for condition in dig(item, "status", "conditions", default=[])
    ):
        return Isolation.DRIVER
    kernel = named(dig(pod, "spec", "containers")) or {}
    loaded = any(
        mount.get("mountPath") == "/etc/ld.so.preload" for mount in kernel.get("volumeMounts") or []
    )
    return Isolation.PRELOAD if kai.is_limited(pod) and loaded else Isolation.FRAMEWORK


def _unshared(node: GpuNode, pods: Sequence[Object], shared: int) -> list[Capacity]:
    """The node's GPUs that no group is on, and its MIG instances."""
    found = []
    for resource, number in node.offered.items():
        profile = node.profile if resource == GPU else profile_in(resource)
        held = sum(limits_of(pod).get(resource, 0) for pod in pods if not kai.is_reservation(pod))
        rest = number - (shared if resource == GPU else 0)
        memory = node.memory if profile else _counted(node)
        if resource != GPU:
            memory = node.number(f"{resource.removeprefix('nvidia.com/')}.memory") * MIB
        what = f"mig-{profile}" if profile else "gpu"
        found += capacities(node, what, memory, rest, held, profile)
    return found
