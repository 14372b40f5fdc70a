"""The kernels of all users: who has which, what becomes of each, and what their servers are told.

The registry is the only writer of what is here. It lives in memory alone: a broker that begins
anew makes it from the cluster.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from ..._threads import to_the_end
from ...allocations import Share
from ...engines.base import Connection, Exit, Report, Starting, Waiting
from ...engines.kubernetes._objects import KernelPlan, Owner
from ...engines.kubernetes._parked import Parked
from ...errors import GpuShareError, KernelStartError
from ...sentences import paragraph, say, words_of
from ...size import Size
from .kernel import Kernel, Unfinished
from .lives import CameBack, Lives, stopped
from .owners import asked_of, owner_of
from .presence import Process
from .refusals import Refused
from .rows import Failure, Phase
from .ruling import Key, Wish

__all__ = ["Registry"]

_log = logging.getLogger(__name__)

#: Seconds that an answer waits for what the cluster was asked to write: of a start, whose row tells
#: the rest, and of an end.
_BEGUN, _PATIENCE = 1.0, 5.0
#: Seconds after which a start says that it waits for the end of the last pod.
_SOON = 1.0
#: Rows of one user, those of ended kernels among them.
_MOST_ROWS = 500


#: Has a kernel's agent take it off its GPU: by its connection, and the process whose it was.
Parking = Callable[[Connection, str], Awaitable[Parked]]


class Registry(Lives):
    """All kernels, and what their servers ask of them. For one event loop. See :class:`.Table`.

    Parameters
    ----------
    instance: this process, as agents know it.
    parking: None where no kernel may keep its variables in place.
    """

    def __init__(
        self, *args: Any, instance: str = "", parking: Parking | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._instance = instance
        self._parking = parking

    async def start(
        self, process: Process, groups: frozenset[str], attempt: str, plan: KernelPlan
    ) -> tuple[Kernel, bool]:
        """Start a kernel; whether it is a new start. Its objects are written when this returns, or
        are about to be where the cluster takes long: what becomes of that, its row tells.

        The same attempt again is the same start, whatever became of the first answer.

        Raises
        ------
        Refused: a limit, or somebody else's kernel has this id.
        """
        key = Key(process.user, process.server, plan.kernel_id)
        kernel = self._kernels.get(key)
        if kernel is not None and kernel.attempt == attempt and kernel.instance == process.instance:
            await self._begun(kernel)
            return kernel, False
        if not self.presence.alive(process):
            raise Refused("This process has said that it ends; it starts nothing any more.")
        if (whose := next(iter(self._ids.get(plan.kernel_id, {})), key)) != key:
            _log.warning("%s asked for a kernel id of %s", process.user, whose.user)
            raise Refused(say("id-of-another-server"))
        if kernel is not None and not kernel.phase.over:
            self._check_free(kernel, process)
        if kernel is None and len(self.of_user(key.user)) >= _MOST_ROWS:
            raise Refused(say("too-many-kernels"))
        since = None
        if kernel is not None and kernel.failed is not None and kernel.failed.kind == "keys":
            since = kernel.asked  # the same start, of which an earlier broker had the keys
        asked = since or datetime.now(timezone.utc)
        # No await from here to where it is in the registry: two at once never pass a limit.
        wish = Wish(key, plan.size, groups, since)
        refusal = self._rules.reserve(wish, anew=kernel is not None)
        if refusal is not None:
            raise Refused(refusal)
        if kernel is not None:
            self._retire(kernel, replaced=True)
        try:
            objects = self._make(owner_of(process, attempt, groups, asked), plan)
        except BaseException:
            self._rules.drop(key)
            raise
        new = Kernel(key, attempt, plan, process.instance, objects, groups, asked)
        self._put(new)
        new.plan = replace(plan, keys=None)
        self._begin(new, self._start(new))
        await self._begun(new)
        return new, True

    def _check_free(self, kernel: Kernel, process: Process) -> None:
        """Refuse what another process has that is heard of.

        Raises
        ------
        Refused
        """
        other = kernel.instance != process.instance
        if other and self.presence.holds(kernel.process):
            raise Refused(say("runs-in-other-process"))

    async def _begun(self, kernel: Kernel) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(kernel.begun.wait(), _BEGUN)

    async def _start(self, kernel: Kernel) -> None:
        await self._left(kernel)
        await kernel.objects.make(held_back=self._order.active)
        kernel.begun.set()
        await self._come_up(kernel)

    async def _come_up(self, kernel: Kernel) -> None:
        def report(news: Waiting | Starting) -> None:
            self._report(kernel, news)

        await self._in_turn(kernel, report)
        kernel.address = await kernel.objects.come_up(report)
        self._up(kernel)

    async def _unless_it_ends(self, kernel: Kernel, work: Coroutine[Any, Any, None]) -> None:
        """Wait for something that nobody does any more when the pod has ended.

        Raises
        ------
        KernelStartError: it has.
        """
        doing = asyncio.ensure_future(work)
        ended = asyncio.ensure_future(kernel.objects.ended())
        try:
            await asyncio.wait({doing, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise KernelStartError(paragraph(say("has-ended"), ended.result().reason))
            await doing
        finally:
            for task in (doing, ended):
                task.cancel()
            await asyncio.gather(doing, ended, return_exceptions=True)

    def _up(self, kernel: Kernel) -> None:
        kernel.up = True
        kernel.phase, kernel.reason, kernel.queue = Phase.READY, "", None
        if kernel.objects.lent:
            kernel.phase = Phase.RELEASED
            self._rules.gave_back(kernel.key)
        else:
            self._rules.holds(kernel.key)

    async def _left(self, kernel: Kernel) -> None:
        """Wait until the cluster has told that earlier pods of the kernel are to end."""
        for earlier in list(self._leaving.get(kernel.key, ())):
            ending = earlier.settling
            assert ending is not None  # it is set where it was taken out of the registry
            await asyncio.wait({ending}, timeout=_SOON)
            if not ending.done():
                kernel.reason = say("last-pod-not-known")
                self.changed(kernel)
                await asyncio.wait({ending})

    def restore(
        self,
        key: Key,
        attempt: str,
        plan: KernelPlan,
        owner: Owner,
        groups: frozenset[str],
        name: str,
        *,
        ran: bool = False,
    ) -> Kernel:
        """Go on with a kernel that is in the cluster; its process has some time to come back.

        Parameters
        ----------
        name: of its pod.
        ran: its container runs, or did: if it has ended, that is no start that failed.
        """
        objects = self._make(owner, plan, name)
        asked = asked_of(owner)
        kernel = Kernel(key, attempt, plan, owner.instance, objects, groups, asked)
        self._put(kernel)
        self._rules.reserve(Wish(key, plan.size, groups, asked))  # what is there is there
        self.presence.expect(kernel.process)
        kernel.up = ran
        objects.look()
        self._begin(kernel, self._resume(kernel))
        return kernel

    async def _resume(self, kernel: Kernel) -> None:
        try:
            up = await self._recalled(kernel)
        except Unfinished as error:
            # The same start is asked for anew, with new keys.
            self._failed(kernel, Failure("keys", words_of(error)), lives_on=False)
            return
        if not up and kernel.objects.held_back:
            self._order.kept_back(kernel.key)
        kernel.begun.set()
        if kernel.phase.over:
            return
        if up:
            kernel.address = kernel.objects.address
            self._up(kernel)
        else:
            kernel.up = False
            await self._come_up(kernel)

    async def _recalled(self, kernel: Kernel) -> bool:
        """Find out how far a kernel is."""
        return await self._patiently(kernel, kernel.objects.recall, "broker-reads-on")

    async def adopt(self, process: Process, kernel_id: str, attempt: str, before: str) -> Kernel:
        """Have a kernel of an earlier process of this very server be this process's.

        Raises
        ------
        NoKernel
        Refused: it has ended, or another process that is alive has it.
        EngineError
        """
        kernel = self.of_server(process, kernel_id)
        async with kernel.lock:
            if kernel.instance == process.instance and kernel.attempt == attempt:
                return kernel
            ended = kernel.phase.over and not kernel.objects.lost
            if self._kernels.get(kernel.key) is not kernel or ended or not kernel.up:
                raise Refused(say("not-to-be-taken-over"))
            if kernel.instance != before:
                raise Refused(say("taken-by-other-process"))
            self._check_free(kernel, process)
            if kernel.busy:
                raise Refused(say("share-being-taken"))
            return await to_the_end(self._adopt(kernel, process, attempt))

    async def _adopt(self, kernel: Kernel, process: Process, attempt: str) -> Kernel:
        owner = owner_of(process, attempt, kernel.groups)
        objects = self._make(owner, kernel.plan, kernel.objects.name)
        new = Kernel(kernel.key, attempt, kernel.plan, process.instance, objects, kernel.groups)
        new.phase, new.vacated = Phase.STARTING, kernel.vacated
        new.was_lent = kernel.objects.lent or kernel.was_lent
        objects.also_of(kernel.objects)
        # From here on it hears of its pod, on which it is written whose it is now.
        self._still(kernel)
        self._put(new)
        try:
            # The keys are in what it answers, and are let go of here.
            connection = await objects.adopt(kernel.instance, lambda news: self._report(new, news))
        except BaseException:
            if self._kernels.get(new.key) is new:
                # It may be written all the same, as answers are lost: it is lost to nobody else.
                kernel.objects.also_of(objects)
                self._put(kernel)
                kernel.watching = self._spawn(self._watch(kernel))
            raise
        if self._kernels.get(new.key) is not new:
            raise Refused(say("ended-meanwhile"))
        new.address, new.up = connection.ip, True
        self._spawn(kernel.objects.close())
        new.begun.set()
        new.watching = self._spawn(self._watch(new))
        self.changed(new)
        return new

    async def _parked(self, kernel: Kernel) -> tuple[Kernel, str]:
        """See :class:`.Lives`. The kernel is this process's until a server takes it over."""
        if self._parking is None:
            return kernel, say("nothing-kept-in-place")
        before = kernel.instance
        process = Process(kernel.key.user, kernel.key.server, self._instance)

        async def adopt() -> Kernel:
            if self._kernels.get(kernel.key) is not kernel or kernel.phase.over:
                raise Refused(say("has-ended"))
            return await self._adopt(kernel, process, kernel.attempt)

        try:
            new = await self._while_stopped(kernel, adopt)
        except CameBack:
            raise
        except GpuShareError as error:
            return kernel, words_of(error)

        async def connection() -> Connection:
            return await new.objects.connection(new.address or "")

        async def give_back() -> None:
            await new.objects.recall()  # what holds the share
            await to_the_end(new.objects.give_back())

        async with new.lock:
            new.reason = say("leaves-its-gpu")
            try:
                found = await self._while_stopped(new, connection)
                parked = await self._parking(found, before)
                if not parked.vacated:
                    return new, parked.why
                await self._while_stopped(new, give_back)
            except GpuShareError as error:
                return new, words_of(error)
            new.reason = ""
        return new, ""

    def settle(self, process: Process, kernel_id: str, attempt: str) -> Kernel:
        """The agent of a kernel that was taken over has answered: have its share.

        Raises
        ------
        NoKernel, Refused
        """
        kernel = self.own(process, kernel_id, attempt)
        if kernel.phase is Phase.RELEASED and not kernel.busy:
            if kernel.objects.detachable:
                # It has settled; that it waits for its share was forgotten by an earlier broker.
                return self.take(process, kernel_id, attempt)
            kernel.phase = Phase.STARTING
        if kernel.phase is Phase.STARTING and kernel.up and not kernel.busy:
            if kernel.was_lent:
                self._check_limit(kernel, kernel.plan.size)
            self._begin(kernel, self._settle(kernel))
        return kernel

    async def _settle(self, kernel: Kernel) -> None:
        def report(news: Waiting | Starting) -> None:
            self._report(kernel, news)

        if kernel.was_lent:
            await self._in_turn(kernel, report)
        settling = self._patiently(
            kernel, lambda: kernel.objects.settle(report), "share-looked-for"
        )
        await self._unless_it_ends(kernel, settling)
        kernel.was_lent = False
        self._up(kernel)

    async def release(self, process: Process, kernel_id: str, attempt: str) -> Kernel:
        """Give the share of a kernel back that lives on.

        Raises
        ------
        NoKernel, Refused
        EngineError: it is still held, for certain.
        """
        kernel = self.own(process, kernel_id, attempt)
        await self._release_in_turn(kernel)
        return kernel

    async def _release_in_turn(self, kernel: Kernel) -> None:
        self._check_quiet(kernel)  # or it would wait here for as long as the kernel does
        async with kernel.lock:
            await self._release(kernel)

    def take(self, process: Process, kernel_id: str, attempt: str) -> Kernel:
        """Take the share again, which may have to be waited for. Idempotent.

        Raises
        ------
        NoKernel, Refused: a limit, or it has ended.
        """
        kernel = self.own(process, kernel_id, attempt)
        if kernel.phase in (Phase.TAKING, Phase.READY):
            return kernel
        self._check_quiet(kernel)
        if kernel.lock.locked():
            raise Refused(say("share-being-changed"))
        self._check_limit(kernel, kernel.plan.size)
        kernel.phase, kernel.failed, kernel.vacated = Phase.TAKING, None, False
        self._begin(kernel, self._take(kernel), lives_on=True)
        return kernel

    def _check_limit(self, kernel: Kernel, size: Size) -> None:
        """Reserve a share for a kernel in place of what it has.

        Raises
        ------
        Refused
        """
        refusal = self._rules.reserve(Wish(kernel.key, size, kernel.groups))
        if refusal is not None:
            raise Refused(refusal)

    async def _take(self, kernel: Kernel) -> None:
        def report(news: Waiting | Starting) -> None:
            self._report(kernel, news)

        async with kernel.lock:
            await self._in_turn(kernel, report)
            await kernel.objects.take_back(report)
        self._up(kernel)

    async def _in_turn(self, kernel: Kernel, report: Report) -> None:
        """Wait until it is the kernel's turn to be seen by the scheduler, or until it has ended."""
        if not kernel.plan.size.is_none:
            await self._unless_it_ends(kernel, self._order.wait(kernel.key, report))

    async def withdraw(self, process: Process, kernel_id: str, attempt: str) -> Kernel:
        """Give up waiting for the share again. Idempotent.

        Raises
        ------
        NoKernel, Refused
        """
        kernel = self.own(process, kernel_id, attempt)
        if kernel.phase is Phase.TAKING:
            await stopped(kernel.work)
            if kernel.phase is Phase.TAKING:
                kernel.phase, kernel.reason, kernel.queue = Phase.RELEASED, "", None
                self._rules.gave_back(kernel.key)
            self.changed(kernel)
        return kernel

    async def planned(self, kernel: Kernel, size: Size) -> tuple[Share, bool] | None:
        """What a change of the size would give; None: it is not possible now, or not allowed."""
        if kernel.phase.over or kernel.busy or not kernel.up:
            return None
        if self._rules.why_not(Wish(kernel.key, size, kernel.groups)) is not None:
            return None
        return await kernel.objects.planned(size)

    async def change(
        self, process: Process, kernel_id: str, attempt: str, size: Size
    ) -> tuple[Kernel, Share]:
        """Hold another size, or have the next share be of it.

        Raises
        ------
        NoKernel, Refused
        EngineError: it holds what it held.
        """
        kernel = self.own(process, kernel_id, attempt)
        self._check_quiet(kernel)
        async with kernel.lock:
            self._check_quiet(kernel)
            if not kernel.objects.lent:
                self._check_limit(kernel, size)
            try:
                share = await to_the_end(kernel.objects.change(size))
            except BaseException:
                if not kernel.objects.lent and not kernel.phase.over:
                    self._rules.holds(kernel.key, kernel.plan.size)
                raise
            kernel.plan = replace(kernel.plan, size=size)
            if not kernel.objects.lent:
                self._rules.holds(kernel.key, size)
        self.changed(kernel)
        return kernel, share

    async def note_path(
        self, process: Process, kernel_id: str, attempt: str, path: str | None
    ) -> Kernel:
        """A kernel's notebook has another path now.

        Raises
        ------
        NoKernel, Refused, EngineError
        """
        kernel = self.own(process, kernel_id, attempt)
        await kernel.objects.note_path(path)
        kernel.plan = replace(kernel.plan, path=path)
        self.changed(kernel)
        return kernel

    async def end(self, process: Process, kernel_id: str, attempt: str) -> bool:
        """End a kernel and all that it has; whether that is done. Idempotent.

        Raises
        ------
        Refused: another process that is alive has it.
        """
        key = Key(process.user, process.server, kernel_id)
        kernel = self._kernels.get(key)
        if kernel is not None and kernel.attempt == attempt:
            if not kernel.phase.over:
                self._check_free(kernel, process)
            self._retire(kernel)
        for leaving in list(self._leaving.get(key, ())):
            if leaving.attempt == attempt and leaving.settling is not None:
                await asyncio.wait({leaving.settling}, timeout=_PATIENCE)
        return all(each.attempt != attempt for each in self._leaving.get(key, ()))

    def hear_groups(self, process: Process, groups: frozenset[str]) -> None:
        """The Hub's word about the groups of a server's user: limits go by the last one."""
        for kernel in self._servers.get((process.user, process.server), {}).values():
            kernel.groups = groups

    def hear_idle(self, process: Process, vacated: Collection[str]) -> None:
        """A process has named its idle kernels.

        Parameters
        ----------
        vacated: ids of those of which nothing is on the GPU, by its word.
        """
        for kernel in self._of(process):
            kernel.vacated = kernel.key.kernel_id in vacated

    def end_by_hand(self, kernel: Kernel, words: str) -> None:
        """An administrator ends a kernel; ``words`` say so to its user."""
        self._lose(kernel, words, Exit(-9, words))

    async def give_back_by_hand(self, kernel: Kernel) -> None:
        """An administrator's rule takes the share of an idle kernel, which lives on if it can.

        Raises
        ------
        Refused, EngineError
        """
        self._check_quiet(kernel)
        if kernel.objects.detachable and kernel.vacated:
            await self._release_in_turn(kernel)
        else:
            words = paragraph(say("did-not-leave-in-time"), say("run-notebook-again"))
            self._lose(kernel, words, Exit(-9, words))
