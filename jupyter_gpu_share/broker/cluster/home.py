"""The home of all users' kernels: one watch of the cluster, the registry, and the rules."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from ..._threads import in_thread, stopped, within
from ...allocations import QueuePosition
from ...engines.base import Connection, Report, Waiting
from ...engines.idle_shares import IdleShare
from ...engines.kubernetes import KubernetesEngine
from ...engines.kubernetes._cluster import Cluster, Object
from ...engines.kubernetes._fitting import why_not
from ...engines.kubernetes._kernel_objects import KernelObjects
from ...engines.kubernetes._names import annotation
from ...engines.kubernetes._objects import KernelPlan, Owner
from ...engines.kubernetes._parked import Parked, park
from ...engines.kubernetes._pods import address_of
from ...engines.kubernetes._snapshot import without
from ...engines.kubernetes._sweeper import Sweeper
from ...engines.kubernetes.api import Change, NotFound, ServerTrouble, TooManyRequests, Unreachable
from ...engines.user_limits import UserLimit
from ...errors import EngineError, GpuShareError
from ...idle import IdlePolicy
from ...sentences import say
from ...size import Size, SizePolicy
from ..events import Events
from ..idle import Promise
from .admin import Administration
from .admin_routes import admin_routes
from .kernel import Kernel
from .kernels import Registry
from .losses import read_losses, write_losses
from .owners import (
    Found,
    found_on,
    groups_of,
    is_brokered,
    key_of_owner,
    newest,
    words_of_promise,
)
from .page import Overview
from .presence import Process
from .program import ClusterBroker
from .queues import queue_for, read_queues
from .reclaims import Reclaims
from .routes import Desk, routes
from .rows import Phase, row_of
from .rules import Rules, Settings
from .ruling import Key, Wish
from .service import Route
from .sight import ClusterSight, Part
from .sizes import Sizes

__all__ = ["ClusterHome"]

_log = logging.getLogger(__name__)

#: Seconds between two tries to reach the API at the start.
_AGAIN = 3.0
#: Kernels whose state is read at once after a restart, and seconds that they have for it: what
#: takes longer, as its share is asked for anew, goes on while others are answered.
_AT_ONCE, _RESUMING = 32, 10.0
#: Seconds between two looks at what GPUs there are.
_GPUS = 60.0
#: Seconds between two looks whether a Hub that is away is back.
_HUB = 5.0
#: Seconds that changes of the queue are gathered before those who wait are told their places, so
#: many of them at a time: each that is told is a row for a user.
_GATHERED, _TOLD_AT_ONCE = 0.5, 50
#: Seconds after which who waits for a turn is told the place, and between two such words.
_TOLD_FIRST, _TOLD_AGAIN = 0.5, 10.0
#: Seconds that a kernel whose server is gone has to leave its GPU: its share is to be free soon.
_PARKING = 12.0
#: Seconds that a pod outlives what is kept of its server: the broker ends it long before.
_LONGER = 600.0


class ClusterHome:
    """See :class:`.service.Home`. For one event loop.

    Parameters
    ----------
    guard: called before each write to the cluster; raises where this process may write no more.

    Raises
    ------
    GpuShareError: a setting cannot be understood.
    """

    def __init__(
        self,
        broker: ClusterBroker,
        guard: Callable[[], None],
    ) -> None:
        self._broker = broker
        self.settings = KubernetesEngine(parent=broker)
        kept = broker.kept_after_stop
        # Of what is kept without a server only the broker hears, which ends it when its time is up.
        self.settings.watchdog = max(self.settings.watchdog, kept + _LONGER)
        self.cluster = Cluster(self.settings, self._changed, everybody=True)
        self.cluster.api.guard = guard
        self._queues = read_queues(broker.queues)
        placements = {size: each.placement for size, each in self.settings.profiles.items()}
        sight = ClusterSight(self.cluster, self._parts, placements)
        self.rules = Rules(
            Settings(
                folder=Path(broker.folder),
                limits=broker.read_limits(),
                kernels_per_user=broker.claims_per_user,
                sizes=Sizes(SizePolicy(parent=broker)),
                policy=IdlePolicy(parent=broker),
                patience=timedelta(seconds=broker.patience),
                metrics_by_user=broker.metrics_by_user,
            ),
            sight,
        )
        self.events = Events()
        self._lost = asyncio.Event()
        self.registry = Registry(
            self._make,
            self.events,
            self.rules,
            _Order(self.rules),
            kept=kept,
            heard=lambda: broker.callers.hub_back,
            callers=broker.callers,
            silence=broker.silence,
            instance=self.cluster.instance,
            parking=self._park if IdlePolicy(parent=broker).in_place else None,
            lost=self._lost.set,
        )
        kernels = _Kernels(self.registry)
        self.administration = Administration(self.rules, kernels)
        self._reclaims = Reclaims(self.rules, kernels)
        self._sweeper: Sweeper | None = None
        #: Pods that an earlier broker has left beside newer ones of the same kernels.
        self._spare: list[_Objects] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._moving: asyncio.Task[None] | None = None
        self._has_moved = False
        self._ready = False

    # -- the service -------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether it knows what runs in the cluster."""
        return self._ready

    def routes(self) -> Sequence[Route]:
        """Its routes, below the service's prefix."""
        own = routes(Desk(self.registry, self.events, self, self.settings))
        return [*own, *admin_routes(self.administration)]

    @property
    def overview(self) -> Overview:
        """What the page asks."""
        return _Overview(self)

    async def metrics(self) -> bytes:
        """See :meth:`.program.Served.metrics`."""
        if not self._ready:
            raise EngineError("The broker has just started and reads what runs in the cluster.")
        return await self.administration.metrics()

    async def open(self) -> None:
        """Get to know what runs, and begin to work. Waits for a cluster that is away.

        Raises
        ------
        GpuShareError
        """
        while True:
            try:
                await self.cluster.open()
                break
            except (Unreachable, ServerTrouble, TooManyRequests) as error:
                _log.warning("The broker waits for Kubernetes: %s", error)
                await asyncio.sleep(_AGAIN)
        await self.rules.open()
        ordered = self.cluster.backend.name == "kai" or bool(self.settings.kueue_queue)
        self.rules.turns.active = not (ordered or self._queues)
        await self._rebuild()
        self.rules.begin()
        self._reclaims.begin()
        self._sweeper = Sweeper(self.cluster, self._is_known, self._is_alive)
        await self._sweeper.start()
        for work in (
            self.rules.turns.follow(),
            self._reclaims.follow(),
            self._see_gpus(),
            self._ask_the_hub(),
            self._keep_losses(),
        ):
            self._tasks.append(asyncio.create_task(work))
        self._ready = True
        _log.info("The broker knows of %d kernels", len(self.registry))

    async def _rebuild(self) -> None:
        """Make the registry from the cluster."""
        pods = self.cluster.pods.objects.values()
        found, spare = newest(each for pod in pods if (each := found_on(pod)))
        for each in spare:
            _log.warning("Kernel %s has two pods; %s ends", each.key.kernel_id, each.name)
            objects = self._make(each.owner, each.plan, each.name)
            objects.made = True
            self._spare.append(objects)
            await objects.delete()
        promises = {each.key.text: each.promise for each in found if each.promise is not None}
        self.rules.idle.recall(promises, self.rules.clock())
        for begin in range(0, len(found), _AT_ONCE):
            kernels = [self._restore(each) for each in found[begin : begin + _AT_ONCE]]
            told = [asyncio.create_task(each.begun.wait()) for each in kernels]
            _, late = await asyncio.wait(told, timeout=_RESUMING)
            for task in late:
                task.cancel()
        now, folder = self.rules.clock(), self.rules.settings.folder
        for loss in await in_thread(read_losses, folder, now):
            self.registry.restore_loss(loss, now)

    def _restore(self, found: Found) -> Kernel:
        pod = self.cluster.pod(found.name) or {}
        ran = (pod.get("status") or {}).get("phase", "Pending") != "Pending"
        return self.registry.restore(
            found.key, found.attempt, found.plan, found.owner, found.groups, found.name, ran=ran
        )

    async def close(self) -> None:
        """Let go of everything. Kernels go on."""
        self._ready = False
        try:
            await stopped(*self._tasks, self._moving)
            if self._sweeper is not None:
                await self._sweeper.close()
            await self.registry.close()
            for objects in self._spare:
                await objects.close()
            with suppress(GpuShareError):
                await self.rules.save()
        finally:  # whoever waits for this may not wait for a cluster that is away
            await self.cluster.close()

    async def _see_gpus(self) -> None:
        while True:
            await asyncio.sleep(_GPUS)
            try:
                self.rules.see_gpus(await self.rules.sight.gpus())
            except GpuShareError as error:
                _log.info("What GPUs there are cannot be read: %s", error)

    async def _keep_losses(self) -> None:
        """Have the next broker know what the ends of kernels have cost."""
        while True:
            await self._lost.wait()
            self._lost.clear()
            losses = self.registry.losses(self.rules.clock())
            try:
                await in_thread(write_losses, self.rules.settings.folder, losses)
            except OSError as error:
                _log.error("What was lost cannot be kept: %s", error.strerror)
            await asyncio.sleep(_GATHERED)

    async def _ask_the_hub(self) -> None:
        """Find out that the Hub is back though nobody else asks it: silence counts again then."""
        callers = self._broker.callers
        while True:
            await asyncio.sleep(_HUB)
            if callers.hub_away:
                with suppress(GpuShareError):  # the broker's own is no user's
                    await callers.of(self._broker.hub.token)

    # -- what changes in the cluster ---------------------------------------------------------

    def _make(self, owner: Owner, plan: KernelPlan, name: str = "") -> _Objects:
        """Called by the registry."""
        key = key_of_owner(owner, plan.kernel_id)
        queue = queue_for(self._queues, key.user, groups_of(owner), plan.size)
        return _Objects(self.cluster, replace(owner, queue=queue), plan, name)

    async def _park(self, connection: Connection, before: str) -> Parked:
        """Called by the registry."""
        return await park(
            connection,
            instance=self.cluster.instance,
            before=before,
            vacate=True,
            watchdog=self.settings.watchdog,
            patience=_PARKING,
            context=self.cluster.zmq,
            ends=True,
        )

    def _changed(self, change: Change) -> None:
        obj = change.new or change.old
        kernel = self.registry.by_object(annotation(obj, "kernel-id"), obj or {})
        if kernel is not None:
            if change.old is None:
                kernel.objects.appeared(change.name)
            kernel.objects.look(change.old if change.new is None else None)
            self.registry.changed(kernel)
        if change.new is None:
            self.rules.turns.changed()  # something is free, perhaps
        waits = self.cluster.waits
        if waits(change.old) != waits(change.new):
            self._has_moved = True
            if self._moving is None or self._moving.done():
                self._moving = asyncio.create_task(self._queue_moved())

    async def _queue_moved(self) -> None:
        """Have those look who wait: each has another place, perhaps."""
        while self._has_moved:
            await asyncio.sleep(_GATHERED)
            self._has_moved = False
            waiting = [each for each in self.registry if _waits(each)]
            for number, kernel in enumerate(waiting, 1):
                if _waits(kernel):
                    kernel.objects.look()
                if number % _TOLD_AT_ONCE == 0:
                    await asyncio.sleep(_GATHERED)

    def _is_known(self, pod: Object) -> bool:
        """Whether a pod is of a kernel of the registry. Called by the sweeper."""
        return self.registry.by_object(annotation(pod, "kernel-id"), pod) is not None

    def _is_alive(self, pod: Object) -> bool:
        """Whether somebody looks after a pod that is of no kernel of the registry."""
        return not is_brokered(pod)  # what no broker has made is its server's

    # -- what rules see ----------------------------------------------------------------------

    def _parts(self) -> Mapping[str, Part]:
        """What each kernel has in the cluster, by its name among all users'."""
        found = {}
        for kernel in self.registry:
            objects = cast("KernelObjects", kernel.objects)
            only = None
            if kernel.up and objects.share is not None and objects.share.devices:
                # Its process is on a GPU already, and can go back to no other.
                only = frozenset(device.uuid for device in objects.share.devices)
            found[kernel.key.text] = Part(
                names=frozenset({objects.name} | objects.claim_names),
                only=only,
                resting=frozenset(objects.own_claims) if kernel.up else frozenset(),
            )
        return found

    # -- what routes see ---------------------------------------------------------------------

    @property
    def sharing(self) -> tuple[str | None, str | None]:
        """Sharing backend and style."""
        name = None if self.cluster.undecided else self.cluster.backend.name
        return name, self.settings.style

    async def machine(self) -> Mapping[str, Any]:
        """See :meth:`.Seen.machine`."""
        backend, style = self.sharing
        return {
            "backend": backend,
            "style": style,
            "place": f"{self.cluster.api.access}, namespace {self.cluster.namespace!r}",
            "paused": self.rules.paused,
            "gpus": [asdict(gpu) for gpu in await self.cluster.capacity()],
            "memory_to_come": list(self.settings.memory_to_come),
        }

    def user_limits(self, user: str, groups: frozenset[str]) -> Sequence[UserLimit]:
        """See :meth:`.Seen.user_limits`."""
        return self.rules.user_limits(user, groups)

    async def fits(
        self, key: Key, groups: frozenset[str], sizes: Sequence[Size]
    ) -> list[str | None]:
        """See :meth:`.Seen.fits`."""
        found = [self.rules.why_not(Wish(key, size, groups)) for size in sizes]
        if all(size.is_none or why is not None for size, why in zip(sizes, found, strict=True)):
            return found
        facts = await self.cluster.refresh()
        if (kernel := self.registry.get(key)) is not None:
            objects = cast("KernelObjects", kernel.objects)
            own = {objects.name} | objects.claim_names | objects.own_claims
            facts = without(facts, self.cluster.namespace, own)
        return [
            why if why is not None else await in_thread(why_not, self.cluster, size, facts)
            for size, why in zip(sizes, found, strict=True)
        ]

    def rounding(self, size: Size) -> str:
        """See :meth:`.Seen.rounding`."""
        if size.is_none:
            return ""
        return self.cluster.backend.render(size, self.cluster.facts_for(size)).note

    async def connection(self, kernel: Kernel) -> Connection:
        """See :meth:`.Seen.connection`."""
        return await kernel.objects.connection(kernel.address or "")

    async def hear_idle(
        self, process: Process, words: Mapping[str, IdleShare], now: datetime
    ) -> Mapping[str, Any]:
        """See :meth:`.Seen.hear_idle`."""
        own = {
            kernel_id: word
            for kernel_id, word in words.items()
            if (kernel := self.registry.get(Key(process.user, process.server, kernel_id)))
            and kernel.instance == process.instance
        }
        answer = await self._reclaims.hear(*process, own)
        return {"wanted": answer.wanted, "taken": answer.taken, "waiting": answer.waiting}

    def now(self) -> datetime:
        """The time, aware."""
        return self.rules.clock()


