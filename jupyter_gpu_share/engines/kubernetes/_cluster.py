"""What all kernels of one server share of a cluster: access, watches, knowledge of its GPUs."""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import zmq.asyncio

from ...allocations import QueuePosition
from ...errors import EngineError, NoGpuError
from ...size import Size
from ._events import Events
from ._names import PART, SERVER, label, selector, server_name
from ._pods import files_body
from ._settings import KubernetesSettings
from .api import (
    CLAIMS,
    CLASSES,
    CONFIG_MAPS,
    NODES,
    PODS,
    SLICES,
    AlreadyExists,
    Change,
    Forbidden,
    KubeApi,
    KubernetesError,
    NotFound,
    Resource,
    Watch,
)
from .backends import (
    Backend,
    Facts,
    Rendered,
    UndecidedBackend,
    asks_for_gpus,
    dig,
    make_backend,
    trimmed,
)
from .backends import detect as detect_backends

__all__ = ["Cluster", "Object"]

Object = dict[str, Any]

#: Seconds that knowledge of GPUs and of who holds what is used before it is read again.
_STALE_GPUS, _STALE_CLAIMS = 120.0, 1.0
#: GPUs change seldom; not even whoever wants to know exactly has them read all the time.
_STALE_NODES = 30.0

#: What can be known of GPUs, and who holds them: by the API's plural, where it goes in the facts.
_GPUS: dict[str, tuple[str, Resource]] = {
    "nodes": ("nodes", NODES),
    "resourceslices": ("slices", SLICES),
    "deviceclasses": ("device_classes", CLASSES),
}
_HOLDERS: dict[str, tuple[str, Resource]] = {
    "resourceclaims": ("claims", CLAIMS),
    "pods": ("pods", PODS),
}


