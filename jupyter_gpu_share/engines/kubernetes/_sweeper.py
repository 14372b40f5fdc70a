"""Removes what ended kernels and dead servers have left in the namespace.

Each server process says by a Lease that it is alive. A pod that runs ends itself when no server is
heard; one that never came to run has no agent to do that, and is deleted when its server's Lease
has run out: when it was not seen to change for as long as it is valid. So is what remains of pods
that have ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone

from ..._threads import stopped, within
from .._processes import Holder, boot_id, this_process
from . import _failures as failures
from ._as_read import delete_as_read
from ._cluster import Cluster, Object
from ._names import MANAGED, PART, PREFIX, SERVER, annotation, label, selector
from ._observed import Observed
from .api import LEASES, PODS, AlreadyExists, Conflict, Forbidden, KubernetesError, NotFound

__all__ = ["Sweeper"]

_log = logging.getLogger(__name__)

#: A server is taken for dead after this many renewals that did not come.
_MISSED = 3
_LONGEST_RENEWAL = 20.0
#: Seconds that it may take to take the sign of life away as the process ends.
_FAREWELL = 5.0
#: Seconds after which whoever made a pod, or takes its kernel over, would have gone on with it.
_SETTLED = 10.0
#: Where many servers share a namespace, each looks at what the others have left in every n-th sweep
#: only, so that all of them together look about as often as one alone would; n is at most this.
_SELDOMEST = 10
#: Annotation of a Lease: the process that renews it.
_PROCESS = PREFIX + "process"


class Sweeper:
    """Sweeps one namespace, and keeps this server's own sign of life.

    Parameters
    ----------
    own: whether a pod is of a kernel that this process runs.
    alive: whether the process whose a pod is lives, where that is known otherwise: then this
        process shows no Lease of its own, and looks at no others.
    """

    def __init__(
        self,
        cluster: Cluster,
        own: Callable[[Object], bool],
        alive: Callable[[Object], bool] | None = None,
    ) -> None:
        self._cluster = cluster
        self._own = own
        self._alive = alive
        #: The Leases of server processes, and pods that wait.
        self.signs, self.pending = Observed(), Observed()
        self._task: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._interval = cluster.settings.sweep_interval
        #: Sweeps until what others have left is looked at, and how many of their Leases there are.
        self._rest, self._others = 0, 0
        self._renewal = min(_LONGEST_RENEWAL, self._interval / 2)

    @property
    def lease_name(self) -> str:
        """Name of this process's Lease."""
        return _lease_name(self._cluster.server, self._cluster.instance)

    async def start(self) -> None:
        """Show that this process lives, and begin to sweep."""
        if self._alive is None:
            with suppress(Forbidden):
                await self._renew()
            self._renewing = asyncio.create_task(self._renew_always(), name="server lease")
        self._task = asyncio.create_task(self._sweep_always(), name="sweeper")

    async def close(self) -> None:
        """End, and take the sign of life away."""
        await stopped(self._task, self._renewing)
        if self._alive is not None:
            return
        with suppress(KubernetesError, asyncio.TimeoutError):
            api, space = self._cluster.api, self._cluster.namespace
            await within(_FAREWELL, api.delete(LEASES, self.lease_name, space))

    # -- the sign of life --------------------------------------------------------------------

    async def _renew_always(self) -> None:
        while True:
            await asyncio.sleep(self._renewal)
            try:
                await self._renew()
            except KubernetesError as error:
                _log.info("The server's Lease could not be renewed: %s", error)

    async def _renew(self) -> None:
        now = _timestamp(datetime.now(timezone.utc))
        spec = {
            "holderIdentity": self._cluster.instance,
            "leaseDurationSeconds": max(1, round(self._renewal * _MISSED)),
            "renewTime": now,
        }
        api, space = self._cluster.api, self._cluster.namespace
        try:
            await api.patch(LEASES, self.lease_name, {"spec": spec}, space)
        except NotFound:
            body = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {
                    "name": self.lease_name,
                    "labels": {
                        MANAGED[0]: MANAGED[1],
                        SERVER: self._cluster.server,
                        PART: "server",
                    },
                    "annotations": {_PROCESS: _this_process()},
                },
                "spec": spec,
            }
            with suppress(AlreadyExists):
                await api.create(LEASES, body, space)

    async def owner_alive(self, pod: Object) -> bool:
        """Whether the process whose a pod is still renews its Lease, or may.

        Of one that was not looked at before that is not known until its Lease could have run out.
        """
        if self._alive is not None:
            return self._alive(pod)
        instance = annotation(pod, "instance")
        if instance == self._cluster.instance:
            return True
        name = _lease_name(label(pod, SERVER), instance)
        try:
            lease = await self._cluster.api.get(LEASES, name, self._cluster.namespace)
        except NotFound:
            return False
        except Forbidden:
            return True
        return not self._run_out(lease) and not _known_dead(lease)

    def _run_out(self, lease: Object, grace: float = 0.0) -> bool:
        spec = lease.get("spec") or {}
        sign = (lease["metadata"]["uid"], spec.get("holderIdentity"), spec.get("renewTime"))
        valid = float(spec.get("leaseDurationSeconds") or 0)
        return self.signs.age(lease["metadata"]["name"], sign) > valid + grace

    # -- sweeping ----------------------------------------------------------------------------

    async def _sweep_always(self) -> None:
        while True:
            try:
                await self.sweep()
            except KubernetesError as error:
                _log.info("The sweep could not be finished: %s", error)
            except Exception:
                _log.exception("The sweep met an error of its own")
            await asyncio.sleep(self._interval)

    async def sweep(self) -> None:
        """Look once through what this package has in the namespace.

        Raises
        ------
        KubernetesError
        """
        alive: dict[tuple[str, str], bool] = {}
        pods = list(self._cluster.pods.objects.values())
        everywhere = self._rest <= 0
        if everywhere:
            pods += await self._pods_of_others()
            self.pending.keep([pod["metadata"]["uid"] for pod in pods])
        by_uid = {pod["metadata"]["uid"]: pod for pod in pods}
        for pod in pods:
            if self._cluster.is_own(pod) and self._own(pod):
                continue
            if pod["metadata"].get("deletionTimestamp"):
                continue
            phase = (pod.get("status") or {}).get("phase")
            kernel = _kernel_of(pod, by_uid)
            instance = annotation(kernel, "instance")
            ended = failures.end_of(pod, None) is not None
            if ended or (phase == "Pending" and self._settled(pod)):
                whose = label(kernel, SERVER), instance
                if whose not in alive:
                    alive[whose] = await self.owner_alive(kernel)
                over = not alive[whose] or instance == self._cluster.instance
                if over and (kernel is pod or await self._still(kernel, instance)):
                    await self._delete(pod)
        if everywhere and self._alive is None:
            await self._sweep_leases(pods)
            self._rest = min(self._others + 1, _SELDOMEST)
        self._rest -= 1

    async def _pods_of_others(self) -> list[Object]:
        """Pods of this package in the namespace that are not this server's.

        They may come from the API server's memory: what is deleted is deleted as it was seen, or
        not at all.
        """
        if self._cluster.everybody:
            return []
        server = self._cluster.server
        query = {"labelSelector": f"{selector()},{SERVER}!={server}", "resourceVersion": "0"}
        pods, _ = await self._cluster.api.list(PODS, self._cluster.namespace, **query)
        return [pod for pod in pods if label(pod, SERVER) != server]

    async def _still(self, kernel: Object, instance: str) -> bool:
        """Whether a kernel is a process's now, as it was when it was seen, or is gone.

        When it is taken over, what holds its share does not change: it could be deleted as seen.
        """
        name = kernel["metadata"]["name"]
        try:
            now = await self._cluster.api.get(PODS, name, self._cluster.namespace)
        except NotFound:
            return True
        return annotation(now, "instance") == instance

    def _settled(self, pod: Object) -> bool:
        return self.pending.age(pod["metadata"]["uid"], None) > _SETTLED

    async def _delete(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        try:
            await delete_as_read(self._cluster, PODS, pod, grace=1)
            _log.info("Removed the pod %s of a server that is gone", name)
        except Forbidden:
            _log.debug("The pod %s belongs to another server", name)
        except Conflict:
            _log.debug("The pod %s has changed, and is judged anew", name)

    async def _sweep_leases(self, pods: list[Object]) -> None:
        query = {"labelSelector": selector(part="server")}
        leases: list[Object] = []
        with suppress(Forbidden):
            leases, _ = await self._cluster.api.list(LEASES, self._cluster.namespace, **query)
            self.signs.keep([lease["metadata"]["name"] for lease in leases])
            servers = [label(lease, SERVER) for lease in leases]
            self._others = sum(server != self._cluster.server for server in servers)
            self._cluster.queue.alone = not self._others
        for lease in leases:
            # A while longer than it is valid: its pods are judged by it.
            over = self._run_out(lease, 2 * self._interval) or _known_dead(lease)
            if over and not _has_pods(lease, pods):
                with suppress(Forbidden, Conflict):  # another server's, or renewed just now
                    await delete_as_read(self._cluster, LEASES, lease)


def _has_pods(lease: Object, pods: list[Object]) -> bool:
    holder = lease["spec"].get("holderIdentity")
    return any(annotation(pod, "instance") == holder for pod in pods)


def _kernel_of(pod: Object, by_uid: Mapping[str, Object]) -> Object:
    """The pod that tells whose a pod is: what holds a share goes with its kernel to who has it."""
    owners = pod["metadata"].get("ownerReferences") or []
    return next((by_uid[each["uid"]] for each in owners if each["uid"] in by_uid), pod)


def _lease_name(server: str, instance: str) -> str:
    return f"gpu-share-{server}-{instance[:8]}"


def _this_process() -> str:
    """Where this process runs and which it is, for a later one that runs in the same place."""
    holder = this_process()
    where = {"host": socket.gethostname(), "boot": boot_id()}
    return json.dumps({**where, "pid": holder.pid, "start": holder.start_time})


def _known_dead(lease: Object) -> bool:
    """Whether the process ran in this very place, and is gone: its Lease need not run out."""
    try:
        told = json.loads(lease["metadata"]["annotations"][_PROCESS])
        here = told["host"] == socket.gethostname() and told["boot"] == boot_id()
        return here and not Holder(int(told["pid"]), told["start"]).alive
    except (KeyError, TypeError, ValueError):
        return False


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
