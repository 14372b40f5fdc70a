"""Changes of an object as it was read: what has changed since is not written over.

What was checked on an object holds for that state of it alone. So the cluster is told which state
is meant, and refuses the change where there is a later one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ._cluster import Cluster, Object
from .api import PODS, Conflict, Resource

__all__ = ["delete_as_read", "patch_as_read", "until_unchanged"]

T = TypeVar("T")


async def until_unchanged(
    cluster: Cluster,
    name: str,
    write: Callable[[Object], Awaitable[T]],
    *,
    tries: int | None = None,
) -> T:
    """Read a pod and write it as it was read; again where something else changed it in between.

    Parameters
    ----------
    name: of the pod.
    write: is given the pod as it is. Checks it, then writes by the functions below, or not at all.
    tries: how often at most; None: until it is done.

    Raises
    ------
    Conflict: it was changed in between, at every try.
    NotFound: there is no such pod.
    KubernetesError
    """
    tried = 0
    while True:
        pod = await cluster.api.get(PODS, name, cluster.namespace)
        try:
            return await write(pod)
        except Conflict:
            tried += 1
            if tried == tries:
                raise


async def patch_as_read(
    cluster: Cluster, resource: Resource, read: Object, change: Object
) -> Object:
    """Change an object by a merge patch; the object as it is then.

    Raises
    ------
    Conflict: it has changed since it was read.
    KubernetesError
    """
    was = read["metadata"]
    meta = {**change.get("metadata", {}), "resourceVersion": was["resourceVersion"]}
    body = {**change, "metadata": meta}
    return await cluster.api.patch(resource, was["name"], body, cluster.namespace)


async def delete_as_read(
    cluster: Cluster, resource: Resource, read: Object, *, grace: int | None = None
) -> None:
    """Delete an object; nothing where it is gone.

    Parameters
    ----------
    grace: seconds for a pod to end by itself.

    Raises
    ------
    Conflict: it has changed since it was read.
    KubernetesError
    """
    was = read["metadata"]
    await cluster.api.delete(
        resource,
        was["name"],
        cluster.namespace,
        grace=grace,
        uid=was["uid"],
        version=was["resourceVersion"],
    )
