"""What all kernels of one server share of a cluster: access, watches, knowledge of its GPUs."""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import os
import socket
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import zmq.asyncio

from ..._threads import stopped
from ...allocations import QueuePosition
from ...errors import EngineError, NoGpuError
from ...size import Size
from ..base import Capacity
from ._events import Events
from ._kept import GPUS, HOLDERS, kept_of
from ._live import Live
from ._names import SERVER, label, selector, server_name
from ._pods import files_body
from ._queue import Queue, waits
from ._settings import KubernetesSettings
from ._shared import Shared
from .api import (
    CLAIMS,
    CONFIG_MAPS,
    PODS,
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
    BACKENDS,
    Backend,
    Facts,
    Rendered,
    UndecidedBackend,
    make_backend,
)
from .backends import detect as detect_backends

__all__ = ["Cluster", "Object"]

Object = dict[str, Any]

#: Seconds that knowledge of GPUs and of who holds what is used before it is read again.
_STALE_GPUS, _STALE_CLAIMS = 120.0, 1.0
#: GPUs change seldom; not even whoever wants to know exactly has them read all the time.
_STALE_NODES = 30.0
#: Seconds that what is only shown may be old where it cannot be followed: after something of this
#: server has changed, and while nothing of it does.
_SHOWN, _UNCHANGED = 10.0, 60.0
#: Seconds until it is tried again whether a right to see who holds what was granted, and whether
#: one is back that was there: an API server that comes back refuses before it knows who may what.
_REFUSED, _WITHDRAWN = 600.0, 30.0
#: Of these a refusal is believed for long: they would be asked for all the time.
_ASKED_SELDOM = frozenset({*HOLDERS, "devicetaintrules"})


