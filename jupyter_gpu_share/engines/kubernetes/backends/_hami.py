"""HAMi: memory in MiB of GPUs that its own scheduler keeps account of.

A library that it loads into every process of the kernel holds the memory to its limit. What it
knows of GPUs it writes into annotations of nodes, and what it has granted into those of pods.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from ....allocations import Device, Isolation, Share
from ....errors import EngineError, NoGpuError
from ....size import Size, format_bytes
from ...base import Capacity, Finding
from ._base import Backend, Facts, Object, Rendered, dig
from ._kinds import placement_among
from ._labels import MIB
from ._nodes import PODS_UNREAD, nodes_unread

__all__ = ["HamiBackend"]

_REGISTER = "hami.io/node-nvidia-register"
#: How HAMi's scheduler notes that it does not hear a node's device plugin: all else stays there.
_HANDSHAKE, _SILENT = "hami.io/node-handshake", "Deleted"
_ALLOCATED = "hami.io/vgpu-devices-allocated"
_ISOLATION = {"mig": Isolation.HARDWARE, "mps": Isolation.MPS}
#: In mode ``mig`` the number of the instance follows the GPU's name: ``GPU-…[0-1]``.
_INSTANCE = re.compile(r"\[.*\]$")
#: What its scheduler says of GPUs that do not fit.
_REASONS = {
    "CardInsufficientMemory": "No GPU has that much free now.",
    "CardInsufficientCore": "No GPU has that much compute free now.",
    "CardComputeUnitsExhausted": "No GPU has that much compute free now.",
    "CardTimeSlicingExhausted": "The GPUs hold as many kernels as they may.",
    "ExclusiveDeviceAllocateConflict": "The GPUs with room are held by kernels of their own.",
    "AllocatedCardsInsufficientRequest": "Not as many GPUs have room now.",
    "NodeInsufficientDevice": "No node has as many GPUs.",
    "ResourceQuotaNotFit": "The namespace's quota of GPU memory is used up.",
    "CardTypeMismatch": "No GPU is of the kind that the pod asks for.",
    "CardNotHealth": "The GPUs with room are not healthy.",
    "node unregistered": "No node with GPUs has told HAMi of them.",
    "NodeUnfitPod": "No GPU has room for it now.",
    "no available node": "No GPU has room for it now.",
}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[A-Za-z0-9]([-\w.]*[A-Za-z0-9])?)?", re.ASCII)


@dataclass(frozen=True)
class _Gpu:
    """A GPU that a node has registered. ``memory`` is in bytes, as HAMi gives it out."""

    uuid: str
    node: str
    model: str
    memory: int
    mode: str


class HamiBackend(Backend):
    """Shares as extended resources that HAMi's scheduler and device plugin understand."""

    name: ClassVar[str] = "hami"
    reads: ClassVar[frozenset[str]] = frozenset({"nodes", "pods"})
    options: ClassVar[Mapping[str, str]] = {
        "scheduler": "Name of HAMi's scheduler. Default hami-scheduler.",
        "cores": (
            "``share`` to limit compute as well, to the same part of a GPU as memory; ``none`` to "
            "leave it. Default none."
        ),
        "memory_factor": (
            "MiB for which one unit of the memory resource stands: memoryFactor of HAMi's "
            "configuration. Default 1."
        ),
        "resource": "Name of the resource that counts GPUs. Default nvidia.com/gpu.",
        "memory_resource": "Name of the resource for memory. Default nvidia.com/gpumem.",
        "percentage_resource": (
            "Name of the resource for memory in percent. Default nvidia.com/gpumem-percentage."
        ),
        "cores_resource": "Name of the resource for compute. Default nvidia.com/gpucores.",
        "runtime_class": (
            "RuntimeClass of kernels' pods, where GPUs need one, such as nvidia. Default: none."
        ),
    }

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        chosen = self.accept(options)
        self._scheduler = chosen.get("scheduler", "hami-scheduler")
        self._count = chosen.get("resource", "nvidia.com/gpu")
        self._memory = chosen.get("memory_resource", "nvidia.com/gpumem")
        self._percentage = chosen.get("percentage_resource", "nvidia.com/gpumem-percentage")
        self._cores = chosen.get("cores_resource", "nvidia.com/gpucores")
        self._runtime_class = chosen.get("runtime_class") or None
        factor, cores = chosen.get("memory_factor", "1"), chosen.get("cores", "none")
        if not factor.isdecimal() or int(factor) < 1:
            raise EngineError(
                f"c.KubernetesEngine.backend_options: memory_factor is a number from 1 on, not "
                f"{factor!r}."
            )
        if cores not in ("none", "share"):
            raise EngineError(
                f"c.KubernetesEngine.backend_options: cores is none or share, not {cores!r}."
            )
        names = (self._scheduler, self._count, self._memory, self._percentage, self._cores)
        for name in names:
            if not _NAME.fullmatch(name):
                raise EngineError(f"c.KubernetesEngine.backend_options: {name!r} is not a name.")
        self._factor, self._limit_cores = int(factor), cores == "share"

    @classmethod
    def offered(cls, facts: Facts) -> bool:
        """Whether a node has registered GPUs with HAMi."""
        return bool(_gpus(facts))

    # -- asking ------------------------------------------------------------------------------

    def render(self, size: Size, facts: Facts) -> Rendered:
        """See :meth:`Backend.render`."""
        there = _open(facts)
        gpus = [*there, *_coming(facts)]
        if size.profile is not None:
            raise NoGpuError(
                f"{size} cannot be had: HAMi gives memory, and picks MIG profiles itself. Ask in "
                "GiB."
            )
        if not gpus and "nodes" not in facts.missing:
            raise NoGpuError(f"{size} cannot be had: no node has registered GPUs with HAMi.")
        memories = {gpu.memory for gpu in gpus}
        limits = {self._count: str(size.count)}
        memory: int | None = None
        part = size.fraction
        note = ""
        if size.memory is not None:
            unit = self._factor * MIB
            units = -(-size.memory // unit)
            memory = units * unit
            if memories and memory > max(memories):
                raise NoGpuError(
                    f"{size} is more than any GPU of this cluster has; the largest has "
                    f"{format_bytes(max(memories))}."
                )
            limits[self._memory] = str(units)
            if memory - size.memory >= MIB:
                note = f"{size} becomes {format_bytes(memory)}."
            part = Fraction(memory, max(memories)) if len(memories) == 1 else None
        elif part is not None and part < 1 and len(memories) == 1:
            total = max(memories)
            units = max(1, int(total * part) // (self._factor * MIB))
            limits[self._memory] = str(units)
            memory = units * self._factor * MIB
            if abs(total * part - memory) >= MIB:
                note = f"{size} becomes {format_bytes(memory)} of {format_bytes(total)}."
        else:
            # In percent where GPUs differ, so that any of them will do.
            percent = max(1, int((part or Fraction(1)) * 100))
            limits[self._percentage] = str(percent)
            if len(memories) == 1:
                memory = max(memories) * percent // 100
            if Fraction(percent, 100) != part:
                note = f"{size} becomes {percent} % of a GPU."
        if self._limit_cores and part is not None:
            limits[self._cores] = str(max(1, int(part * 100)))
        needed = size.memory or 0
        placement = placement_among(
            facts.kinds,
            facts.coming,
            lambda kind: kind.told.memory >= needed,
            there=any(gpu.memory >= needed for gpu in there),
        )
        return Rendered(
            limits=limits,
            node_selector=placement.node_selector,
            tolerations=placement.tolerations,
            scheduler=self._scheduler,
            runtime_class=self._runtime_class,
            memory_bytes=memory,
            note=note,
        )

    # -- reading -----------------------------------------------------------------------------

    def granted(self, pod: Object, claims: Sequence[Object], facts: Facts) -> Share | None:
        """See :meth:`Backend.granted`."""
        node = dig(pod, "spec", "nodeName")
        parts = list(_allocated(pod))
        if not node or not parts:
            return None
        known = {gpu.uuid: gpu for gpu in _gpus(facts)}
        devices, totals = [], []
        for uuid, memory, _ in parts:
            gpu = known.get(uuid)
            devices.append(Device(uuid, gpu.model if gpu else "GPU", node))
            totals.append(gpu.memory if gpu else memory)
        memory, total = min(memory for _, memory, _ in parts), min(totals)
        modes = {known[uuid].mode for uuid, _, _ in parts if uuid in known}
        if any(instance for _, _, instance in parts):
            modes.add("mig")
        isolation = next(
            (_ISOLATION[mode] for mode in sorted(modes) if mode in _ISOLATION),
            Isolation.PRELOAD,
        )
        if known and memory >= total and isolation is Isolation.PRELOAD:
            isolation = Isolation.NONE
        return Share(tuple(devices), memory, Fraction(memory, total), isolation)

    def capacity(self, facts: Facts) -> list[Capacity]:
        """See :meth:`Backend.capacity`."""
        away = facts.away | _silent(facts)
        taken: dict[str, int] = {}
        kernels: dict[str, int] = {}
        for pod in facts.pods:
            for uuid, memory, _ in _allocated(pod):
                taken[uuid] = taken.get(uuid, 0) + memory
                kernels[uuid] = kernels.get(uuid, 0) + 1
        return [
            Capacity(
                uuid=gpu.uuid,
                model=gpu.model,
                node=gpu.node,
                memory_bytes=gpu.memory,
                free_bytes=(0 if gpu.node in away else max(0, gpu.memory - taken.get(gpu.uuid, 0))),
                kernels=kernels.get(gpu.uuid, 0),
            )
            for gpu in _open(facts)
        ]

    def explain(self, message: str) -> str | None:
        """See :meth:`Backend.explain`."""
        return next((words for reason, words in _REASONS.items() if reason in message), None)

    def examine(self, facts: Facts) -> list[Finding]:
        """See :meth:`Backend.examine`."""
        if "nodes" in facts.missing:
            return [nodes_unread("which GPUs there are is not known")]
        gpus = _gpus(facts)
        if not gpus:
            return [
                Finding(
                    "error",
                    "No node has registered GPUs with HAMi (annotation "
                    "hami.io/node-nvidia-register).",
                    "kubectl label node NODE gpu=on && kubectl get pods -A -l "
                    "app.kubernetes.io/component=hami-device-plugin",
                )
            ]
        modes = ", ".join(sorted({gpu.mode for gpu in gpus}))
        findings = [Finding("ok", f"HAMi shares {len(gpus)} GPUs (mode {modes}).")]
        if "pods" in facts.missing:
            findings.append(PODS_UNREAD)
        return findings


def _open(facts: Facts) -> list[_Gpu]:
    """Those on nodes that kernels may go to."""
    barred = facts.barred
    return [gpu for gpu in _gpus(facts) if gpu.node not in barred]


def _silent(facts: Facts) -> frozenset[str]:
    """Names of nodes whose device plugin HAMi's scheduler does not hear: it puts nothing there."""
    return frozenset(
        dig(node, "metadata", "name", default="")
        for node in facts.nodes
        if dig(node, "metadata", "annotations", _HANDSHAKE, default="").startswith(_SILENT)
    )


def _coming(facts: Facts) -> list[_Gpu]:
    """One of each declared kind of which a node may still come."""
    return [
        _Gpu("", "", kind.told.model or "GPU", kind.told.memory, "hami-core")
        for kind in facts.coming
        if kind.told.profile is None
    ]


def _gpus(facts: Facts) -> list[_Gpu]:
    found = []
    for node in facts.nodes:
        text = dig(node, "metadata", "annotations", _REGISTER, default="")
        name = dig(node, "metadata", "name", default="")
        found += list(_registered(text.strip(), name))
    return found


def _registered(text: str, node: str) -> Iterator[_Gpu]:
    """Healthy GPUs in a node's annotation: a list in JSON, or as older versions wrote it."""
    if text.startswith("["):
        try:
            rows = json.loads(text)
            for row in rows:
                if row.get("health"):
                    yield _Gpu(
                        uuid=str(row["id"]),
                        node=node,
                        model=_model(str(row.get("type", ""))),
                        memory=int(row["devmem"]) * MIB,
                        mode=str(row.get("mode") or "hami-core"),
                    )
        except (AttributeError, KeyError, TypeError, ValueError):
            return
        return
    for row in text.split(":"):
        # uuid, number of shares, MiB, compute, model, NUMA node, healthy[, index, mode]
        fields = [field.strip() for field in row.split(",")]
        if len(fields) >= 7 and fields[2].isdecimal() and fields[6] == "true":
            mode = fields[8] if len(fields) > 8 and fields[8] else "hami-core"
            yield _Gpu(fields[0], node, _model(fields[4]), int(fields[2]) * MIB, mode)


def _model(text: str) -> str:
    """Without the vendor, which comes first: ``NVIDIA-NVIDIA A100-SXM4-80GB``."""
    return text.removeprefix("NVIDIA-") or "GPU"


def _allocated(pod: Object) -> Iterator[tuple[str, int, bool]]:
    """GPUs of a pod's containers: which, bytes, and whether it is a MIG instance of it."""
    text = dig(pod, "metadata", "annotations", _ALLOCATED, default="")
    for container in text.split(";"):
        for row in container.split(":"):
            fields = row.split(",")
            if len(fields) >= 3 and fields[0] and fields[2].isdecimal():
                uuid = _INSTANCE.sub("", fields[0])
                yield uuid, int(fields[2]) * MIB, uuid != fields[0]