class Cluster:
    """Access to one namespace. Belongs to the event loop that it is opened on.

    Parameters
    ----------
    changed: told of every change of a pod or claim of this package in the namespace.
    """

    def __init__(self, settings: KubernetesSettings, changed: Callable[[Change], None]) -> None:
        self.settings = settings
        self.instance = uuid4().hex
        self.api = KubeApi(settings.kubeconfig, settings.context)
        self.namespace = ""
        self.server = ""
        self.files = ""
        self.facts = Facts()
        self.backend: Backend
        self.events: Events
        self.zmq = zmq.asyncio.Context()
        self.pods: Watch
        self.claims: Watch | None = None
        self._changed = changed
        #: What is read, in the API's plural: until a backend is chosen, what shows which there is.
        self._reads = frozenset(_GPUS)
        self._read: dict[str, float] = {}
        self._refreshing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Get to know the cluster and begin to watch.

        Raises
        ------
        KubernetesError: it cannot be reached, or refuses.
        EngineError: there is no sharing backend.
        """
        groups = await self.api.groups()
        self.namespace = self.settings.namespace or self.api.namespace or "default"
        self.server = self.settings.server_name or await self._own_name()
        if server_name(self.server) != self.server:
            self.server = server_name(self.server)
        self.events = Events(self.api, self.namespace)
        settings = self.settings
        self.facts = Facts(groups=groups, placement=settings.placement, kinds=settings.declared)
        if settings.backend == "auto":
            await self._read_old(_STALE_GPUS, slices=True)
        await self._decide()
        await self.refresh(_STALE_GPUS, slices=True)
        period = self.settings.watch_period
        self.pods = Watch(
            self.api, PODS, self.namespace, self._changed, selector=selector(), period=period
        )
        self.pods.start()
        await self.pods.synced()
        await self._put_files()

    async def close(self) -> None:
        """Let go of everything."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await self._refreshing
        for watch in (getattr(self, "pods", None), self.claims):
            if watch is not None:
                await watch.close()
        if hasattr(self, "events"):
            await self.events.close()
        await self.api.close()
        self.zmq.destroy(linger=100)

    async def _own_name(self) -> str:
        """This server's identity: the same after a restart, another for every other server."""
        with suppress(KubernetesError):
            review = Resource(
                "authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", False
            )
            body = {"apiVersion": review.api_version, "kind": review.kind}
            who = (await self.api.create(review, body))["status"]["userInfo"]["username"]
            if who.startswith("system:serviceaccount:"):
                return str(who.rpartition(":")[2])
        if hub_user := os.environ.get("JUPYTERHUB_USER"):
            return f"{hub_user}-{os.environ.get('JUPYTERHUB_SERVER_NAME', '')}".strip("-")
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
        where = f"{user}\0{socket.gethostname()}\0{await asyncio.to_thread(Path.cwd)}"
        return f"server-{hashlib.sha256(where.encode()).hexdigest()[:16]}"

    def _choose(self) -> Backend:
        settings, wanted = self.settings, self.settings.backend
        if wanted == "auto":
            found = detect_backends(self.facts)
            if found:
                wanted = found[0]
            elif "resourceslices" in self.facts.missing:
                wanted = "dra"  # it tells what the missing right costs
            else:
                return UndecidedBackend()
        return make_backend(wanted, settings.backend_options, settings.style)

    @property
    def undecided(self) -> bool:
        """Whether nothing has shown yet how the cluster splits its GPUs."""
        return isinstance(self.backend, UndecidedBackend)

    async def _decide(self) -> None:
        """Choose the backend, and have what it reads."""
        self.backend = self._choose()
        self._reads = self.backend.reads | self.backend.uses
        dra = self.backend.name == "dra" and CLAIMS.api_version in self.facts.groups
        if dra and self.claims is None:
            self.claims = Watch(
                self.api,
                CLAIMS,
                self.namespace,
                self._changed,
                selector=selector(),
                period=self.settings.watch_period,
            )
            self.claims.start()
            await self.claims.synced()

    async def _put_files(self) -> None:
        """Have the kernel-side files in the namespace; they are shared by all of its servers."""
        body = files_body()
        self.files = body["metadata"]["name"]
        try:
            await self.api.create(CONFIG_MAPS, body, self.namespace)
        except AlreadyExists:
            found = await self.api.get(CONFIG_MAPS, self.files, self.namespace)
            if found.get("data") != body["data"]:
                raise EngineError(
                    f"The ConfigMap {self.files} of the namespace {self.namespace} holds something "
                    "else than this package's files. Delete it."
                ) from None

    # -- knowledge of the GPUs ---------------------------------------------------------------

    async def refresh(self, stale: float = _STALE_CLAIMS, *, slices: bool = False) -> Facts:
        """Read again what is older than ``stale`` seconds; with ``slices`` only the GPUs.

        Raises
        ------
        KubernetesError
        EngineError: the backend that is found now cannot be used with the settings.
        """
        await self._read_old(stale, slices=slices)
        if self.undecided:
            await self._decide()
            await self._read_old(stale, slices=slices)
        return self.facts

    async def render(self, size: Size) -> Rendered:
        """What a pod of this size asks for. A refusal counts only by what was read just now.

        Raises
        ------
        NoGpuError: no GPU of this cluster could ever hold the size.
        KubernetesError, EngineError
        """
        try:
            return self.backend.render(size, self.facts_for(size))
        except NoGpuError:
            await self.refresh(0.0, slices=True)
            return self.backend.render(size, self.facts_for(size))

    async def know_node(self, name: str) -> None:
        """Read the GPUs again if a node is not known: it has just come, and only it tells of them.

        Without the right to read them, or an answer, what is known has to do.
        """
        known = {dig(node, "metadata", "name") for node in self.facts.nodes}
        known |= {dig(each, "spec", "nodeName") for each in self.facts.slices}
        if name in known:
            return
        for key in ("nodes", "slices"):
            self._read.pop(key, None)
        with suppress(KubernetesError, EngineError):
            await self.refresh(_STALE_GPUS, slices=True)

    def facts_for(self, size: Size, facts: Facts | None = None) -> Facts:
        """What is known, for kernels of a size: they may go to some nodes only."""
        facts = facts or self.facts
        placement = facts.placement + self.settings.profile(size).placement
        return replace(facts, placement=placement)

    async def _read_old(self, stale: float, *, slices: bool) -> None:
        kinds = {} if slices else {what: (*place, stale) for what, place in _HOLDERS.items()}
        age = max(stale, _STALE_NODES)
        kinds |= {what: (*place, age) for what, place in _GPUS.items()}
        wanted = [
            (field, resource, age)
            for what, (field, resource, age) in kinds.items()
            if what in self._reads and resource.api_version in {"v1", *self.facts.groups}
        ]
        now = time.monotonic()
        due = [
            (key, resource)
            for key, resource, age in wanted
            if now - self._read.get(key, -1e9) > age
        ]
        results = await asyncio.gather(
            *(self._list(resource) for _, resource in due), return_exceptions=True
        )
        missing = set(self.facts.missing)
        changes: dict[str, Any] = {}
        for (key, resource), result in zip(due, results, strict=True):
            if isinstance(result, Forbidden | NotFound):
                missing.add(resource.plural)
            elif isinstance(result, BaseException):
                raise result
            else:
                missing.discard(resource.plural)
                changes[key] = result
            self._read[key] = now
        self.facts = replace(self.facts, missing=frozenset(missing), **changes)

    async def _list(self, resource: Resource) -> list[Object]:
        if resource is PODS:
            # Only those that run or wait take anything of a GPU.
            query = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}
            return await self.api.select(PODS, None, _about_gpus, **query)
        items, _ = await self.api.list(resource)
        return items

    def refresh_soon(self) -> None:
        """Read again in the background what is old; a launch does not wait for it."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh_quietly())

    async def _refresh_quietly(self) -> None:
        with suppress(KubernetesError, EngineError):
            await self.refresh(_STALE_GPUS, slices=True)

    # -- what the watches know ---------------------------------------------------------------

    def pod(self, name: str) -> Object | None:
        """A pod as it is."""
        return self.pods.objects.get(name)

    def claims_of(self, names: set[str]) -> list[Object]:
        """Claims as they are."""
        if self.claims is None:
            return []
        return [obj for name, obj in self.claims.objects.items() if name in names]

    def own_claims(self, prefix: str) -> dict[str, Object]:
        """This server's claims whose names begin so.

        Another server of the namespace can give a claim such a name, but not this label.
        """
        return {
            name: claim
            for name, claim in (self.claims.objects if self.claims is not None else {}).items()
            if name.startswith(prefix) and label(claim, SERVER) == self.server
        }

    def own_names(self, prefix: str) -> set[str]:
        """Names of this server's pods and claims that begin so."""
        pods = self.pods.objects.items()
        named = {
            name
            for name, pod in pods
            if name.startswith(prefix) and label(pod, SERVER) == self.server
        }
        return named | self.own_claims(prefix).keys()

    def waiting(self) -> list[str]:
        """Names of the pods that wait for a place, in the order of their creation."""
        part = "lease" if self.settings.style == "lease" else "kernel"
        pods = [
            (pod["metadata"]["creationTimestamp"], name)
            for name, pod in self.pods.objects.items()
            if label(pod, PART) == part
            and not pod.get("spec", {}).get("nodeName")
            and not pod["metadata"].get("deletionTimestamp")
            and (pod.get("status") or {}).get("phase", "Pending") == "Pending"
        ]
        return [name for _, name in sorted(pods)]

    def place(self, name: str) -> QueuePosition:
        """A pod's place in that queue; the last one where it is not seen there yet."""
        waiting = self.waiting()
        position = waiting.index(name) + 1 if name in waiting else len(waiting) + 1
        return QueuePosition(position, max(len(waiting), position))


def _about_gpus(pod: Object) -> Object | None:
    """What is kept of a pod that may be anybody's."""
    return dict(trimmed(pod)) if asks_for_gpus(pod) else None
