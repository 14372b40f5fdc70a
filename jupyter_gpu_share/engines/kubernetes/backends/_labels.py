"""What labels of a node tell of its GPUs: those of NVIDIA and those of clouds. Pure.

Names of labels are those of NVIDIA's GPU feature discovery, of GKE, and of Karpenter on AWS, in EKS
Auto Mode and on Azure. Where several tell the same, NVIDIA's is taken: it has looked at the GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

__all__ = ["MIB", "PREFIX", "TELLING", "Told", "mig_resource", "number_in", "profile_in", "told_by"]

MIB = 2**20
PREFIX = "nvidia.com/"
_MIG_RESOURCE = PREFIX + "mig-"
_MIG = re.compile(r"-MIG-(.+)")
#: ``1g.10gb``, ``1c.3g.20gb`` and what a label or a resource has in place of ``1g.10gb+me``.
_PROFILE = re.compile(r"((?:\d+c\.)?\d+g\.\d+gb)(?:[.+](?!shared$)(.+))?", re.ASCII)
_GKE = "cloud.google.com/"
#: Karpenter's, on AWS, in EKS Auto Mode and on Azure, which tells no memory.
_KARPENTER = (
    "karpenter.k8s.aws/instance-gpu-",
    "eks.amazonaws.com/instance-gpu-",
    "karpenter.azure.com/sku-gpu-",
)
#: What GKE calls a strategy, by what NVIDIA does.
_GKE_SHARING = {"time-sharing": "time-slicing", "mps": "mps"}
#: Labels by which nodes with GPUs are told apart.
TELLING = (
    *(
        PREFIX + end
        for end in ("gpu.replicas", "gpu.sharing-strategy", "gpu.memory", "gpu.product")
    ),
    _GKE + "gke-accelerator",
    _GKE + "gke-gpu-sharing-strategy",
    _GKE + "gke-max-shared-clients-per-gpu",
    _GKE + "gke-gpu-partition-size",
    *(prefix + end for prefix in _KARPENTER for end in ("name", "count")),
)


@dataclass(frozen=True)
class Told:
    """What is told of a node's GPUs; empty or 0 where it is not.

    Attributes
    ----------
    model: such as ``NVIDIA-A100-SXM4-80GB``.
    profile: of the MIG instances that ``nvidia.com/gpu`` stands for.
    memory: bytes of each GPU, or of each such instance.
    count: number of GPUs, or of such instances.
    replicas: of each; 1 where they are not shared.
    sharing: ``none``, ``time-slicing`` or ``mps``.
    """

    model: str = ""
    profile: str | None = None
    memory: int = 0
    count: int = 0
    replicas: int = 0
    sharing: str = ""

    def __or__(self, other: Told) -> Told:
        """With what only the other tells."""
        missing = {
            each.name: getattr(other, each.name)
            for each in fields(self)
            if not getattr(self, each.name)
        }
        return replace(self, **missing)


def told_by(labels: Mapping[str, str]) -> Told:
    """What a node's labels tell."""
    return _nvidia(labels) | _gke(labels) | _karpenter(labels)


def _nvidia(labels: Mapping[str, str]) -> Told:
    product = labels.get(PREFIX + "gpu.product", "")
    shared, name = product.endswith("-SHARED"), product.removesuffix("-SHARED")
    instance = _MIG.search(name)
    replicas = number_in(labels, PREFIX + "gpu.replicas")
    sharing = labels.get(PREFIX + "gpu.sharing-strategy", "")
    if not sharing and replicas:
        # Older versions tell of replicas only, and know of time-slicing only.
        sharing = "time-slicing" if shared or replicas > 1 else "none"
    memory = number_in(labels, PREFIX + "gpu.memory")
    return Told(
        model=_MIG.sub("", name),
        profile=profile_in(instance[1]) if instance else None,
        # In MiB; some versions have written bytes.
        memory=memory if memory >= 2**20 else memory * MIB,
        count=number_in(labels, PREFIX + "gpu.count"),
        replicas=replicas or int(sharing == "none"),
        sharing=sharing or ("time-slicing" if shared else ""),
    )


def _gke(labels: Mapping[str, str]) -> Told:
    model = labels.get(_GKE + "gke-accelerator", "")
    if not model:
        return Told()
    # GKE labels every node whose GPUs it shares: without the label they are not.
    strategy = labels.get(_GKE + "gke-gpu-sharing-strategy", "")
    return Told(
        model=model.upper(),
        profile=profile_in(labels.get(_GKE + "gke-gpu-partition-size", "")),
        replicas=number_in(labels, _GKE + "gke-max-shared-clients-per-gpu") if strategy else 1,
        sharing=_GKE_SHARING.get(strategy, "time-slicing") if strategy else "none",
    )


def _karpenter(labels: Mapping[str, str]) -> Told:
    # Of the machine as the cloud describes it: how the device plugin shares its GPUs, it does not
    # tell.
    told = Told()
    for prefix in _KARPENTER:
        told |= Told(
            model=labels.get(prefix + "name", "").upper(),
            memory=number_in(labels, prefix + "memory") * MIB,
            count=number_in(labels, prefix + "count"),
        )
    return told


def number_in(labels: Mapping[str, str], label: str) -> int:
    """An integer among labels; 0 if it is not there."""
    text = labels.get(label, "")
    return int(text) if text.isdecimal() else 0


def profile_in(text: str) -> str | None:
    """The MIG profile that a resource such as ``nvidia.com/mig-1g.10gb``, or a label, names.

    With the sign that names have neither here nor there: ``1g.10gb+me`` for ``1g.10gb.me``.
    """
    match = _PROFILE.fullmatch(text.removeprefix(_MIG_RESOURCE))
    if match is None:
        return None
    return f"{match[1]}+{match[2]}" if match[2] else match[1]


def mig_resource(profile: str) -> str:
    """The extended resource of a MIG profile; no name of one has a ``+``."""
    return _MIG_RESOURCE + profile.replace("+", ".")