def _waits(kernel: Kernel) -> bool:
    return kernel.phase in (Phase.WAITING, Phase.TAKING) and kernel.busy


class _Objects(KernelObjects):
    """See :class:`.kernel.WatchedObjects`."""

    @property
    def address(self) -> str:
        """Of the pod; empty before it has one."""
        return address_of(self.cluster.pod(self.name) or {})

    async def recall(self) -> bool:
        """See :meth:`.WatchedObjects.recall`. What the size was rounded to is known again, too."""
        runs = await super().recall()
        if runs and not self.plan.size.is_none:
            with suppress(GpuShareError):  # its GPU may have gone; then nothing is said of it
                self.rendered = await self.cluster.render(self.plan.size)
        return runs


class _Order:
    """See :class:`.ruling.Order`."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    @property
    def active(self) -> bool:
        return self._rules.turns.active

    async def wait(self, key: Key, report: Report) -> None:
        turns = self._rules.turns
        if turns.sees(key.text):
            return
        pause = _TOLD_FIRST
        while True:
            with suppress(asyncio.TimeoutError):
                await within(pause, self._rules.admitted(key))
                return
            pause = _TOLD_AGAIN
            place = turns.place(key.text)
            if place is not None and place[1] > 1:
                words = say("waits-for-turn")
                report(Waiting(QueuePosition(*place), words))

    def kept_back(self, key: Key) -> None:
        self._rules.kept_back(key)


class _Kernels:
    """The registry as the rules see it. See :class:`.seeing.Kernels`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def rows(self) -> Iterator[tuple[Key, Mapping[str, Any]]]:
        for kernel in self._registry:
            yield kernel.key, kernel.told or row_of(self._registry.view(kernel))

    async def give_back(self, key: Key) -> None:
        kernel = self._registry.get(key)
        if kernel is not None:
            await self._registry.give_back_by_rule(kernel)

    async def remember(self, key: Key, promise: Promise | None) -> None:
        kernel = self._registry.get(key)
        if kernel is not None and kernel.objects.there:
            with suppress(NotFound):
                await kernel.objects.annotate(words_of_promise(promise))

    def end(self, key: Key, words: str) -> bool:
        kernel = self._registry.get(key)
        if kernel is None or kernel.phase.over:
            return False
        self._registry.end_by_hand(kernel, words)
        return True


class _Overview:
    """See :class:`.page.Overview`."""

    def __init__(self, home: ClusterHome) -> None:
        self._home = home

    async def machine(self) -> Mapping[str, Any]:
        return {"engine": "kubernetes", **await self._home.machine()}

    async def everything(self) -> Sequence[Mapping[str, Any]]:
        return self._home.administration.everything()

    async def usage(self) -> Sequence[Mapping[str, Any]]:
        return await self._home.administration.usage()

    async def end(self, user: str, server: str, kernel_id: str) -> None:
        self._home.administration.end(Key(user, server, kernel_id), "The page")

    async def ask_back(self, user: str, server: str, kernel_id: str) -> None:
        self._home.administration.ask_back(Key(user, server, kernel_id), "The page")

    async def pause(self, paused: bool) -> None:
        await self._home.administration.pause(paused, "The page")