class Cluster:
    """Access to one namespace. Belongs to the event loop that it is opened on.

    Parameters
    ----------
    changed: told of every change of a pod or claim of this server.
    moved: told that the places of others in the queue may have changed.
    everybody: it is of no server, but of whoever makes kernels for all servers of the namespace:
        all their pods and claims are watched, and there are no others in the queue.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        changed: Callable[[Change], None],
        moved: Callable[[], None] = lambda: None,
        *,
        everybody: bool = False,
    ) -> None:
        self.settings = settings
        self.instance = uuid4().hex
        self.api = KubeApi(settings.kubeconfig, settings.context)
        self.namespace = ""
        #: Identity of this server; empty with ``everybody``.
        self.server = ""
        self.everybody = everybody
        self.files = ""
        self.facts = Facts()
        self.backend: Backend
        self.events: Events
        self.queue: Queue
        self.zmq = zmq.asyncio.Context()
        self.pods: Watch
        self.claims: Watch | None = None
        self._told = changed
        self._moved_others = moved
        #: Time of creation and name of each pod that waits, in order, where all are watched.
        self._line: list[tuple[str, str]] | None = None
        #: When something of this server has changed last; monotonic.
        self._moved = time.monotonic()
        #: What is read, in the API's plural: until a backend is chosen, what shows which there is.
        self._reads = UndecidedBackend.reads
        #: When what is known was read, and until when it is not asked for, by plural; monotonic.
        self._read: dict[str, float] = {}
        self._refused: dict[str, float] = {}
        self._readings: dict[str, Shared[list[Object]]] = {}
        self._live: Live | None = None
        #: What was shown last: what was known by lists and by watches, and both together.
        self._shown: tuple[Facts, dict[str, Any], Facts] | None = None
        #: What was shown of GPUs last, and by which backend and facts.
        self._counted: tuple[Backend, Facts, list[Capacity]] | None = None
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
        if not self.everybody:
            self.server = server_name(self.settings.server_name or await self._own_name())
        self.events = Events(self.api, self.namespace)
        settings = self.settings
        self.queue = Queue(
            self.api, self.namespace, self.server, self.queued_part, self._moved_others
        )
        self.facts = Facts(groups=groups, placement=settings.placement, kinds=settings.declared)
        if settings.backend == "auto":
            await self._read_old(_STALE_GPUS, slices=True)
        await self._decide()
        await self.refresh(_STALE_GPUS, slices=True)
        self.pods = self._watch(PODS)
        self.pods.start()
        await self.pods.synced()
        await self._put_files()

    async def close(self) -> None:
        """Let go of everything."""
        await stopped(self._refreshing)
        for reading in self._readings.values():
            await reading.close()
        for watch in (getattr(self, "pods", None), self.claims, self._looks):
            if watch is not None:
                await watch.close()
        for part in ("events", "queue"):
            if hasattr(self, part):
                await getattr(self, part).close()
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
            options = settings.backend_options.keys()
            fitting = [
                name
                for name in found
                if settings.style in BACKENDS[name].styles
                and options <= BACKENDS[name].options.keys()
            ]
            if found:
                wanted = (fitting or found)[0]  # of one that does not fit it is said why
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
            self.claims = self._watch(CLAIMS)
            self.claims.start()
            await self.claims.synced()

    def _watch(self, resource: Resource) -> Watch:
        """A watch of this server's objects; others' are no concern of its kernels."""
        whose = {} if self.everybody else {"server": self.server}
        return Watch(
            self.api,
            resource,
            self.namespace,
            self._changed if resource is PODS else self._tell,
            selector=selector(**whose),
            period=self.settings.watch_period,
        )

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

    async def refresh(
        self, stale: float = _STALE_CLAIMS, *, slices: bool = False, nodes: float = _STALE_NODES
    ) -> Facts:
        """Read again what is older than ``stale`` seconds; with ``slices`` only the GPUs.

        Parameters
        ----------
        nodes: seconds that what GPUs there are may be old in any case.

        Raises
        ------
        KubernetesError
        EngineError: the backend that is found now cannot be used with the settings.
        """
        await self._read_old(stale, slices=slices, nodes=nodes)
        if self.undecided:
            await self._decide()
            await self._read_old(stale, slices=slices, nodes=nodes)
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
            await self.refresh(_STALE_CLAIMS, slices=True, nodes=_STALE_CLAIMS)
            return self.backend.render(size, self.facts_for(size))

    async def know_node(self, name: str) -> None:
        """Read the GPUs again if none of a node is known: they have just come.

        A node is there before what makes its GPUs known. Without the right to read them, or an
        answer, what is known has to do.
        """
        if self.backend.knows_node(name, self.facts):
            return
        with suppress(KubernetesError):
            await self.read_gpus()

    async def read_gpus(self) -> None:
        """Read the GPUs again, however lately that was done.

        Raises
        ------
        KubernetesError
        """
        there = self._wanted(slices=True).keys() & {"nodes", "resourceslices"}
        await self._read_these(dict.fromkeys(there, 0.0))

    def facts_for(self, size: Size, facts: Facts | None = None) -> Facts:
        """What is known, for kernels of a size: they may go to some nodes only."""
        facts = facts or self.facts
        placement = facts.placement + self.settings.profile(size).placement
        return replace(facts, placement=placement)

    async def shown(self, *, now_and_then: bool = True) -> Facts:
        """What is known, for those who only look. While nothing changes it costs no request.

        No decision goes by it: it may be a moment old, and older where nothing may be watched.

        Parameters
        ----------
        now_and_then: where nothing may be watched, a list may be a minute old while nothing of this
            server changes; else ten seconds.

        Raises
        ------
        KubernetesError, EngineError
        """
        wanted, looks = self._wanted(slices=False), self._looks
        live = await asyncio.gather(
            *(looks.objects(resource, *kept_of(resource)) for _, resource in wanted.values())
        )
        seen = {what: items for what, items in zip(wanted, live, strict=True) if items is not None}
        # What was read after the last change of ours is as good as new to whoever looks.
        oldest = _UNCHANGED if now_and_then else _SHOWN
        age = min(max(time.monotonic() - self._moved, _SHOWN), oldest)
        await self._read_these({what: age for what in wanted if what not in seen})
        facts = self._with({wanted[what][0]: items for what, items in seen.items()}, seen.keys())
        if self.undecided and detect_backends(facts):
            return await self.refresh()
        return facts

    @property
    def _looks(self) -> Live:
        if self._live is None:
            self._live = Live(self.api, self.settings.watch_period)
        return self._live

    def _with(self, followed: dict[str, Any], which: Collection[str]) -> Facts:
        """What is known, with what is followed; the same object where nothing of it has changed."""
        if self._shown is not None:
            known, before, facts = self._shown
            same = before.keys() == followed.keys()
            if known is self.facts and same and all(before[k] is followed[k] for k in followed):
                return facts
        facts = replace(self.facts, missing=self.facts.missing.difference(which), **followed)
        self._shown = self.facts, followed, facts
        return facts

    async def capacity(self) -> list[Capacity]:
        """The GPUs with what is free of them, for those who only look, as `shown`.

        Raises
        ------
        KubernetesError, EngineError
        """
        facts = await self.shown()
        counted = self._counted
        if counted is None or counted[0] is not self.backend or counted[1] is not facts:
            # Thousands of pods and nodes are counted when one has changed, not for each look.
            counted = self._counted = self.backend, facts, self.backend.capacity(facts)
        return list(counted[2])

    @property
    def looked_at(self) -> list[Resource]:
        """What of the whole cluster is looked at for what is free."""
        return [resource for _, resource in self._wanted(slices=False).values()]

    def _wanted(self, *, slices: bool) -> dict[str, tuple[str, Resource]]:
        """What the backend reads and the cluster has; with ``slices`` only the GPUs."""
        kinds = GPUS if slices else {**HOLDERS, **GPUS}
        return {
            what: (field, resource)
            for what, (field, resource) in kinds.items()
            if what in self._reads and resource.api_version in {"v1", *self.facts.groups}
        }

    async def _read_old(self, stale: float, *, slices: bool, nodes: float = _STALE_NODES) -> None:
        await self._read_these(
            {
                what: max(stale, nodes) if what in GPUS else stale
                for what in self._wanted(slices=slices)
            }
        )

    async def _read_these(self, ages: Mapping[str, float]) -> None:
        """Read what is older than it may be, each in seconds. All who ask at once share a list."""
        now = time.monotonic()
        due = [
            (what, *(GPUS | HOLDERS)[what], now - age)
            for what, age in ages.items()
            if now - self._read.get(what, -1e9) > age and now > self._refused.get(what, -1e9)
        ]
        if not due:
            return
        results = await asyncio.gather(
            *(self._reading(resource).get(since) for _, _, resource, since in due),
            return_exceptions=True,
        )
        missing = set(self.facts.missing)
        changes: dict[str, Any] = {}
        for (what, field, _, _), result in zip(due, results, strict=True):
            if isinstance(result, Forbidden | NotFound):
                if what in _ASKED_SELDOM and now > self._refused.get(what, -1e9):
                    # It would be asked for all the time.
                    had = what in self._read and what not in self.facts.missing
                    self._refused[what] = now + (_WITHDRAWN if had else _REFUSED)
                missing.add(what)
                self._read[what] = now
            elif isinstance(result, BaseException):
                raise result
            elif result[1] >= self._read.get(what, -1e9):
                missing.discard(what)
                changes[field], self._read[what] = result
        self.facts = replace(self.facts, missing=frozenset(missing), **changes)

    def _reading(self, resource: Resource) -> Shared[list[Object]]:
        if resource.plural not in self._readings:
            self._readings[resource.plural] = Shared(partial(self._list, resource))
        return self._readings[resource.plural]

    async def _list(self, resource: Resource) -> list[Object]:
        # Page by page from the storage: as one answer from the server's memory, which
        # resourceVersion=0 would give, all pods of a cluster would be too much for this one.
        keep, fields = kept_of(resource)
        query = {"fieldSelector": fields} if fields else {}
        return await self.api.select(resource, None, keep, **query)

    def refresh_soon(self) -> None:
        """Read again in the background what is old; a launch does not wait for it."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh_quietly())

    async def _refresh_quietly(self) -> None:
        with suppress(KubernetesError, EngineError):
            await self.refresh(_STALE_GPUS, slices=True)

    def _changed(self, change: Change) -> None:
        """A pod has changed."""
        if self._line is not None:
            for pod, there in ((change.old, False), (change.new, True)):
                if pod is not None and self.waits(pod):
                    self._note_in_line(self._line, _arrival(pod), there)
        self._tell(change)

    def _tell(self, change: Change) -> None:
        self._moved = time.monotonic()
        self._told(change)

    @staticmethod
    def _note_in_line(line: list[tuple[str, str]], who: tuple[str, str], there: bool) -> None:
        at = bisect_left(line, who)
        known = at < len(line) and line[at] == who
        if there and not known:
            line.insert(at, who)
        elif known and not there:
            del line[at]

    # -- what the watches know ---------------------------------------------------------------

    def pod(self, name: str) -> Object | None:
        """A pod as it is."""
        return self.pods.objects.get(name)

    def claims_of(self, names: set[str]) -> list[Object]:
        """Claims as they are."""
        if self.claims is None:
            return []
        known = self.claims.objects
        return [known[name] for name in sorted(names) if name in known]

    def is_own(self, obj: Object) -> bool:
        """Whether an object is of this server, or of one of those that this is for."""
        return self.everybody or label(obj, SERVER) == self.server

    def own_claims(self, server: str, prefix: str = "") -> dict[str, Object]:
        """A server's claims whose names begin so.

        Another server of the namespace can give a claim such a name, but not this label.
        """
        return {
            name: claim
            for name, claim in (self.claims.objects if self.claims is not None else {}).items()
            if name.startswith(prefix) and label(claim, SERVER) == server
        }

    def own_names(self, server: str, prefix: str) -> set[str]:
        """Names of a server's pods and claims that begin so."""
        pods = self.pods.objects.items()
        named = {
            name for name, pod in pods if name.startswith(prefix) and label(pod, SERVER) == server
        }
        return named | self.own_claims(server, prefix).keys()

    @property
    def queued_part(self) -> str:
        """Which part of a kernel waits for its share."""
        return "lease" if self.settings.style == "lease" else "kernel"

    def waits(self, pod: Object | None) -> bool:
        """Whether a pod waits for a share."""
        return waits(pod, self.queued_part)

    def waiting(self) -> list[str]:
        """Names of the pods that wait for a place, in the order of their creation.

        Other servers' are as they were read last.
        """
        return [name for _, name in sorted({*self._own_line(), *self.queue.others})]

    def _own_line(self) -> list[tuple[str, str]]:
        return sorted(_arrival(pod) for pod in self.pods.objects.values() if self.waits(pod))

    def place(self, name: str) -> QueuePosition:
        """A pod's place in that queue; the last one where it is not seen there yet.

        While it is asked for, others' places are read now and then.
        """
        if self.everybody:
            return self._place_of_all(name)
        self.queue.ask()
        waiting = self.waiting()
        position = waiting.index(name) + 1 if name in waiting else len(waiting) + 1
        return QueuePosition(position, max(len(waiting), position))

    def _place_of_all(self, name: str) -> QueuePosition:
        """The same where all who wait are watched: each is noted when it comes and when it goes."""
        if self._line is None:
            self._line = self._own_line()
        pod, many = self.pod(name), len(self._line)
        position = many + 1
        if pod is not None and self.waits(pod):
            position = bisect_left(self._line, _arrival(pod)) + 1
        return QueuePosition(position, max(many, position))


def _arrival(pod: Object) -> tuple[str, str]:
    """Where a pod that waits is in line, by time and name."""
    meta = pod["metadata"]
    return str(meta.get("creationTimestamp", "")), str(meta["name"])
