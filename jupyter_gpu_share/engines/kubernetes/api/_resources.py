"""The kinds of objects that the engine works with, and where the API serves them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

__all__ = [
    "CLAIMS",
    "CLASSES",
    "CONFIG_MAPS",
    "EVENTS",
    "LEASES",
    "NAMESPACES",
    "NODES",
    "PODS",
    "SECRETS",
    "SLICES",
    "Resource",
]


@dataclass(frozen=True)
class Resource:
    """A kind of object. ``group`` is empty for the core API."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As objects carry it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Path of the collection, or of one object. Without a namespace: of all namespaces.

        Raises
        ------
        ValueError: no object can have such a name, or it needs a namespace.
        """
        path = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if self.namespaced and namespace:
            path += f"/namespaces/{_segment(namespace)}"
        path += f"/{self.plural}"
        if name is None:
            return path
        if self.namespaced and not namespace:
            raise ValueError(f"{self.kind} {name!r} without a namespace")
        return f"{path}/{_segment(name)}"


def _segment(name: str) -> str:
    # What is deleted at an empty name are all the objects of the collection.
    if name in ("", ".", "..") or "/" in name:
        raise ValueError(f"Kubernetes has no objects with the name {name!r}")
    return quote(name, safe="")


PODS = Resource("", "v1", "pods", "Pod")
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
EVENTS = Resource("", "v1", "events", "Event")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim")
SLICES = Resource("resource.k8s.io", "v1", "resourceslices", "ResourceSlice", namespaced=False)
CLASSES = Resource("resource.k8s.io", "v1", "deviceclasses", "DeviceClass", namespaced=False)
TAINT_RULES = Resource(
    "resource.k8s.io", "v1", "devicetaintrules", "DeviceTaintRule", namespaced=False
)
QUEUES = Resource("scheduling.run.ai", "v2", "queues", "Queue", namespaced=False)
