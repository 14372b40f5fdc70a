"""What there is to know of GPUs and of who holds them, and how much of it is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .api import CLAIMS, CLASSES, NODES, PODS, SLICES, TAINT_RULES, Resource
from .backends import asks_for_gpus, trimmed

__all__ = ["GPUS", "HOLDERS", "kept_of"]

Object = dict[str, Any]

#: What can be known of GPUs, and who holds them: by the API's plural, where it goes in the facts.
GPUS: dict[str, tuple[str, Resource]] = {
    "nodes": ("nodes", NODES),
    "resourceslices": ("slices", SLICES),
    "deviceclasses": ("device_classes", CLASSES),
    "devicetaintrules": ("taint_rules", TAINT_RULES),
}
HOLDERS: dict[str, tuple[str, Resource]] = {
    "resourceclaims": ("claims", CLAIMS),
    "pods": ("pods", PODS),
}
#: Only those that run or wait take anything of a GPU.
_TAKING = "status.phase!=Succeeded,status.phase!=Failed"


def _about_gpus(pod: Object) -> Object | None:
    """What is kept of a pod that may be anybody's."""
    return dict(trimmed(pod)) if asks_for_gpus(pod) else None


def _without_images(obj: Object) -> Object:
    """An object without what is large and of no use here, such as a node's list of images."""
    obj["metadata"].pop("managedFields", None)
    (obj.get("status") or {}).pop("images", None)
    return obj


def kept_of(resource: Resource) -> tuple[Callable[[Object], Object | None], str]:
    """What is kept of the objects of the whole cluster, and which of them are asked for."""
    return (_about_gpus, _TAKING) if resource is PODS else (_without_images, "")
