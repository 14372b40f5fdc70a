"""Whose a kernel's pod is. That is written on it, and only as it was read last.

A process that was taken for dead may go on: it was stopped, or its network was. So a name is no
proof of what belongs to whom, and what a process owned once it does not own for ever.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from ...errors import KernelStartError
from ...sentences import say
from ._as_read import delete_as_read, patch_as_read, until_unchanged
from ._cluster import Cluster, Object
from ._link import Owned
from ._names import PREFIX, SERVER, annotation, label
from ._objects import Owner
from .api import PODS, NotFound

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

    async def claim(pod: Object) -> Object:
        if pod["metadata"].get("deletionTimestamp"):
            raise KernelStartError(say("pod-deleted"))
        whose, ours = annotation(pod, "instance"), label(pod, SERVER) == owner.server
        if ours and whose == owner.instance:
            return pod  # it was written, though the answer was lost
        if not ours or (whose != before and whose not in also):
            raise Owned(TAKEN_OVER)
        notes = {PREFIX + "instance": owner.instance, **owner.notes}
        return await patch_as_read(cluster, PODS, pod, {"metadata": {"annotations": notes}})

    return await until_unchanged(cluster, name, claim)


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

    async def delete(pod: Object) -> None:
        if annotation(pod, "instance") in {owner.instance, *also}:
            await delete_as_read(cluster, PODS, pod, grace=grace)

    with suppress(NotFound):
        await until_unchanged(cluster, name, delete)


def taken_over(pod: Object, instance: str, since: str, also: Collection[str] = ()) -> bool:
    """Whether a pod that was a process's at the version ``since`` is another's now.

    Parameters
    ----------
    also: see :func:`claim_pod`.
    """
    later = int(pod["metadata"]["resourceVersion"]) > int(since)  # numbers that count on
    return later and annotation(pod, "instance") not in {instance, *also}
