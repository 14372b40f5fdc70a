"""The kernels of all users: who has which, what becomes of each, and what their servers are told.

The registry is the only writer of what is here. It lives in memory alone: a broker that begins
anew makes it from the cluster.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..._threads import to_the_end
from ...allocations import Share
from ...engines.base import Exit, Starting, Waiting
from ...engines.kubernetes._objects import KernelPlan, Owner
from ...errors import EngineError, GpuShareError, NoGpuError
from ...size import Size
from ..events import Events
from .kernel import Kernel, Making, Unfinished
from .presence import Fate, Presence, Process, fate_of
from .refusals import NoKernel, Refused
from .rows import Failure, Phase, View, failure_of, for_caller, row_of, same
from .ruling import Key, Ruling, Wish

__all__ = ["Registry"]

_log = logging.getLogger(__name__)

#: Seconds that an answer waits for what the cluster was asked to write.
_PATIENCE = 5.0
#: Seconds that the pod of a server that is gone has to end: with those in which the server may come
#: back, its share is free within half a minute.
_END_GRACE = 8
#: Rows of one server, those of ended kernels among them.
_MOST_ROWS = 500


class Registry:
    """All kernels. For one event loop; :meth:`close` ends everything it has begun.

    Parameters
    ----------
    rules: what the administrator decides.
    kept: seconds that is kept what a server that is gone has left.
    """

    def __init__(
        self,
        make: Making,
        events: Events,
        rules: Ruling,
        *,
        kept: float,
        presence: Presence | None = None,
    ) -> None:
        self._make = make
        self._events = events
        self._rules = rules
        self._kept = kept
        self.presence = presence or Presence(self._gone)
        self._kernels: dict[Key, Kernel] = {}
        #: Whose is which id: no two users' kernels have the same.
        self._ids: dict[str, Key] = {}
        #: By server, so that nobody's rows are looked for among everybody's.
        self._servers: dict[tuple[str, str], dict[str, Kernel]] = {}
        #: Those that are on their way out, by key.
        self._leaving: dict[Key, set[Kernel]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- what is there -----------------------------------------------------------------------

    def __iter__(self) -> Iterator[Kernel]:
        return iter(list(self._kernels.values()))

    def __len__(self) -> int:
        return len(self._kernels)

    def get(self, key: Key) -> Kernel | None:
        """A kernel; None where there is none."""
        return self._kernels.get(key)

    def rows(self, user: str, server: str, instance: str = "") -> list[dict[str, Any]]:
        """All kernels of one server, as its process ``instance`` is told of them."""
        return [
            for_caller(self._row(kernel), instance)
            for kernel in self._servers.get((user, server), {}).values()
        ]

    def of_user(self, user: str) -> list[Kernel]:
        """All kernels of a user, over all of their servers."""
        return [
            kernel
            for (whose, _), kernels in self._servers.items()
            if whose == user
            for kernel in kernels.values()
        ]

    def knows(self, process: Process, kernel_id: str, attempt: str) -> bool:
        """Whether this very start was asked for before."""
        kernel = self._kernels.get(Key(process.user, process.server, kernel_id))
        return kernel is not None and kernel.attempt == attempt

    def row(self, kernel: Kernel, instance: str) -> dict[str, Any]:
        """One kernel, as the process ``instance`` of its server is told of it."""
        return for_caller(self._row(kernel), instance)

    def own(self, process: Process, kernel_id: str, attempt: str) -> Kernel:
        """A kernel of this very process.

        Raises
        ------
        NoKernel: there is none, or none of this server. Of others' it is not even told.
        Refused: another process has it, or it is another start of it.
        """
        kernel = self.of_server(process, kernel_id)
        if kernel.instance != process.instance:
            raise Refused("Another process of your server has this kernel.")
        if kernel.attempt != attempt:
            raise Refused("The kernel was started again since; ask for its row.")
        return kernel

    def of_server(self, process: Process, kernel_id: str) -> Kernel:
        """A kernel of this server, whichever of its processes has it.

        Raises
        ------
        NoKernel
        """
        kernel = self._kernels.get(Key(process.user, process.server, kernel_id))
        if kernel is None:
            raise NoKernel("Your server has no such kernel.")
        return kernel

    def view(self, kernel: Kernel) -> View:
        """All that is told of a kernel."""
        objects = kernel.objects
        return View(
            kernel_id=kernel.key.kernel_id,
            attempt=kernel.attempt,
            name=objects.name,
            size=kernel.plan.size,
            kernel_name=kernel.plan.kernel_name,
            path=kernel.plan.path,
            phase=kernel.phase,
            instance=kernel.instance,
            alive=self.presence.alive(kernel.process),
            reason=kernel.reason,
            queue=kernel.queue,
            share=objects.share,
            note=objects.note,
            address=kernel.address,
            detachable=objects.detachable,
            unanswered=objects.unanswered,
            lost=objects.lost,
            removal=objects.removal,
            ended=kernel.ended,
            failed=kernel.failed,
            lost_work=kernel.lost_work,
        )

    def _row(self, kernel: Kernel) -> dict[str, Any]:
        return row_of(self.view(kernel))

    # -- starts ------------------------------------------------------------------------------

    async def start(
        self, process: Process, groups: frozenset[str], attempt: str, plan: KernelPlan
    ) -> tuple[Kernel, bool]:
        """Start a kernel; whether it is a new start. Its objects are written when this returns.

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
        if (whose := self._ids.get(plan.kernel_id, key)) != key:
            _log.warning("%s asked for a kernel id of %s", process.user, whose.user)
            raise Refused("Another server has a kernel with this id; start a new one.")
        if kernel is not None and not kernel.phase.over:
            self._check_free(kernel, process)
        servers = self._servers.get((key.user, key.server), {})
        if kernel is None and len(servers) >= _MOST_ROWS:
            raise Refused("Your server has too many kernels; end some of them.")
        # No await from here to where it is in the registry: two at once never pass a limit.
        refusal = self._rules.reserve(Wish(key, plan.size, groups))
        if refusal is not None:
            raise Refused(refusal)
        if kernel is not None:
            self._retire(kernel, replaced=True)
        owner = Owner.of_hub(key.user, key.server, process.instance)
        new = Kernel(key, attempt, plan, process.instance, self._make(owner, plan), groups)
        self._put(new)
        new.plan = replace(plan, keys=None)
        self._begin(new, self._start(new))
        await self._begun(new)
        return new, True

    def _check_free(self, kernel: Kernel, process: Process) -> None:
        """Refuse what another process has that is alive.

        Raises
        ------
        Refused
        """
        other = kernel.instance != process.instance
        if other and self.presence.alive(kernel.process):
            raise Refused("Another process of your server runs this kernel; end it there first.")

    async def _begun(self, kernel: Kernel) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(kernel.begun.wait(), _PATIENCE)

    async def _start(self, kernel: Kernel) -> None:
        await self._left(kernel)
        await kernel.objects.make()
        kernel.begun.set()
        kernel.address = await kernel.objects.come_up(lambda news: self._report(kernel, news))
        self._up(kernel)

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
            if earlier.objects.unanswered:
                kernel.reason = "The cluster has not told yet what became of the last pod."
                self.changed(kernel)
            await earlier.objects.settled()

    def _report(self, kernel: Kernel, news: Waiting | Starting) -> None:
        if isinstance(news, Waiting):
            if kernel.phase is not Phase.TAKING:
                kernel.phase = Phase.WAITING
            kernel.reason, kernel.queue = news.reason, news.queue
        else:
            if kernel.phase is not Phase.TAKING:
                kernel.phase = Phase.STARTING
            kernel.reason, kernel.queue = news.notice, None
        self.changed(kernel)

    def _begin(self, kernel: Kernel, work: Coroutine[Any, Any, None]) -> None:
        """Do what takes long for a kernel. How it ends is told by the kernel's row."""
        kernel.work = self._spawn(self._worked(kernel, work))
        if kernel.watching is None:
            kernel.watching = self._spawn(self._watch(kernel))
        self.changed(kernel)

    async def _worked(self, kernel: Kernel, work: Coroutine[Any, Any, None]) -> None:
        up = kernel.up
        try:
            await work
        except GpuShareError as error:
            self._failed(kernel, failure_of(error), up=up)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("A kernel met an error of the broker's own")
            words = "The broker met an error of its own; its log says more. Try again."
            self._failed(kernel, Failure("engine", words), up=up)
        finally:
            kernel.begun.set()
            self.changed(kernel)

    def _failed(self, kernel: Kernel, failure: Failure, *, up: bool) -> None:
        if kernel.phase.over:
            return
        kernel.failed, kernel.queue, kernel.reason = failure, None, failure.detail
        if up and kernel.objects.there:
            # It lives on without the share that it could not have.
            lent = kernel.objects.lent
            kernel.phase = Phase.RELEASED if lent else Phase.READY
            if lent:
                self._rules.gave_back(kernel.key)
            return
        kernel.phase = Phase.FAILED
        self._rules.drop(kernel.key)
        self._spawn(self._delete(kernel))

    async def _watch(self, kernel: Kernel) -> None:
        """Note the end of a kernel's pod by others, and that it comes."""
        removal = asyncio.ensure_future(kernel.objects.removed())
        ended = asyncio.ensure_future(kernel.objects.ended())
        try:
            await asyncio.wait({removal, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                self.changed(kernel)
            how = await ended
        finally:
            for task in (removal, ended):
                task.cancel()
            await asyncio.gather(removal, ended, return_exceptions=True)
        if kernel.busy and not kernel.up:
            return  # the start that is under way tells it
        if not kernel.phase.over:
            kernel.phase, kernel.ended, kernel.queue = Phase.ENDED, how, None
            kernel.reason = how.reason
            self._rules.drop(kernel.key)
            self.changed(kernel)

    # -- after a restart of the broker ---------------------------------------------------------

    def restore(
        self,
        key: Key,
        attempt: str,
        plan: KernelPlan,
        owner: Owner,
        groups: frozenset[str],
        name: str,
    ) -> Kernel:
        """Go on with a kernel that is in the cluster; its process has some time to come back."""
        objects = self._make(owner, plan, name)
        kernel = Kernel(key, attempt, plan, owner.instance, objects, groups)
        self._put(kernel)
        self._rules.reserve(Wish(key, plan.size, groups))  # what is there is there
        self.presence.expect(kernel.process)
        kernel.begun.set()
        self._begin(kernel, self._resume(kernel))
        return kernel

    async def _resume(self, kernel: Kernel) -> None:
        try:
            kernel.address = await kernel.objects.resume(lambda news: self._report(kernel, news))
        except Unfinished as error:
            kernel.failed = Failure("keys", str(error))
            kernel.phase, kernel.reason = Phase.FAILED, str(error)
            self._rules.drop(kernel.key)
            await kernel.objects.delete()
            return
        self._up(kernel)

    # -- what a server asks of a kernel that is up ---------------------------------------------

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
                raise Refused("The kernel has ended, or had not come up: it cannot be taken over.")
            if kernel.instance != before:
                raise Refused("Another process of your server has taken this kernel over.")
            self._check_free(kernel, process)
            if kernel.busy:
                raise Refused("The kernel's share is being taken; try again in a moment.")
            return await to_the_end(self._adopt(kernel, process, attempt))

    async def _adopt(self, kernel: Kernel, process: Process, attempt: str) -> Kernel:
        owner = Owner.of_hub(process.user, process.server, process.instance)
        objects = self._make(owner, kernel.plan, kernel.objects.name)
        new = Kernel(kernel.key, attempt, kernel.plan, process.instance, objects, kernel.groups)
        new.phase, new.vacated = Phase.STARTING, kernel.vacated
        new.was_lent = kernel.objects.lent
        # From here on it hears of its pod, on which it is written whose it is now.
        self._still(kernel)
        self._put(new)
        try:
            # The keys are in what it answers, and are let go of here.
            connection = await objects.adopt(kernel.instance, lambda news: self._report(new, news))
        except BaseException:
            if self._kernels.get(new.key) is new:
                self._put(kernel)
                kernel.watching = self._spawn(self._watch(kernel))
            raise
        if self._kernels.get(new.key) is not new:
            raise Refused("The kernel was ended meanwhile.")
        new.address, new.up = connection.ip, True
        self._spawn(kernel.objects.close())
        new.begun.set()
        new.watching = self._spawn(self._watch(new))
        self.changed(new)
        return new

    def settle(self, process: Process, kernel_id: str, attempt: str) -> Kernel:
        """The agent of a kernel that was taken over has answered: have its share.

        Raises
        ------
        NoKernel, Refused
        """
        kernel = self.own(process, kernel_id, attempt)
        if kernel.phase is Phase.STARTING and kernel.up and not kernel.busy:
            if kernel.was_lent:
                self._check_limit(kernel, kernel.plan.size)
            self._begin(kernel, self._settle(kernel))
        return kernel

    async def _settle(self, kernel: Kernel) -> None:
        await kernel.objects.settle(lambda news: self._report(kernel, news))
        self._up(kernel)

    async def release(self, process: Process, kernel_id: str, attempt: str) -> Kernel:
        """Give the share of a kernel back that lives on.

        Raises
        ------
        NoKernel, Refused
        EngineError: it is still held, for certain.
        """
        kernel = self.own(process, kernel_id, attempt)
        async with kernel.lock:
            await self._release(kernel)
        return kernel

    async def _release(self, kernel: Kernel) -> None:
        self._check_quiet(kernel)
        if not kernel.objects.detachable:
            raise Refused("The kernel's share is part of its pod; it cannot be given back.")
        await to_the_end(kernel.objects.give_back())
        if not kernel.phase.over:
            kernel.phase, kernel.reason, kernel.failed = Phase.RELEASED, "", None
            self._rules.gave_back(kernel.key)
        self.changed(kernel)

    def _check_quiet(self, kernel: Kernel) -> None:
        """Refuse what cannot be done while the kernel starts, waits or has ended.

        Raises
        ------
        Refused
        """
        if kernel.phase.over:
            raise Refused("The kernel has ended.")
        if kernel.busy or not kernel.up:
            raise Refused("The kernel starts, or waits for its share; try again then.")

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
            raise Refused("The kernel's share is being changed; try again in a moment.")
        self._check_limit(kernel, kernel.plan.size)
        kernel.phase, kernel.failed, kernel.vacated = Phase.TAKING, None, False
        self._begin(kernel, self._take(kernel))
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
        async with kernel.lock:
            await kernel.objects.take_back(lambda news: self._report(kernel, news))
        self._up(kernel)

    async def withdraw(self, process: Process, kernel_id: str, attempt: str) -> Kernel:
        """Give up waiting for the share again. Idempotent.

        Raises
        ------
        NoKernel, Refused
        """
        kernel = self.own(process, kernel_id, attempt)
        if kernel.phase is Phase.TAKING:
            await _stopped(kernel.work)
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
        """An administrator's rule takes the share of a kernel that lives on.

        Raises
        ------
        Refused, EngineError
        """
        async with kernel.lock:
            await self._release(kernel)

    # -- the end of a server's process -------------------------------------------------------

    def _of(self, process: Process) -> list[Kernel]:
        servers = self._servers.get((process.user, process.server), {})
        return [each for each in servers.values() if each.instance == process.instance]

    def _gone(self, process: Process) -> None:
        """A process is there no more: nobody holds a share for it."""
        kernels = self._of(process)
        if kernels:
            _log.info("A server's process of %s is gone; it had %d", process.user, len(kernels))
        for kernel in kernels:
            self._spawn(self._orphaned(kernel))

    async def _orphaned(self, kernel: Kernel) -> None:
        if kernel.phase is Phase.TAKING:  # nobody waits for it any more
            await _stopped(kernel.work)
            if kernel.phase is Phase.TAKING:
                kernel.phase, kernel.reason, kernel.queue = Phase.RELEASED, "", None
                self._rules.gave_back(kernel.key)
        async with kernel.lock:
            if self._kernels.get(kernel.key) is not kernel or kernel.lost_work:
                return
            if self.presence.alive(kernel.process):
                return
            objects = kernel.objects
            fate = fate_of(
                up=kernel.up,
                lent=objects.lent,
                ended=kernel.phase.over,
                detachable=objects.detachable and not kernel.busy,
                vacated=kernel.vacated,
            )
            if fate is Fate.GIVE_BACK:
                try:
                    await self._release(kernel)
                    fate = Fate.KEEP
                except GpuShareError as error:
                    _log.warning("A share could not be given back: %s", error)
                    fate = Fate.END
        if fate is Fate.DELETE:
            self._retire(kernel)
        elif fate is Fate.KEEP:
            self._keep(kernel)
        else:
            words = (
                "Its server stopped while the kernel had its share: the kernel was ended, and its "
                "variables are gone. Run the notebook again."
            )
            self._lose(kernel, words, Exit(-15, words))

    def _keep(self, kernel: Kernel) -> None:
        """Keep a kernel without its share for the next process of its server, for a while."""

        def over() -> None:
            there = self._kernels.get(kernel.key) is kernel and not kernel.phase.over
            if there and not self.presence.alive(kernel.process):
                hours = f"{self._kept / 3600:.3g} h"
                words = f"Its server did not come back for {hours}: the kernel was ended."
                self._lose(kernel, words, Exit(-15, words))

        self._once_more(kernel, over)
        self.changed(kernel)

    def _lose(self, kernel: Kernel, words: str, how: Exit) -> None:
        """End a kernel with all it has in memory, and keep the row that says so."""
        if self._kernels.get(kernel.key) is not kernel:
            return
        self._still(kernel)
        kernel.phase, kernel.ended, kernel.queue = Phase.ENDED, how, None
        kernel.reason = kernel.lost_work = words
        self._rules.drop(kernel.key)

        def forget() -> None:
            if self._kernels.get(kernel.key) is kernel:
                self._retire(kernel)

        self._once_more(kernel, forget)
        self._spawn(self._delete(kernel, _END_GRACE))
        self.changed(kernel)

    def _once_more(self, kernel: Kernel, then: Callable[[], None]) -> None:
        if kernel.later is not None:
            kernel.later.cancel()
        kernel.later = asyncio.get_running_loop().call_later(self._kept, then)

    # -- the end of kernels --------------------------------------------------------------------

    def _retire(self, kernel: Kernel, *, replaced: bool = False) -> None:
        """Take a kernel out of the registry, and delete what it has.

        Parameters
        ----------
        replaced: what is reserved under its key is another start's already.
        """
        if self._kernels.get(kernel.key) is not kernel:
            return
        self._still(kernel)
        self._drop(kernel)
        if not replaced:
            self._rules.drop(kernel.key)
        self._leaving.setdefault(kernel.key, set()).add(kernel)
        kernel.settling = self._spawn(self._end(kernel))
        kernel.begun.set()
        gone = {"kernel_id": kernel.key.kernel_id, "attempt": kernel.attempt}
        self._events.publish((kernel.key.user, kernel.key.server), "gone", gone)

    def _still(self, kernel: Kernel) -> None:
        """End what goes on for a kernel, but for writes to the cluster."""
        for task in (kernel.work, kernel.watching):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        if kernel.later is not None:
            kernel.later.cancel()
            kernel.later = None

    async def _end(self, kernel: Kernel) -> None:
        await _stopped(kernel.work)
        try:
            await kernel.objects.delete()
            await kernel.objects.settled()
        finally:
            leaving = self._leaving.get(kernel.key, set())
            leaving.discard(kernel)
            if not leaving:
                self._leaving.pop(kernel.key, None)

    async def _delete(self, kernel: Kernel, grace: int = 1) -> None:
        """Delete what a kernel has whose row is still told."""
        if kernel.work is not asyncio.current_task():
            await _stopped(kernel.work)
        await kernel.objects.delete(grace=grace)
        self.changed(kernel)

    # -- the registry itself -------------------------------------------------------------------

    def _put(self, kernel: Kernel) -> None:
        key = kernel.key
        self._kernels[key] = kernel
        self._ids[key.kernel_id] = key
        self._servers.setdefault((key.user, key.server), {})[key.kernel_id] = kernel

    def _drop(self, kernel: Kernel) -> None:
        key = kernel.key
        del self._kernels[key]
        self._ids.pop(key.kernel_id, None)
        rows = self._servers[(key.user, key.server)]
        del rows[key.kernel_id]
        if not rows:
            del self._servers[(key.user, key.server)]

    def changed(self, kernel: Kernel) -> None:
        """Something of a kernel may have changed: its server is told if there is anything new."""
        if self._kernels.get(kernel.key) is not kernel:
            return
        row = self._row(kernel)
        if same(row, kernel.told):
            return
        kernel.told = row
        self._events.publish((kernel.key.user, kernel.key.server), "row", {"row": row})
        if row["unanswered"] and (kernel.settling is None or kernel.settling.done()):
            kernel.settling = self._spawn(self._when_settled(kernel))

    async def _when_settled(self, kernel: Kernel) -> None:
        await kernel.objects.settled()
        self.changed(kernel)

    def _spawn(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._spent)
        return task

    def _spent(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, EngineError | NoGpuError):
                _log.warning("What was begun for a kernel came to nothing: %s", error)
            else:
                _log.error("What was begun for a kernel came to nothing", exc_info=error)

    async def close(self) -> None:
        """End all work. The kernels stay as they are: another broker goes on with them."""
        self.presence.close()
        for kernel in self._kernels.values():
            if kernel.later is not None:
                kernel.later.cancel()
        while self._tasks:
            tasks = set(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        everything = [*self._kernels.values(), *(k for s in self._leaving.values() for k in s)]
        await asyncio.gather(*(kernel.objects.close() for kernel in everything))


async def _stopped(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task and wait for its end."""
    if task is None or task is asyncio.current_task():
        return
    task.cancel()
    await asyncio.wait({task})
