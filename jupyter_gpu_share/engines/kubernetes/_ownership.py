"""Whose a kernel's pod is. That is written on it, and only as it was read last.

A process that was taken for dead may go on: it was stopped, or its network was. So a name is no
proof of what belongs to whom, and what a process owned once it does not own for ever.
"""

from __future__ import annotations

from collections.abc import Collection

from ...errors import KernelStartError
from ...sentences import say
from ._cluster import Cluster, Object
from ._link import Owned
from ._names import PREFIX, SERVER, annotation, label
from ._objects import Owner
from .api import PODS, Conflict, NotFound

__all__ = ["TAKEN_OVER", "claim_pod", "delete_own", "taken_over"]

TAKEN_OVER = "Another Jupyter server of the same name runs this kernel."


async def claim_pod(
    cluster: Cluster, owner: Owner, name: str, before: str, also: Collection[str] = ()
) -> Object:
    """Write on a pod that it is the owner's process's now; the pod as it is then.

    Parameters
    ----------
    owner: whose it is to be; a pod of another server is never.
    before: the process whose it was, which has ended.
    also: others whose it may be, as they have asked for it and were not answered.

    Raises
    ------
    Owned: another process of this server was faster.
    KernelStartError: somebody has deleted it.
    KubernetesError
    """
    api, space = cluster.api, cluster.namespace
    while True:
        pod = await api.get(PODS, name, space)
        if pod["metadata"].get("deletionTimestamp"):
            raise KernelStartError(say("pod-deleted"))
        whose, ours = annotation(pod, "instance"), label(pod, SERVER) == owner.server
        if ours and whose == owner.instance:
            return pod  # it was written, though the answer was lost
        if not ours or (whose != before and whose not in also):
            raise Owned(TAKEN_OVER)
        change = {
            "metadata": {
                "resourceVersion": pod["metadata"]["resourceVersion"],
                "annotations": {PREFIX + "instance": owner.instance, **owner.notes},
            }
        }
        try:
            return await api.patch(PODS, name, change, space)
        except Conflict:
            continue  # something else of it has changed meanwhile


async def delete_own(
    cluster: Cluster, owner: Owner, name: str, *, grace: int = 1, also: Collection[str] = ()
) -> None:
    """Delete a pod, unless it is gone or another process has it by now.

    Parameters
    ----------
    grace: seconds that it has to end in order.
    also: see :func:`claim_pod`.

    Raises
    ------
    KubernetesError
    """
    api, space = cluster.api, cluster.namespace
    while True:
        try:
            pod = await api.get(PODS, name, space)
        except NotFound:
            return
        if annotation(pod, "instance") not in {owner.instance, *also}:
            return
        meta = pod["metadata"]
        uid, version = meta["uid"], meta["resourceVersion"]
        try:
            await api.delete(PODS, name, space, grace=grace, uid=uid, version=version)
        except Conflict:
            continue
        return


def taken_over(pod: Object, instance: str, since: str, also: Collection[str] = ()) -> bool:
    """Whether a pod that was a process's at the version ``since`` is another's now.

    Parameters
    ----------
    also: see :func:`claim_pod`.
    """
    later = int(pod["metadata"]["resourceVersion"]) > int(since)  # numbers that count on
    return later and annotation(pod, "instance") not in {instance, *also}
